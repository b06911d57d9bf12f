"""A process that runs trials for a chief: `python -m kopt.search.tuning.worker JOB [SECONDS]`.

The environment says where the chief is, as keras-tuner wants it. The process ends when its standard input is closed,
which the system does also when the chief itself is killed.
"""

import os
import sys
import threading
import time
import traceback
from pathlib import Path

from kopt import export
from kopt.core import errors
from kopt.core.errors import ConfigError, KoptError
from kopt.core.files import atomic_write
from kopt.core.progress import Silent
from kopt.search.searching import prepared
from kopt.search.trials.limits import RunEnded
from kopt.search.tuning import job as jobs
from kopt.search.tuning.course import Tuning, tuning_of
from kopt.search.tuning.desk import Desk
from kopt.search.tuning.environment import Role, role_of
from kopt.search.tuning.internals import quiet_messages
from kopt.search.tuning.tuner import ArtifactTuner

OVER, FAILED, OUT_OF_TIME = 0, 1, 3
BEAT_SECONDS = 2.0


def main(words: list[str]) -> int:
    """Run trials until there are no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = jobs.Job.from_json(Path(words[0]).read_text())
    role = role_of(os.environ)
    assert role is not None
    try:
        given, settings = jobs.given_of(job, float(words[1]) if len(words) > 1 else None)
        with export.traced(given.model) as source:
            search = prepared(given, settings, Path(job.workdir), source, Silent())
            if search.identity != job.identity:
                raise ConfigError("What the worker reads is not what the chief was given. Start in an empty `workdir`.")
            return work(tuning_of(search, job.request, Path(job.place), job.seed), role)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the chief's to report
        traceback.print_exc()
        text = f"{type(error).__name__}\n{error}"
        atomic_write(failure_path(Path(job.place), role.name), text, overwrite=True)
        return FAILED


def work(tuning: Tuning, role: Role) -> int:
    """Run trials for a chief until it says that there are no more, and return how it ended."""
    beat_path(tuning.place, role.name).parent.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(beat_path(tuning.place, role.name), stop), daemon=True)
    beating.start()
    try:
        with quiet_messages():
            desk = Desk(tuning.search, tuning.trials, role.name)
            ArtifactTuner(tuning.oracle(), tuning.space, tuning.place, desk, tuning.why, role.name).go()
    except RunEnded:
        return OUT_OF_TIME
    finally:
        stop.set()
        beating.join()
    return OVER


def beat_path(place: Path, name: str) -> Path:
    """Return the file in which a worker says that it lives."""
    return place / "workers" / f"{name}.beat"


def log_path(place: Path, name: str) -> Path:
    """Return the file of what a worker prints."""
    return place / "workers" / f"{name}.log"


def failure_path(place: Path, name: str) -> Path:
    """Return the file in which a worker says why it ended."""
    return place / "workers" / f"{name}.failure"


def failure_of(place: Path, name: str) -> KoptError | None:
    """Return what a worker that ended by itself raised, as far as it was raised on purpose."""
    path = failure_path(place, name)
    if not path.is_file():
        return None
    kind, _, text = path.read_text().partition("\n")
    found = getattr(errors, kind, None)
    return found(text) if isinstance(found, type) and issubclass(found, KoptError) else None


def _beat(path: Path, stop: threading.Event) -> None:
    count = time.time_ns()  # another number than that of a process before it
    while not stop.wait(BEAT_SECONDS):
        count += 1
        path.write_text(str(count))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
