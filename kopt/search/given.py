"""What a search is given, read and checked before anything is written."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt import data as kopt_data
from kopt import export, measure
from kopt.core.files import atomic_path, sha256
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.search.budget import Budget
from kopt.data.sampling import holds
from kopt.data.validation import TEXT
from kopt.graph import fingerprint
from kopt.measure.runner import check_positive
from kopt.search.judging.examining import Examiner
from kopt.search.judging.examples import (
    NO_LABELS,
    check_judgeable,
    checked_budget,
    examiner_of,
    num_classes,
    overlap,
    read_split,
)
from kopt.search.lessons import Lessons, prepare
from kopt.search.opening import checked_training
from kopt.search.plan import Plan, plan_of
from kopt.search.proposing.facts import facts_of
from kopt.search.settings import Settings
from kopt.search.streaming import check_stream, read_whole
from kopt.search.techniques.catalog import Technique, select
from kopt.search.trials import examples
from kopt.search.trials.limits import Limits


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What a search works with.

    Attributes:
        model: a Keras model, or the path of a SavedModel.
        runner: that runs it.
        budget: that files are judged by.
        calibration: real inputs by name.
        drawn: the data set that they were drawn from, which may give others the next time; `None` of arrays.
        examiner: the examples that judge files.
        test: those that the search never touches; `None` without.
        plan: what may be done.
        lessons: what models learn from; `None` where none is trained, or they are still to be read.
        stream: the data set in which they are, which may be larger than memory; else `None`.
        limits: of the run, whose time has begun.
        notes: what a reader must know about the data.
    """

    model: Any
    runner: measure.Runner
    budget: Budget
    calibration: dict[str, np.ndarray]
    drawn: tf.data.Dataset | None
    examiner: Examiner
    test: Examiner | None
    plan: Plan
    lessons: Lessons | None
    stream: tf.data.Dataset | None
    limits: Limits
    notes: tuple[str, ...]

    @property
    def identity(self) -> dict[str, str]:
        """All that a file depends on beside its recipe, as hashes."""
        return {
            "model": sha256(self.model) if isinstance(self.model, Path) else fingerprint(self.model),
            "data": _hash({**self.calibration, **_named(self.examiner, "validation")}),
            "metric": self.budget.metric,
        }

    def with_first_drawn(self, workdir: Path, settings: Settings) -> "Given":
        """Return the same with the calibration examples of an earlier run in a directory that is held.

        A data set that is shuffled anew whenever it is read gives others, and with them no file of before would be
        known. Those of before hold as long as the data set still has them; else they are those of now from here on.
        """
        if self.drawn is None:
            return self
        known = {**self.identity, "data": _hash(_named(self.examiner, "validation"))}
        asked = [known, str(self.drawn.element_spec), settings.samples, settings.seed]
        place = workdir / f"calibration-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]}"
        if place.is_dir():
            kept = {name: np.asarray(array) for name, array in examples.read(place).items()}
            if holds(self.drawn, kept, self.runner.inputs):
                return dataclasses.replace(self, calibration=kept)
        with atomic_path(place, overwrite=True) as staged:
            examples.write(self.calibration, staged)
        return self

    @property
    def test_identity(self) -> dict[str, str]:
        """Likewise of what only the chosen file is judged on; empty without."""
        return {} if self.test is None else {"test": _hash(_named(self.test, "test"))}


def read(
    model: Any,
    train: Any,
    validation: Any,
    test: Any,
    budget: Budget | None,
    settings: Settings,
    more: Sequence[Technique] = (),
) -> Given:
    """Return what `kopt.optimize` was given, checked; see there for what is raised. `more` are rows of no catalog."""
    select(settings.techniques)
    limits = Limits(settings.seconds, settings.trials)
    if settings.threads is not None:
        check_positive("threads", settings.threads)
    model = export.open_model(model)
    runner = measure.load(model)
    check_judgeable(runner)
    judging = read_split(validation, "validation")
    budget = checked_budget(budget, judging.y is not None)
    calibration = _calibration(train, settings, runner.inputs)
    examiner = examiner_of(judging, runner, budget)
    final = None if test is None else examiner_of(test, runner, budget, "test")
    plan = plan_of(facts_of(model), settings.techniques, budget, checked_training(settings.training), more)
    drawn = train if isinstance(train, tf.data.Dataset) else None
    has_text = any(info.dtype in TEXT for info in runner.inputs)
    # Texts are not of one length, as what is read piece by piece has to be.
    stream = None if has_text or not plan.training else drawn
    lessons = None
    if stream is not None:
        check_stream(stream)
    elif plan.training:
        lessons = prepare(
            model,
            train if drawn is None else read_whole(drawn),
            plan.training,
            num_classes=num_classes(runner, budget),
            seed=settings.seed,
        )
    notes = (*(() if judging.y is not None else (NO_LABELS,)), *_overlap_note(final, examiner))
    if plan.training and drawn is not None and stream is None:
        notes = (*notes, "`train` was read into memory, because texts are not of one length.")
    return Given(model, runner, budget, calibration, drawn, examiner, final, plan, lessons, stream, limits, notes)


def _calibration(train: Any, settings: Settings, inputs: tuple[TensorInfo, ...]) -> Any:
    """Return the examples of `train` that ranges are measured on; what is wrong with them is said of `train`."""
    without_weights = train[:2] if isinstance(train, tuple) and len(train) == 3 else train
    return kopt_data.calibration(
        without_weights, samples=settings.samples, seed=settings.seed, inputs=inputs, name="train"
    )


def _named(examiner: Examiner, name: str) -> dict[str, np.ndarray]:
    return {**{f"{name} {key}": array for key, array in examiner.inputs.items()}, "labels": examiner.labels}


def _overlap_note(test: Examiner | None, validation: Examiner) -> tuple[str, ...]:
    shared = 0 if test is None else overlap(test, validation)
    if test is None or not shared:
        return ()
    return (f"{shared} of {test.count} test examples are also among those of validation, bit for bit.",)


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
