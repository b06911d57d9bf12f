"""Models on the way to a file, each made once, in a child process, and kept for every recipe that begins alike.

```
workdir/
  supplies-<key>/            model, examples and settings, as child processes read them
  models/<steps>-<key>/      recipe.json, log.txt, model.keras, and made.json once it is whole
```
"""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from kopt.core.child_processes import ending, environment
from kopt.core.errors import ConfigError
from kopt.core.files import atomic_write, remove_leftovers, sha256, writing_to
from kopt.core.recipe_records import steps_name
from kopt.core.technique_records import Step
from kopt.search.catalog import TRAINING
from kopt.search.made import FAILURE, LOG, RECIPE, RECORD, Job, MadeModel
from kopt.search.recipes import needs

_TAIL_LINES = 15


@dataclasses.dataclass(frozen=True)
class NotMade:
    """Why there is no model.

    Attributes:
        reason: first line, then the end of what was printed.
        out_of_time: it was ended because the time of the whole run was used up.
    """

    reason: str
    out_of_time: bool = False


@dataclasses.dataclass(frozen=True)
class Made:
    """A model on disk.

    Attributes:
        path: of the `.keras` file.
        record: of the last step.
        seconds: that its steps took, all of them, also in earlier runs.
    """

    path: Path
    record: MadeModel
    seconds: float


class Workshop:
    """Makes models by steps.

    Args:
        workdir: of the run.
        supplies: directory that child processes read.
        identity: all that a model depends on beside its steps.
        lessons: what trained ones depend on in addition.
        trial_seconds: most that one child process may take.
        command: what to run; its argument is the path of a `Job`.
    """

    def __init__(
        self,
        workdir: Path,
        supplies: Path,
        identity: Mapping[str, str],
        lessons: Mapping[str, str],
        *,
        trial_seconds: float | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "kopt.search.trial_worker"),
    ):
        self._workdir, self._supplies, self._command = workdir, supplies, command
        self._identity, self.lessons = dict(identity), dict(lessons)
        self._trial_seconds = trial_seconds

    def directory(self, steps: tuple[Step, ...]) -> Path:
        """Return where the model of `steps` lives."""
        identity = {**self._identity, **(self.lessons if TRAINING in needs(steps) else {})}
        text = json.dumps([identity, [step.to_dict() for step in steps]], sort_keys=True)
        return self._workdir / "models" / f"{steps_name(steps)}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def path(self, steps: tuple[Step, ...]) -> Path:
        """Return where the file of the model of `steps` lies once it is made."""
        return self.directory(steps) / MadeModel.file_name()

    def finished(self, steps: tuple[Step, ...]) -> Made | None:
        """Return the model of `steps` if it is made and whole, else `None`."""
        directory = self.directory(steps)
        path = self.path(steps)
        try:
            record = MadeModel.from_json((directory / RECORD).read_text())
        except (FileNotFoundError, ConfigError):
            return None
        if not path.is_file() or sha256(path) != record.sha256:
            return None
        before = self.finished(steps[:-1]) if len(steps) > 1 else None
        return Made(path, record, record.seconds + (before.seconds if before else 0.0))

    def make(self, steps: tuple[Step, ...], seconds_left: float | None = None) -> Made | NotMade:
        """Return the model of `steps`, of which those that are not finished are made in a child process."""
        finished = self.finished(steps)
        if finished is not None:
            return finished
        done = next((count for count in range(len(steps) - 1, 0, -1) if self.finished(steps[:count])), 0)
        targets = [self.directory(steps[:count]) for count in range(done + 1, len(steps) + 1)]
        for target in targets:
            _clear(target)
        source = self.path(steps[:done]) if done else None
        job = Job(str(self._supplies), steps, str(source or ""), tuple(map(str, targets)))
        atomic_write(targets[-1] / RECIPE, job.to_json() + "\n", overwrite=True)
        not_made = self._run(targets[-1], seconds_left)
        if not_made is not None:
            return not_made
        finished = self.finished(steps)
        return finished or NotMade("The child process ended well and left no model.")

    def _run(self, directory: Path, seconds_left: float | None) -> NotMade | None:
        limits = [limit for limit in (self._trial_seconds, seconds_left) if limit is not None]
        with open(directory / LOG, "w") as log:
            process = subprocess.Popen(
                [*self._command, str(directory / RECIPE)],
                stdin=subprocess.PIPE,  # the child ends when it is closed
                stdout=log,
                stderr=log,
                env=environment(),
            )
            try:
                code = process.wait(min(limits, default=None))
            except subprocess.TimeoutExpired:
                return self._timed_out(seconds_left)
            finally:
                process.kill()
                process.wait()
                assert process.stdin is not None
                process.stdin.close()
        return _why(directory, code) if code else None

    def _timed_out(self, seconds_left: float | None) -> NotMade:
        own = self._trial_seconds
        if own is None or (seconds_left is not None and seconds_left < own):
            return NotMade("The time of the run was used up.", out_of_time=True)
        return NotMade(f"It took more than {own:g} s and was ended; `Training.trial_seconds` sets the limit.")


def _why(directory: Path, code: int) -> NotMade:
    failure = directory / FAILURE
    if failure.is_file():
        return NotMade(failure.read_text())
    printed = (directory / LOG).read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:]
    cause = ending(code)
    memory = ", most often for want of memory" if cause == "SIGKILL" else ""
    return NotMade("\n".join((f"Its process died ({cause}{memory}); log: {directory / LOG}", *printed)))


def _clear(directory: Path) -> None:
    with writing_to(directory):
        if directory.is_dir():
            remove_leftovers(directory)
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
