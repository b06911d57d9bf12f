"""A data set that may be larger than memory, read once into files that the processes which train map into memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt import measure
from kopt.core.errors import DataError
from kopt.core.files import size_bytes
from kopt.report.parts.formats import size
from kopt.search.lessons import ANSWERS_NOTE, Lesson, Lessons, answers, checked, held_out, loss_of
from kopt.search.training import Training
from kopt.search.trials import examples

_FORMS = "`train` must yield batches of x, (x, y) or (x, y, sample_weight)"


def check_stream(data: tf.data.Dataset) -> None:
    """Refuse a data set that cannot be read to its end.

    Raises:
        DataError: it never ends, or yields something else than batches of examples.
    """
    spec = data.element_spec
    if isinstance(spec, tuple) and not 1 <= len(spec) <= 3:
        raise DataError(f"{_FORMS}. Received elements of {spec}.")
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError("`train` is infinite. Bound it with `.take(steps)`.")


def read_whole(data: tf.data.Dataset) -> Any:
    """Return what a data set yields as arrays in memory, in the structure of its elements.

    Raises:
        DataError: see `check_stream`; it is empty, or its batches do not join.
    """
    check_stream(data)
    batches = list(data.as_numpy_iterator())
    if not batches:
        raise DataError("`train` is empty: there must be at least one batch.")
    try:
        joined = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    except ValueError as error:
        raise DataError(f"{_FORMS}, of examples of one shape, which join. Received others ({error}).") from error
    return joined[0] if isinstance(joined, tuple) and len(joined) == 1 else joined


def stream(
    model: keras.Model, data: tf.data.Dataset, training: Training, place: Path, *, num_classes: int | None, seed: int
) -> Lessons:
    """Return the lessons in a data set, written to files as they are read: a batch is in memory at a time.

    They are those that `lessons.prepare` finds in the same examples as arrays.

    Args:
        model: that is searched for a smaller form.
        data: batched, of `x`, `(x, y)` or `(x, y, sample_weight)`; it is read once.
        training: the request.
        place: a directory on the disk where the files are to stay.
        num_classes: of the labels; `None` for other targets.
        seed: of the choice of held-out examples.

    Raises:
        DataError: the data does not fit, or is too little to hold anything out.
        UnsupportedModelError: labels whose loss cannot be found.
    """
    runner = measure.load(model)
    whole, apart = place / "train", place / "held"
    with examples.Pieces(whole, "train") as pieces:
        for batch in _batches(data, runner):
            pieces.append(checked(batch, model, runner, num_classes).arrays)
    labels = examples.read(whole)[1]
    loss, said = loss_of(model, runner, labels, training.loss)
    rows, held = held_out(labels, seed)
    examples.split(whole, rows, held, apart)
    spec = data.element_spec
    unlabelled = not isinstance(spec, tuple) or len(spec) == 1
    notes = (*((ANSWERS_NOTE,) if unlabelled else ()), _kept_note(whole, len(rows) + len(held)), *said)
    return Lessons(Lesson(*examples.read(whole)), Lesson(*examples.read(apart)), loss, notes, (whole, apart))


def _batches(data: tf.data.Dataset, runner: measure.Runner) -> Iterator[Lesson]:
    for element in data.as_numpy_iterator():
        parts = element if isinstance(element, tuple) else (element,)
        yield Lesson(*parts) if len(parts) > 1 else Lesson(parts[0], answers(parts[0], runner))


def _kept_note(whole: Path, count: int) -> str:
    return f"`train` was read once; its {count:,} examples are kept in the work directory, {size(size_bytes(whole))}."
