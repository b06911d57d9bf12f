"""The child process in which the steps of a trial run: `python -m kopt.search.trials.worker JOB`.

Whatever a step does to the process, run out of memory or crash the interpreter, costs the search one candidate. Every
step begins from the file of the one before, with seeds set anew, so that what it makes does not depend on which
process made what came before. The process ends when its standard input is closed, which the system does also when the
search itself is killed.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import keras

from kopt.core.errors import OutputError
from kopt.core.files import atomic_path, atomic_write, sha256
from kopt.graph import fingerprint, load_model
from kopt.search.techniques.building import modules_of
from kopt.search.techniques.catalog import row_of
from kopt.search.trials import supplies
from kopt.search.trials.made import FAILURE, NO_ROOM, RECORD, Job, MadeModel
from kopt.train import deterministic

# The system ends this process before the search where memory runs out.
_OOM_SCORE = "500"


def main(path: str) -> int:
    """Make the models that a job asks for, one after another."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    job = Job.from_json(Path(path).read_text())
    try:
        _make_all(job)
    except OutputError as error:
        with contextlib.suppress(OSError):  # in the log there may be no room either
            sys.stdout.write(f"{error}\n")
            sys.stdout.flush()
        return NO_ROOM
    except Exception as error:  # noqa: BLE001 - whatever a technique raises is the search's to report
        traceback.print_exc()
        atomic_write(Path(job.targets[-1]) / FAILURE, f"{type(error).__name__}: {error}", overwrite=True)
        return 1
    return 0


def _make_all(job: Job) -> None:
    place = Path(job.supplies)
    terms = supplies.terms(place)
    supplies.make_importable(terms, modules_of(job.steps))
    source = Path(job.source) if job.source else supplies.original(place)
    for count, target in enumerate(map(Path, job.targets), len(job.steps) - len(job.targets) + 1):
        if _make(source, target, job, count, terms.seed).ends(job.known):
            return
        source = target / MadeModel.file_name()


def _make(source: Path, target: Path, job: Job, count: int, seed: int) -> MadeModel:
    """Apply the last of the first `count` steps."""
    started = time.monotonic()
    step = job.steps[count - 1]
    keras.backend.clear_session()  # names of new layers begin anew
    deterministic(seed)
    apply = row_of(step.technique).apply
    assert apply is not None
    outcome = apply(load_model(source, compile=False), step.config, supplies.work(Path(job.supplies)))
    path = target / MadeModel.file_name()
    with atomic_path(path, overwrite=True) as staged:
        outcome.model.save(staged)
    made = MadeModel(
        steps=job.steps[:count],
        summary=outcome.summary,
        changed=outcome.changed,
        seconds=time.monotonic() - started,
        sha256=sha256(path),
        fingerprint=fingerprint(outcome.model),
        remark=job.remark,
        in_float=outcome.in_float,
    )
    atomic_write(target / RECORD, made.to_json() + "\n", overwrite=True)
    return made


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
