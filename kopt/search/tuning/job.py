"""What worker processes read: everything that a tuning is given, in a directory that is whole or absent.

```
workdir/tuning-<key>/
  job.json                        a `Job`: written last, when the rest is there
  inputs/                         examples that judge; of a SavedModel also those that calibrate
  oracle.json  trial_*/           of keras-tuner
  trials/<number>.json            what came of each trial
  workers/<name>.beat  .log       a number that grows while the worker lives, and what it printed
```
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from kopt import data as kopt_data
from kopt import export, measure
from kopt.core.files import atomic_path, atomic_write
from kopt.core.records.search.budget import Budget
from kopt.core.serialization import Record
from kopt.search.given import Given
from kopt.search.judging.examples import examiner_of
from kopt.search.lessons import Lessons
from kopt.search.plan import plan_of
from kopt.search.proposing.facts import facts_of
from kopt.search.searching import Search
from kopt.search.settings import Settings
from kopt.search.techniques.building import source_sha256
from kopt.search.trials import examples, supplies
from kopt.search.trials.limits import Limits
from kopt.search.tuning.request import Request
from kopt.version import __version__

_JOB, _INPUTS, _SUPPLIES = "job.json", "inputs", "supplies"
_VALIDATION, _CALIBRATION = "validation", "calibration"


@dataclasses.dataclass(frozen=True)
class Job(Record):
    """A tuning, as others take part in it.

    Attributes:
        workdir: of the run.
        place: directory of this tuning.
        supplies: directory of model and lessons; empty for a SavedModel.
        model: path of a SavedModel; empty otherwise.
        identity: hashes by which a worker sees that it has what the chief has.
        budget: that files are judged by.
        request: what to look through.
        samples, threads, seed: see `kopt.tune`.
    """

    workdir: str
    place: str
    supplies: str
    model: str
    identity: dict[str, str]
    budget: Budget
    request: Request
    samples: int
    threads: int | None
    seed: int


def place_of(workdir: Path, search: Search, request: Request, seed: int) -> Path:
    """Return the directory of a tuning: another one for whatever changes what is proposed or what it is worth."""
    lessons = search.workshop.lessons if search.workshop else {}
    asked = dataclasses.replace(request, max_trials=1, training=None)  # more trials go on with the same tuning
    epochs = request.training.epochs if request.training else 0
    source = source_sha256(request.builder) if request.builder else ""
    what = [search.given.budget.to_dict(), asked.to_dict(), source, __version__]
    parts = [search.identity, lessons, *what, epochs, seed, search.files.threads]
    return workdir / f"tuning-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]}"


def path_of(place: Path) -> Path:
    """Return where the job of a tuning lies."""
    return place / _JOB


def write(place: Path, search: Search, request: Request, settings: Settings) -> Path:
    """Write what workers read, as far as it is not there, and return the path of the job."""
    given, inputs = search.given, place / _INPUTS
    if not inputs.is_dir():
        with atomic_path(inputs) as staged:
            staged.mkdir()
            labels = given.examiner.known
            judging = (dict(given.examiner.inputs), *(() if labels is None else (labels,)))
            examples.write(judging, staged / _VALIDATION)
            examples.write(given.calibration, staged / _CALIBRATION)
    saved = isinstance(given.model, Path)
    job = Job(
        workdir=str(search.workdir.absolute()),
        place=str(place.absolute()),
        supplies="" if saved else str(_supplies(place, search, settings.seed).absolute()),
        model=str(given.model.absolute()) if saved else "",
        identity=search.identity,
        budget=given.budget,
        request=request,
        samples=settings.samples,
        threads=settings.threads,
        seed=settings.seed,
    )
    return atomic_write(path_of(place), job.to_json() + "\n", overwrite=True)


def given_of(job: Job, seconds: float | None) -> tuple[Given, Settings]:
    """Return what the chief was given, from disk."""
    inputs, request = Path(job.place) / _INPUTS, job.request
    model, calibration, lessons = _learnt(job, inputs)
    runner = measure.load(model)
    arrays, *labels = examples.read(inputs / _VALIDATION)
    split = kopt_data.Split(arrays, np.asarray(labels[0]) if labels else None)
    settings = Settings(request.names, job.samples, job.threads, job.seed, request.training, seconds)
    plan = plan_of(facts_of(model), request.names, job.budget, request.training, request.more)
    examiner = examiner_of(split, runner, job.budget)
    limits = Limits(seconds)
    return Given(
        model, runner, job.budget, calibration, None, examiner, None, plan, lessons, None, limits, ()
    ), settings


def _supplies(place: Path, search: Search, seed: int) -> Path:
    if search.workshop is not None:
        return search.workshop.supplies
    directory = place / _SUPPLIES
    supplies.write(directory, search.given.model, search.given.calibration, training=None, lessons=None, seed=seed)
    return directory


def _learnt(job: Job, inputs: Path) -> tuple[Any, dict[str, np.ndarray], Lessons | None]:
    if not job.supplies:
        arrays = examples.read(inputs / _CALIBRATION)
        return export.open_model(job.model), {name: np.asarray(array) for name, array in arrays.items()}, None
    directory = Path(job.supplies)
    terms = supplies.terms(directory)
    supplies.make_importable(terms)
    work = supplies.work(directory)
    lessons = None
    if work.train is not None and work.held is not None:
        lessons = Lessons(work.train, work.held, json.loads(terms.loss), ())
    return work.original, dict(work.calibration), lessons
