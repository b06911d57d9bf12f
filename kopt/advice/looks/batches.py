"""The first batches of training data, held against the model; the memory of a step on one."""

import collections
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.advice.looks.subject import Subject
from kopt.core.errors import InputError, MeasurementError
from kopt.core.memory import available_bytes
from kopt.core.records.profiles.circumstances import DataFacts, MemoryNeeds
from kopt.core.records.training.input_checks import InputCheck
from kopt.data.splits import class_ids
from kopt.train import check_inputs, estimate_memory
from kopt.train.memory.estimate import memory_remedies
from kopt.train.steps.label_checks import LossKind


def data_facts(subject: Subject) -> DataFacts:
    """Return shapes, scales, classes and faults of the first batches."""
    batches, checked, error = subject.batches, InputCheck(0, (), ()), None
    for batch in batches:
        try:
            found = check_inputs(subject.model, *batch, look_at_outputs=batch is batches[0])
        except InputError as problem:
            error = problem
            break
        checked = found if batch is batches[0] else checked
    sizes = [len(tf.nest.flatten(batch)[0]) for batch in batches]
    return DataFacts(
        batch_size=sizes[0] if subject.dataset is not None else subject.batch_size,
        batches=len(batches),
        examples=sum(sizes),
        shapes=_shapes(batches),
        unscaled=checked.unscaled,
        classes=_classes(subject),
        error_type=type(error).__name__ if error else "",
        error=str(error) if error else "",
        notes=tuple(note for note in checked.notes if note not in map(str, checked.unscaled)),
    )


def memory_needs(subject: Subject) -> MemoryNeeds:
    """Return what a training step needs, what there is, and, if that is too little, what needs less.

    Raises:
        MeasurementError: the memory of the device is not known.
    """
    batch = subject.batches[0] if subject.train is not None else None
    size = subject.batch_size if batch is None else len(tf.nest.flatten(batch)[0])
    estimate = estimate_memory(subject.model, size, data=batch)
    needs = MemoryNeeds(estimate, _limit(subject), ())
    if needs.fits(estimate.total_bytes):
        return needs
    return dataclasses.replace(needs, remedies=memory_remedies(subject.model, estimate, data=batch))


def _limit(subject: Subject) -> int:
    if subject.memory_limit_bytes is not None:
        return subject.memory_limit_bytes
    if tf.config.get_visible_devices("GPU"):
        raise MeasurementError("TensorFlow does not tell the memory of a GPU. Pass `memory_limit_bytes`.")
    return available_bytes()


def _shapes(batches: tuple[tuple[Any, ...], ...]) -> dict[str, int]:
    """Count the shapes of inputs; a last batch that differs is the end of an epoch."""
    texts = [", ".join(str(tuple(leaf.shape)) for leaf in tf.nest.flatten(batch[0])) for batch in batches]
    if len(texts) > 1 and texts.count(texts[-1]) == 1:
        texts = texts[:-1]
    return dict(collections.Counter(texts))


def _classes(subject: Subject) -> dict[str, int]:
    """Count classes of all labels of arrays, of data sets those that were read."""
    if not subject.has_labels or LossKind.of(getattr(subject.model, "loss", None)).family == "other":
        return {}
    y = subject.train[1] if isinstance(subject.train, tuple) else _labels(subject)
    y = np.asarray(y) if not isinstance(y, (dict, list, tuple)) else None
    ids = class_ids(y) if y is not None else None
    if ids is None:
        return {}
    return {str(name): int(count) for name, count in zip(*np.unique(ids, return_counts=True), strict=True)}


def _labels(subject: Subject) -> Any:
    parts = [batch[1] for batch in subject.batches]
    return np.concatenate(parts) if all(isinstance(part, np.ndarray) for part in parts) else None
