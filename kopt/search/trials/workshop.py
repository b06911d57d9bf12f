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
from collections.abc import Collection, Mapping
from pathlib import Path

from kopt.core.child_processes import ending
from kopt.core.errors import ConfigError, OutputError
from kopt.core.files import atomic_write, remove_leftovers, sha256, writing_to
from kopt.core.records.search.recipes import steps_name
from kopt.core.records.search.techniques import Step
from kopt.search.techniques.catalog import TRAINING
from kopt.search.techniques.recipes import needs
from kopt.search.trials.made import FAILURE, LOG, NO_ROOM, RECIPE, RECORD, Job, MadeModel
from kopt.search.trials.processes import CAN_FORK, WORKER, nursery, run_fresh

_TAIL_LINES = 15
# TensorFlow 2.21 with oneDNN corrupts its memory in the training of some convolutions of 8 channels, which kills the
# process in the middle of an epoch. Without oneDNN they train, on this kind of processor in 1.8 times the time.
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
_REMEDY = "Make room there, or choose another `workdir`, and start the same run again: it goes on where it stopped."
_WITHOUT_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


@dataclasses.dataclass(frozen=True)
class NotMade:
    """Why there is no model.

    Attributes:
        reason: first line, then the end of what was printed.
        out_of_time: it was ended because the time of the whole run was used up.
        crash: signal of which the process died, where it is one of a crash.
    """

    reason: str
    out_of_time: bool = False
    crash: str = ""


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
        command: what to run for each, its argument is the path of a `Job`; by default forks of the nursery.
    """

    def __init__(
        self,
        workdir: Path,
        supplies: Path,
        identity: Mapping[str, str],
        lessons: Mapping[str, str],
        *,
        trial_seconds: float | None = None,
        command: tuple[str, ...] | None = None if CAN_FORK else WORKER,
    ):
        self._workdir, self.supplies, self._command = workdir, supplies, command
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

    def make(
        self, steps: tuple[Step, ...], seconds_left: float | None = None, known: Collection[str] = ()
    ) -> Made | NotMade:
        """Return the model of `steps`, of which those that are not finished are made in a child process.

        Args:
            steps: from the original on.
            seconds_left: of the run; `None` without a limit.
            known: fingerprints of models of which nothing new is to be made.

        Raises:
            OutputError: there is no room for it, or the place may not be written.
        """
        if reason := self._ends_before(steps, known):
            return NotMade(reason)
        finished = self.finished(steps)
        if finished is not None:
            return finished
        job, remark = self._job(steps, known)
        for target in job.targets:
            _clear(Path(target))
        not_made = self._run(job, remark, seconds_left)
        if not_made is not None and not_made.crash and not remark:
            job, _ = self._job(steps, known)  # steps that were made before the crash stay
            remark = f"made without oneDNN, because with it the process died ({not_made.crash})"
            not_made = self._run(job, remark, seconds_left)
        if not_made is None and (reason := self._ends_before(steps, known)):
            return NotMade(reason)
        return not_made or self.finished(steps) or NotMade("The child process ended well and left no model.")

    def _ends_before(self, steps: tuple[Step, ...], known: Collection[str]) -> str:
        """Return why the last step is not made: one before it changed nothing, or made a model that is known."""
        for count in range(1, len(steps)):
            before = self.finished(steps[:count])
            if before is not None and (reason := before.record.ends(known)):
                return reason
        return ""

    def _job(self, steps: tuple[Step, ...], known: Collection[str]) -> tuple[Job, str]:
        """Return what is still to be made, and the remark on the model that it begins with, which holds on."""
        done = next((count for count in range(len(steps) - 1, 0, -1) if self.finished(steps[:count])), 0)
        before = self.finished(steps[:done]) if done else None
        targets = tuple(str(self.directory(steps[:count])) for count in range(done + 1, len(steps) + 1))
        source = str(before.path) if before else ""
        job = Job(str(self.supplies), steps, source, targets, known=tuple(known))
        return job, before.record.remark if before else ""

    def _run(self, job: Job, remark: str, seconds_left: float | None) -> NotMade | None:
        directory = Path(job.targets[-1])
        recipe = dataclasses.replace(job, remark=remark)
        atomic_write(directory / RECIPE, recipe.to_json() + "\n", overwrite=True)
        limits = [limit for limit in (self._trial_seconds, seconds_left) if limit is not None]
        try:
            with writing_to(directory / LOG):
                code = self._ended(directory / RECIPE, directory / LOG, min(limits, default=None), remark)
        except subprocess.TimeoutExpired:
            return self._timed_out(seconds_left)
        if code == NO_ROOM:
            raise OutputError(_last_line(directory) or f"Cannot write {directory}. {_REMEDY}")
        return _why(directory, code) if code else None

    def _ended(self, job: Path, log: Path, seconds: float | None, remark: str) -> int:
        """Run a job, and return how it ended."""
        if self._command is None and not remark:
            return nursery.run(job, log, seconds)
        variables = {_WITHOUT_ONEDNN: "0"} if remark else {}  # read while TensorFlow loads
        return run_fresh(self._command or WORKER, job, log, seconds, variables)

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
    crash = cause if cause in _CRASHES else ""
    text = "\n".join((f"Its process died ({cause}{memory}); log: {directory / LOG}", *printed))
    return NotMade(text, crash=crash)


def _last_line(directory: Path) -> str:
    """Return the last line of a log that says what could not be written; empty where there was no room for it."""
    printed = (directory / LOG).read_text(errors="replace").strip().splitlines()
    return next((line for line in reversed(printed) if line.startswith("Cannot write")), "")


def _clear(directory: Path) -> None:
    with writing_to(directory):
        if directory.is_dir():
            remove_leftovers(directory)
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
