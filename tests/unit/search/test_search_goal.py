"""When a search may stop: a file has the target, and neither few examples nor noise can undo it."""

import dataclasses
import types

import numpy as np
import pytest
from search_cases import BASELINE, candidate, judgement

from kopt.core.records.measurements import Evaluation
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.recipes import Recipe
from kopt.search.judging import outcomes
from kopt.search.judging.files import Files
from kopt.search.judging.outcomes import Outcomes
from kopt.search.judging.ranking import rank, surely_reached
from kopt.search.trials.records import Trials


def surely(budget, latency_ms=1.0, size=1000, verdict="inside"):
    one = candidate("a", 0.945, latency_ms, size, judgement=judgement(0.95, 0.945, 0.0, 0.009, verdict))
    (ranked,), _ = rank((one,), BASELINE, budget)
    return surely_reached(ranked, BASELINE, budget, 5000)


def test_times_have_two_percent_to_spare_and_sizes_are_exact():
    """The model as given takes 10 ms and 5,000 bytes."""
    assert surely(Budget(0.01, "size", target=5.0))
    assert not surely(Budget(0.01, "size", target=5.01))
    assert surely(Budget(0.01, target=9.8))
    assert not surely(Budget(0.01, target=9.9))


@pytest.mark.parametrize("undecided", ["estimate", "outside"])
def test_a_drop_that_so_many_examples_cannot_tell_does_not_end_a_search(undecided):
    assert not surely(Budget(0.01, "size", target=2.0, undecided=undecided), verdict="undecided")


class Costs:
    def __init__(self):
        self.measured = []

    def measure_all(self, candidates):
        self.measured += [one.name for one in candidates]
        return {"baseline": BASELINE.measurement, **{one.name: one.measurement for one in candidates}}


def files(budget, directory):
    """Return what judges 1,000 examples, of which the model as given answers 950 right."""
    trials = Trials(directory, {"model": "m"})
    trials.finish_baseline(Evaluation("m", "Keras", 1000, {"accuracy": 0.95}))
    examiner = types.SimpleNamespace(metrics=("accuracy",), classes=None)
    found = Files(None, {}, examiner, budget, None, trials, Costs(), 5000)
    outcomes.save(trials.outcomes_path(), right(950))
    return found


def right(count):
    scores = np.zeros(1000)
    scores[:count] = 1.0
    return Outcomes(count / 1000, 1000, scores)


def shown(judge, count, **numbers):
    one = dataclasses.replace(candidate("a", count / 1000, **numbers), name="tflite-float32")
    path = judge.trials.outcomes_path(Recipe.of(one))
    path.parent.mkdir(parents=True)
    outcomes.save(path, right(count))
    return one


def test_a_file_with_the_target_says_so(tmp_path):
    """1,000 examples of which none differs: the drop is at most 0.28 points, see `test_search_judging`."""
    judge = files(Budget(0.01, target={"latency": 5.0, "size": 4.0}), tmp_path)
    assert judge.reached(shown(judge, 950)) == (
        "tflite-float32 reached the target, 5.0x in latency, 4.0x in size, and is surely inside the budget: the search "
        "ended."
    )
    assert judge.costs.measured == ["tflite-float32"]


def test_only_files_that_may_have_it_are_timed(tmp_path):
    judge = files(Budget(0.01, target={"latency": 5.0, "size": 4.0}), tmp_path)
    assert judge.reached(shown(judge, 950, size=2000)) == ""  # 2.5 times smaller
    assert judge.reached(dataclasses.replace(shown_again(judge, 935))) == ""  # it loses 1.5 points
    assert judge.costs.measured == []
    assert judge.reached(dataclasses.replace(shown_again(judge, 950), measurement=BASELINE.measurement)) == ""
    assert judge.costs.measured == ["tflite-float32"]


def shown_again(judge, count):
    one = dataclasses.replace(candidate("a", count / 1000), name="tflite-float32")
    outcomes.save(judge.trials.outcomes_path(Recipe.of(one)), right(count))
    return one


def test_without_a_target_nothing_is_timed(tmp_path):
    judge = files(Budget(0.01), tmp_path)
    assert judge.reached(shown(judge, 950)) == ""
    assert judge.costs.measured == []
