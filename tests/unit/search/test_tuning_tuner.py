"""keras-tuner's tuner with trials that are files: a desk that is a function stands for the files."""

import keras_tuner
import pytest

from kopt.core.errors import OutputError
from kopt.search.training import Training
from kopt.search.trials.limits import RunEnded
from kopt.search.tuning import oracles
from kopt.search.tuning.space import RecipeSpace, SpaceConfig
from kopt.search.tuning.tuner import ArtifactTuner

FLOAT, INT8 = "tflite-float32", "tflite-int8"


class Desk:
    """A file is worth the more, the more steps made it."""

    def __init__(self, after=None):
        self.worked, self._after = [], after

    def work(self, number, recipe, why):
        self.worked.append((number, recipe.name, why))
        if self._after is not None:
            self._after(len(self.worked))
        return {"score": 0.5 - 0.01 * len(recipe.steps), "drop": 0.0, "size": 1.0}


def tuner(place, desk, name="random", most=4, epochs=4):
    config = SpaceConfig((FLOAT, INT8), ("recover",), Training(epochs=epochs), by_rounds=name == "hyperband")
    space = RecipeSpace(config)
    oracle = oracles.oracle(
        name, space.hyperparameters(), axes=("drop", "size"), max_trials=most, epochs=epochs, seed=0
    )
    return ArtifactTuner(oracle, space, place / "tuning", desk, lambda number: f"trial {number}")


def test_each_trial_is_a_recipe_with_its_reason(tmp_path, capsys):
    desk = Desk()
    tuner(tmp_path, desk).go()
    assert [number for number, _, _ in desk.worked] == [0, 1, 2, 3]
    assert [why for _, _, why in desk.worked] == ["trial 0", "trial 1", "trial 2", "trial 3"]
    assert len({name for _, name, _ in desk.worked}) == 4
    assert capsys.readouterr().out == ""


def test_a_second_one_goes_on_and_runs_nothing_again(tmp_path):
    tuner(tmp_path, Desk(), most=3).go()
    desk = Desk()
    tuner(tmp_path, desk, most=5).go()
    assert [number for number, _, _ in desk.worked] == [3, 4]


def test_one_that_was_killed_before_its_first_trial_begins(tmp_path):
    tuner(tmp_path, Desk())
    desk = Desk()
    tuner(tmp_path, desk, most=1).go()
    assert [number for number, _, _ in desk.worked] == [0]


@pytest.mark.parametrize("error", [RunEnded("no time"), OutputError("no room"), ZeroDivisionError("a mistake")])
def test_what_is_raised_ends_the_search_and_the_trial_is_run_again(tmp_path, error):
    def breaks(count):
        if count == 2:
            raise error

    with pytest.raises(type(error), match=str(error)):
        tuner(tmp_path, Desk(breaks)).go()
    desk = Desk()
    tuner(tmp_path, desk).go()
    assert [number for number, _, _ in desk.worked] == [1, 2, 3]


def test_hyperband_goes_on_with_the_models_of_the_round_before(tmp_path):
    """Of 4 epochs and a factor of 3 the first bracket gives ceil(4 / 3) = 2 epochs to 5 recipes, 4 to the best 2."""
    desk = Desk()
    tuner(tmp_path, desk, "hyperband", most=7).go()
    names = [name for _, name, _ in desk.worked]
    assert all("recover-4" not in name for name in names)
    assert names[5].startswith("recover-2")
    for name in names[5:]:  # two epochs were trained, two more follow
        rate = name.partition("+")[0]
        assert name == f"{rate}+{rate}+{name.rpartition('+')[2]}"
        assert f"{rate}+{name.rpartition('+')[2]}" in names[:5]


def test_rounds_follow_the_trials_that_they_come_from(tmp_path):
    """A trial of the third round, of trials 5 and 2 before it."""
    one = tuner(tmp_path, Desk(), "hyperband")

    def trial(number, epochs, before=None):
        hyperparameters = keras_tuner.HyperParameters()
        hyperparameters.values = {"tuner/epochs": epochs, **({"tuner/trial_id": before} if before else {})}
        found = keras_tuner.engine.trial.Trial(hyperparameters, trial_id=number)
        one.oracle.trials[number] = found
        return found

    trial("2", 1)
    trial("5", 3, "2")
    assert one._rounds(trial("7", 9, "5")) == (1, 3, 9)
    bare = keras_tuner.engine.trial.Trial(keras_tuner.HyperParameters(), trial_id="8")
    assert one._rounds(bare) == ()
