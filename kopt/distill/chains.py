"""Trainings in which each student is the next one's teacher."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from kopt.core.errors import ConfigError
from kopt.core.records.changes.distillation import DistillationReport
from kopt.core.settings import whole
from kopt.distill.model import DistillationModel
from kopt.graph import copy_weights
from kopt.graph.additions import require_no_additions
from kopt.graph.internals import flatten_layers

Train = Callable[[DistillationModel], Any]


def teach_in_turn(models: Sequence[Any], train: Train, **settings: Any) -> tuple[DistillationReport, ...]:
    """Let each model teach the next one: a teacher, assistants of sizes between, a student.

    Use it where a teacher is so much larger than the student that the student cannot follow it.

    Args:
        models: at least two, from the teacher to the last student; all but the first are trained.
        train: gets each `DistillationModel`, compiles and fits it.
        **settings: of each `DistillationModel`.

    Returns:
        The reports, one a training.

    Raises:
        ConfigError: fewer than two models.

    Example:
        >>> def train(teaching):
        ...     teaching.compile("adam", "sparse_categorical_crossentropy")
        ...     teaching.fit(x_train, y_train, verbose=0)
        >>> assistant, _ = kopt.distill.smaller_student(model, width=0.75, round_to=1, name="assistant")
        >>> student, _ = kopt.distill.smaller_student(model, width=0.5, round_to=1, name="student")
        >>> reports = kopt.distill.teach_in_turn([model, assistant, student], train)
        >>> [report.student for report in reports]
        ['assistant', 'student']

    Source: Mirzadeh et al., "Improved knowledge distillation via teacher assistant", 2020.
    """
    if len(models) < 2:
        raise ConfigError(f"A chain has at least two models, a teacher and a student. Received: {len(models)}.")
    reports = []
    for teacher, student in itertools.pairwise(models):
        model = DistillationModel(student, teacher, **settings)
        train(model)
        reports.append(model.report)
    return tuple(reports)


def born_again(model: keras.Model, generations: int, train: Train, **settings: Any) -> list[keras.Model]:
    """Train copies of a model with fresh weights, each taught by the one before: self-distillation.

    Args:
        model: trained, the first teacher; not changed.
        generations: how many copies, at least 1.
        train: gets each `DistillationModel`, compiles and fits it.
        **settings: of each `DistillationModel`.

    Returns:
        The copies, the last one at the end; together they make an ensemble, or several teachers.

    Raises:
        ConfigError: no generation.
        UnsupportedModelError: the model has masks, codebooks, penalties or rounding, which fresh copies would not have.

    Example:
        >>> def train(teaching):
        ...     teaching.compile("adam", "sparse_categorical_crossentropy")
        ...     teaching.fit(x_train, y_train, verbose=0)
        >>> copies = kopt.distill.born_again(model, 1, train)
        >>> [copy.count_params() for copy in copies]
        [2722]

    Source: Furlanello et al., "Born-again neural networks", 2018.
    """
    whole("generations", generations)
    require_no_additions(model)
    students = [_fresh(model) for _ in range(generations)]
    teach_in_turn([model, *students], train, **settings)
    return students


def _fresh(model: keras.Model) -> keras.Model:
    """Return a copy with fresh weights, but for what layers have learned from data by `adapt`."""
    copy = keras.models.clone_model(model)
    for one, other in zip(flatten_layers(model), flatten_layers(copy), strict=True):
        if hasattr(one, "adapt"):
            copy_weights(one, other)
    return copy
