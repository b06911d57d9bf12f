"""How long a search goes on."""

import time

from kopt.core.settings import number, whole


class RunEnded(Exception):  # noqa: N818 - no error: the run is over
    """The search ends here, for the reason that it carries; what was found so far is judged."""


class TargetReached(RunEnded):
    """The search ends here, because a file is all that was asked for."""


class Limits:
    """Time and trials of a run, also of what an earlier run with the same work directory has spent.

    What was made earlier counts with the seconds that it took then, so that a run that was killed and started again
    tries what an uninterrupted one tries.

    Args:
        seconds: most that the search may take; `None`: no limit.
        trials: most models and files that it may look at beside the files of the model as it is; likewise.
    """

    def __init__(self, seconds: float | None = None, trials: int | None = None):
        self._most_seconds = None if seconds is None else number("seconds", seconds, least=0.0, open_below=True)
        self._most_trials = None if trials is None else whole("trials", trials)
        self._started, self._earlier, self._begun = time.monotonic(), 0.0, 0

    def begin(self, *, counts: bool = True) -> None:
        """Begin a trial.

        Args:
            counts: as one of the trials; seconds count in any case.

        Raises:
            RunEnded: there is no time, or no trial, left for it.
        """
        if counts and self._most_trials is not None and self._begun >= self._most_trials:
            raise RunEnded(f"{self._most_trials} trials were made, all that `trials` allows.")
        left = self.seconds_left()
        if left is not None and left <= 0:
            raise RunEnded(f"The {self._most_seconds:g} seconds that `seconds` allows were used up.")
        self._begun += counts

    @property
    def seconds_of_earlier_runs(self) -> float:
        """Seconds that earlier runs took for what this one has kept."""
        return self._earlier

    def charge(self, seconds: float) -> None:
        """Count seconds of an earlier run."""
        self._earlier += seconds

    def seconds_left(self) -> float | None:
        """Return the seconds that are left; `None` without a limit."""
        if self._most_seconds is None:
            return None
        return self._most_seconds - self._earlier - (time.monotonic() - self._started)
