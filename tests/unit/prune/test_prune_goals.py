"""Goals, the widths that lead to them, and the search that measures; by hand, without a model."""

import numpy as np
import pytest

from kopt.core.errors import ConfigError
from kopt.prune.channel_removal.goals import Goal, Path, first_below, reach
from kopt.prune.channel_removal.latency_search import MOST_PROBES, TOLERANCE, Point, fastest_enough
from kopt.prune.channel_removal.savings import per_saving
from kopt.prune.channel_removal.widths import Candidate


def test_a_path_ends_at_the_smallest_widths():
    candidates = [Candidate(np.array([0.1, 0.2, 0.9]), 1, 1), Candidate(np.array([0.8, 0.7, 0.6]), 1, 2)]
    path = Path(candidates, "global")
    assert [path.at(step) for step in (0, 2, 3)] == [[3, 3], [1, 3], [1, 2]]
    assert path.at(path.last) == [1, 2]
    assert path.keeping(0.5) == path.at(3)
    path = Path(candidates, "layer")
    assert path.at(0) == [3, 3]
    assert path.at(path.last) == [1, 2]
    assert path.keeping(0.7) == [2, 2]


def test_goals_in_words():
    assert Goal.of(None, keep=0.5, target_macs=None) == Goal("keep", 0.5, "layer")
    assert Goal.of(None, target_macs=12_000).text == "target_macs=12,000"
    assert Goal.of(None, target_latency_ms=12.5) == Goal("target_latency_ms", 12.5, "global")
    assert Goal.of("layer", target_latency=0.5).text == "target_latency=0.5"
    with pytest.raises(ConfigError, match=r"Give one of `keep`, `b`\. Received: none"):
        Goal.of(None, keep=None, b=None)


def test_the_first_step_that_is_cheap_enough():
    assert first_below(lambda step: 10 - step, 4, 0, 10) == 6
    assert reach(Goal("target_macs", 0.4, "global"), 10, lambda step: 10 - step, 10, "macs") == 6
    assert reach(Goal("target_macs", 5, "global"), 10, lambda step: 10 - step, 10, "macs") == 5


def test_importance_per_saving():
    assert per_saving(np.array([1.0, 3.0]), 4).tolist() == [0.25, 0.75]
    assert np.isinf(per_saving(np.array([1.0, 0.0]), 0)).all()


class Clock:
    """Answers the share of the latency of a step, and remembers what was asked."""

    def __init__(self, share, last=1000):
        self.share, self.last, self.asked = share, last, []

    def macs(self, step):
        return 10**6 * (self.last - step) + 10**6

    def measure(self, step):
        self.asked.append(step)
        return self.share(step)

    def search(self, target):
        least = Point(self.last, self.macs(self.last), self.share(self.last))
        return fastest_enough(target, Point(0, self.macs(0), 1.0), least, self.macs, self.measure)


def test_a_latency_that_goes_with_the_arithmetic_is_met_at_the_first_try():
    clock = Clock(lambda step: 0.2 + 0.8 * (1000 - step) / 1000)
    found = clock.search(0.5)
    # 2.5 % below the target: 0.4875 = 0.2 + 0.8 (1000 - step) / 1000, at step 640.6.
    assert clock.asked == [641]
    assert (found.step, found.share) == (641, pytest.approx(0.4872))


@pytest.mark.parametrize("target", [0.25, 0.5, 0.9])
def test_a_latency_that_does_not_is_met_within_the_tolerance(target):
    for curve in (lambda left: left**3, np.sqrt, lambda left: np.tanh(3 * left) / np.tanh(3)):
        clock = Clock(lambda step, curve=curve: 0.1 + 0.9 * float(curve((1000 - step) / 1000)))
        found = clock.search(target)
        assert (1 - TOLERANCE) * target <= found.share <= target
        assert len(clock.asked) <= MOST_PROBES


def test_noise_does_not_make_a_model_that_was_too_slow_the_answer():
    generator = np.random.default_rng(0)
    for _ in range(50):
        seen = {}
        clock = Clock(lambda step, seen=seen: seen.setdefault(step, (1.05 - step / 1000) * generator.normal(1, 0.05)))
        found = clock.search(0.5)
        assert found.share <= 0.5
        assert found.share == max(share for share in seen.values() if share <= 0.5) or len(clock.asked) > 1
        assert len(clock.asked) <= MOST_PROBES


def test_where_widths_are_few_the_widest_that_is_fast_enough_is_found():
    # Two widths between the ends, at 0.7 and 0.4 of the latency.
    clock = Clock(lambda step: (1.0, 0.7, 0.4, 0.2)[min(step // 300, 3)], last=900)
    clock.macs = lambda step: (100, 70, 40, 20)[min(step // 300, 3)]
    assert clock.search(0.6).share == 0.4
    assert len(clock.asked) <= 2
    assert clock.search(0.3).share == 0.2
