"""What trained candidates learn from: labelled examples, some held out, and the loss, found and said."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt import data as kopt_data
from kopt import measure
from kopt.core.errors import DataError, UnsupportedModelError
from kopt.data.splits import class_ids, stratified_split
from kopt.distill.forms import forms_of
from kopt.graph.checks import input_structure
from kopt.search.training import Training

# Of the training data, to choose the best epoch by.
_HELD_SHARE, _MOST_HELD = 0.1, 1000


@dataclasses.dataclass(frozen=True)
class Lessons:
    """Examples to learn from.

    Attributes:
        train: of which models learn.
        held: of the training data, of which nothing learns; they choose the best epoch.
        loss: of the labels, serialized by Keras.
        notes: what was found out and not given, in sentences.
    """

    train: kopt_data.Split
    held: kopt_data.Split
    loss: Any
    notes: tuple[str, ...]


def prepare(model: keras.Model, data: Any, training: Training, *, num_classes: int | None, seed: int) -> Lessons:
    """Return the lessons in `data`, checked against the model before any work begins.

    Args:
        model: that is searched for a smaller form.
        data: `(x, y)`, inputs alone, `kopt.data.Split`, or a `tf.data.Dataset` that ends, which is read into memory.
        training: the request.
        num_classes: of the labels; `None` for other targets.
        seed: of the choice of held-out examples.

    Raises:
        DataError: the data does not fit, or is too little to hold anything out.
        UnsupportedModelError: labels whose loss cannot be found.
    """
    runner = measure.load(model)
    split, notes = _labelled(data, runner)
    arrays = kopt_data.check(split, runner.inputs, num_classes=num_classes, name="train")
    labels = np.asarray(split.y)
    loss, said = _loss(model, runner, labels, training.loss)
    rows, held = _held_out(labels, seed)
    packed = keras.tree.pack_sequence_as(input_structure(model), list(arrays.values()))
    return Lessons(
        train=_rows(packed, labels, rows),
        held=_rows(packed, labels, held),
        loss=loss,
        notes=(*notes, *said),
    )


def _labelled(data: Any, runner: measure.Runner) -> tuple[kopt_data.Split, tuple[str, ...]]:
    if isinstance(data, kopt_data.Split):
        return data, ()
    if isinstance(data, tuple) and len(data) == 2:
        return kopt_data.Split(*data), ()
    if isinstance(data, tf.data.Dataset):
        return kopt_data.collect(data, name="train"), ()
    if isinstance(data, (np.ndarray, Mapping, list)):
        answers, note = _answers(data, runner)
        return kopt_data.Split(data, answers), (note,)
    raise DataError(
        "Trained candidates learn from (x, y) arrays, inputs alone, a `kopt.data.Split` or a batched "
        f"`tf.data.Dataset` of (x, y). Received: {type(data).__module__}.{type(data).__qualname__}."
    )


def _answers(x: Any, runner: measure.Runner) -> tuple[np.ndarray[Any, Any], str]:
    """Return what the original says of examples without labels, as labels."""
    arrays = kopt_data.check(x, runner.inputs, name="train")
    found = runner.predict(arrays)
    assert isinstance(found, np.ndarray)
    form = _form(runner)
    note = "`train` has no labels: the original's own answers stand for them."
    if form in ("logits", "probabilities"):
        return found.argmax(axis=-1), note
    return (np.round(found) if form == "sigmoids" else found), note


def _loss(
    model: keras.Model, runner: measure.Runner, labels: np.ndarray[Any, Any], given: str | None
) -> tuple[Any, tuple[str, ...]]:
    """Return the loss of the labels, serialized, and what is said of how it was found."""
    if given is not None:
        return given, ()
    if model.compiled and model.loss is not None:
        loss = model.loss
        try:
            return (loss if isinstance(loss, str) else keras.losses.serialize(keras.losses.get(loss))), ()
        except (TypeError, ValueError) as error:
            raise UnsupportedModelError(
                f"The loss that {runner.name} is compiled with cannot be handed to another process ({error}). Register "
                f"it with Keras, or name one: `kopt.Training(loss=...)`."
            ) from error
    found = _by_labels(_form(runner), runner.outputs[0].shape, labels)
    name = found["class_name"] if isinstance(found, dict) else found
    return found, (f"The model is not compiled; its outputs and labels suggest the loss {name}.",)


def _by_labels(form: str, shape: tuple[int | None, ...], labels: np.ndarray[Any, Any]) -> Any:
    is_logits = form == "logits"
    if form in ("logits", "probabilities") and class_ids(labels) is not None:
        is_row = labels.ndim == len(shape) and labels.shape[-1] == shape[-1]
        kind = keras.losses.CategoricalCrossentropy if is_row else keras.losses.SparseCategoricalCrossentropy
        return keras.losses.serialize(kind(from_logits=is_logits))
    if form == "sigmoids" and np.isin(labels, (0, 1)).all():
        return "binary_crossentropy"
    return "mse"


def _form(runner: measure.Runner) -> str:
    model = getattr(runner, "model", None)
    found = forms_of(model, runner.inputs, runner.outputs, lambda feeds: [runner.predict(feeds)])
    return found[0][0]


def _held_out(labels: np.ndarray[Any, Any], seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    count = len(labels)
    if count < 2:
        raise DataError(f"Training needs at least 2 examples, one of which is held out. Received: {count}.")
    share = min(_HELD_SHARE, _MOST_HELD / count)
    classes = class_ids(labels)
    # With fewer examples of each, one of every class would be too large a share, or the numbers are no classes.
    if classes is not None and len(np.unique(classes)) <= share * count:
        return stratified_split(classes, share, seed)
    order = np.random.default_rng(seed).permutation(count)
    most = max(1, round(count * share))
    return np.sort(order[most:]), np.sort(order[:most])


def _rows(x: Any, y: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> kopt_data.Split:
    return kopt_data.Split(keras.tree.map_structure(lambda array: array[rows], x), y[rows])
