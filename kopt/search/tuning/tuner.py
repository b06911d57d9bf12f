"""keras-tuner's tuner, whose trials are files."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial

from kopt.core.files import atomic_write
from kopt.search.tuning.desk import Desk
from kopt.search.tuning.internals import quiet, wait_for_chief
from kopt.search.tuning.space import RecipeSpace

SINGLE = "tuner0"  # what keras-tuner calls the only one
_PAUSE_SECONDS = 0.2
_Why = Callable[[int], str]


class ArtifactTuner(BaseTuner):
    """A tuner of which a trial is a recipe, made into a file that is judged.

    Args:
        oracle: that proposes.
        space: of recipes.
        place: directory of keras-tuner's files; what they hold is gone on from.
        desk: where trials are run.
        why: what speaks for a trial, by its number.
        worker: name of this process.
    """

    def __init__(self, oracle: Any, space: RecipeSpace, place: Path, desk: Desk, why: _Why, worker: str = SINGLE):
        self._desk, self._why, self._waited = desk, why, False
        self._path = place / f"{worker}.json"
        if (place / "oracle.json").is_file():
            self.save()
        else:
            self._path.unlink(missing_ok=True)
        with quiet():
            super().__init__(oracle, space, str(place.parent), place.name)
        self.save()
        wait_for_chief(self)

    def save(self) -> None:
        """Write the file by which keras-tuner knows that it should go on; an oracle keeps its own."""
        atomic_write(self._path, "{}", overwrite=True)

    def run_trial(self, trial: Trial, *args: Any, **settings: Any) -> dict[str, float]:
        """Make and judge a file; return what the oracle is told."""
        with _not_contained():
            recipe = self.hypermodel.recipe(trial.hyperparameters, self._rounds(trial))
            number = int(trial.trial_id)
            return self._desk.work(number, recipe, self._why(number))

    def on_trial_begin(self, trial: Trial) -> None:
        """Forget that there was nothing to do."""
        self._waited = False

    def pre_create_trial(self) -> None:
        """Wait a little before asking again where there was nothing to do, which keras-tuner does without a pause."""
        if self._waited:
            time.sleep(_PAUSE_SECONDS)
        self._waited = True

    def go(self) -> None:
        """Run trials until the oracle says that there are no more.

        Raises:
            RunEnded: the time was used up in the middle of a trial.
            OutputError: nothing more can be written.
        """
        try:
            self.search()
        except _Stop as stop:
            raise (stop.__cause__ or stop) from None

    def _rounds(self, trial: Trial) -> tuple[int, ...]:
        """Return the epochs after each round that a trial of Hyperband has been through, its own last."""
        values = trial.hyperparameters.values
        if "tuner/epochs" not in values:
            return ()
        found = [int(values["tuner/epochs"])]
        while "tuner/trial_id" in values:
            values = self.oracle.get_trial(values["tuner/trial_id"]).hyperparameters.values
            found.insert(0, int(values["tuner/epochs"]))
        return tuple(found)


class _Stop(keras_tuner.errors.FatalError):
    """Ends the search, with what was raised as its cause."""


@contextlib.contextmanager
def _not_contained() -> Iterator[None]:
    """Let what is raised end the search: files that cannot be made are outcomes already, and the rest must be seen."""
    try:
        yield
    except Exception as error:
        raise _Stop(str(error)) from error
