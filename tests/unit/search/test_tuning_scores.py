"""What files are worth to a tuner, by arithmetic."""

import math

import pytest
from search_cases import BASELINE, candidate

from kopt.core.records.candidates import Candidate, ExportConfig
from kopt.core.records.search.budget import Budget
from kopt.search.judging.ranking import rank
from kopt.search.tuning.scores import NO_FILE, metrics, score

# The model as given: accuracy 0.95, 10 ms, 5000 bytes.
REFERENCE = 5000


def worth(one, budget):
    (ranked,), _ = rank((one,), BASELINE, budget)
    return score(ranked, BASELINE, budget, REFERENCE)


def test_inside_it_is_the_fourth_root_of_the_ratio_squashed():
    """1 ms of 10 ms: x = 0.1 ** 0.25 = 0.5623, and x / (1 + x) = 0.3599. As costly as the model as given: a half."""
    assert worth(candidate("a", 0.95, latency_ms=1.0), Budget(0.01)) == pytest.approx(0.3599, abs=1e-4)
    assert worth(candidate("a", 0.95, latency_ms=10.0), Budget(0.01)) == pytest.approx(0.5)


def test_of_several_objectives_the_geometric_mean_counts():
    """Ratios 0.1 and 0.4: their mean is 0.2, whose fourth root is 0.6687."""
    found = worth(candidate("a", 0.95, latency_ms=1.0, size=2000), Budget(0.01, ("latency", "size")))
    assert found == pytest.approx(0.6687 / 1.6687, abs=1e-4)


def test_outside_it_is_one_and_the_share_by_which_it_misses():
    """It keeps 0.90 where 0.94 is needed: 0.04 / 0.94 = 0.04255, squashed 0.04082."""
    assert worth(candidate("a", 0.90), Budget(0.01)) == pytest.approx(1.04082, abs=1e-5)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("drop", [0.0101, 0.05, 0.95])
def test_whatever_is_outside_is_worse_than_whatever_is_inside(factor, drop):
    inside = worth(candidate("a", 0.945, latency_ms=10 * factor), Budget(0.01))
    outside = worth(candidate("b", 0.95 - drop, latency_ms=1e-6), Budget(0.01))
    assert 0 < inside < 1 < outside <= 2 < NO_FILE


def test_what_cannot_be_known_is_outside_and_nothing_is_infinite():
    assert worth(candidate("a", 0.95), Budget(0.01, "memory")) == 2.0
    assert worth(candidate("a", 0.95), Budget(0.01, constraints=("peak_memory_bytes<=1000",))) == 2.0


def test_metrics_are_the_axes_of_a_front():
    budget = Budget(0.1, ("latency", "size"))
    (ranked,), _ = rank((candidate("a", 0.90, latency_ms=2.5, size=1000),), BASELINE, budget)
    found = metrics(ranked, BASELINE, budget, REFERENCE)
    assert found == pytest.approx({"score": found["score"], "drop": 0.05, "latency": 0.25, "size": 0.2})
    assert all(map(math.isfinite, found.values()))


def test_without_a_file_there_is_the_score_alone():
    failed = Candidate("a", ExportConfig(), "failed", reason="no")
    assert metrics(failed, BASELINE, Budget(), REFERENCE) == {"score": NO_FILE}
