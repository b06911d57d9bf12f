"""What trained candidates learn from: labelled examples, some held out, and the loss, found and said."""

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kopt import data as kopt_data
from kopt import measure
from kopt.core.errors import DataError, UnsupportedModelError
from kopt.data.splits import class_ids, stratified_split
from kopt.distill.forms import forms_of
from kopt.graph.checks import input_structure
from kopt.search.training import Training
from kopt.train.steps.label_checks import only_loss

ANSWERS_NOTE = "`train` has no labels: the original's own answers stand for them."
# Of the training data, to choose the best epoch by.
_HELD_SHARE, _MOST_HELD = 0.1, 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """Labelled examples.

    Attributes:
        x: inputs, one array or a structure of them.
        y: labels.
        weights: of the examples in the loss, shape `(n,)`; `None`: all count alike.
    """

    x: Any
    y: Any
    weights: Any = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """As Keras takes them: `(x, y)`, or `(x, y, weights)`."""
        return (self.x, self.y) if self.weights is None else (self.x, self.y, self.weights)


@dataclasses.dataclass(frozen=True, eq=False)
class Lessons:
    """Examples to learn from.

    Attributes:
        train: of which models learn.
        held: of the training data, of which nothing learns; they choose the best epoch.
        loss: of the labels, serialized by Keras.
        notes: what was found out and not given, in sentences.
        places: directories where `train` and `held` lie, as `trials.examples` writes them; `None` in memory.
    """

    train: Lesson
    held: Lesson
    loss: Any
    notes: tuple[str, ...]
    places: tuple[Path, Path] | None = None


def prepare(model: keras.Model, data: Any, training: Training, *, num_classes: int | None, seed: int) -> Lessons:
    """Return the lessons in arrays, checked against the model before any work begins.

    Args:
        model: that is searched for a smaller form.
        data: `(x, y)`, `(x, y, sample_weight)`, inputs alone or `kopt.data.Split`.
        training: the request.
        num_classes: of the labels; `None` for other targets.
        seed: of the choice of held-out examples.

    Raises:
        DataError: the data does not fit, or is too little to hold anything out.
        UnsupportedModelError: labels whose loss cannot be found.
    """
    runner = measure.load(model)
    given, notes = _labelled(data, runner)
    lesson = checked(given, model, runner, num_classes)
    loss, said = loss_of(model, runner, lesson.y, training.loss)
    rows, held = held_out(lesson.y, seed)
    return Lessons(_rows(lesson, rows), _rows(lesson, held), loss, (*notes, *said))


def checked(given: Lesson, model: keras.Model, runner: measure.Runner, num_classes: int | None) -> Lesson:
    """Return examples in the types and the structure that the model takes.

    Raises:
        DataError: they do not fit, or weights are no numbers of at least 0, one an example.
    """
    split = kopt_data.Split(given.x, given.y)
    arrays = kopt_data.check(split, runner.inputs, num_classes=num_classes, name="train")
    packed = keras.tree.pack_sequence_as(input_structure(model), list(arrays.values()))
    weights = None if given.weights is None else _weights(given.weights, len(given.y))
    return Lesson(packed, np.asarray(given.y), weights)


def answers(x: Any, runner: measure.Runner) -> np.ndarray[Any, Any]:
    """Return what the original says of examples without labels, as labels."""
    arrays = kopt_data.check(x, runner.inputs, name="train")
    found = runner.predict(arrays)
    assert isinstance(found, np.ndarray)
    form = _form(runner)
    if form in ("logits", "probabilities"):
        return np.asarray(found.argmax(axis=-1))
    return np.round(found) if form == "sigmoids" else found


def loss_of(
    model: keras.Model, runner: measure.Runner, labels: np.ndarray[Any, Any], given: str | None
) -> tuple[Any, tuple[str, ...]]:
    """Return the loss of the labels, serialized, and what is said of how it was found."""
    if given is not None:
        return given, ()
    if model.compiled and model.loss is not None:
        return _portable(model.loss, runner.name), ()
    found = _by_labels(_form(runner), runner.outputs[0].shape, labels)
    name = found["class_name"] if isinstance(found, dict) else found
    return found, (f"The model is not compiled; its outputs and labels suggest the loss {name}.",)


def _portable(loss: Any, name: str) -> Any:
    """Return a loss as another process can have it: its name, or what Keras serializes of it."""
    loss = only_loss(loss)
    if isinstance(loss, str):
        return loss
    kind = loss if inspect.isroutine(loss) else type(loss)
    module, why = getattr(kind, "__module__", ""), ""
    if module == "__main__" or "<locals>" in kind.__qualname__:
        why = f"{kind.__qualname__} of {module} cannot be imported there: put it into a module of its own"
    elif module.partition(".")[0] != "keras" and keras.saving.get_registered_name(kind) == kind.__name__:
        why = f"{kind.__qualname__} is not known there: put `@keras.saving.register_keras_serializable()` before it"
    else:
        try:
            return keras.losses.serialize(keras.losses.get(loss))
        except (TypeError, ValueError) as error:
            why = str(error)
    raise UnsupportedModelError(
        f"The loss that {name} is compiled with cannot be handed to the processes that train: {why}. Or name a loss of "
        f"Keras: `kopt.Training(loss=...)`."
    )


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


def held_out(labels: np.ndarray[Any, Any], seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the rows to learn from and those that are held out, both ascending.

    Raises:
        DataError: there is nothing to hold out.
    """
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


def _labelled(data: Any, runner: measure.Runner) -> tuple[Lesson, tuple[str, ...]]:
    if isinstance(data, kopt_data.Split):
        data = (data.x, data.y)
    if isinstance(data, tuple) and len(data) == 2 and data[1] is None:
        data = data[0]
    if isinstance(data, tuple) and len(data) in (2, 3) and data[1] is not None:
        return Lesson(*data), ()
    if isinstance(data, (np.ndarray, Mapping, list)):
        return Lesson(data, answers(data, runner)), (ANSWERS_NOTE,)
    raise DataError(
        "Trained candidates learn from (x, y) or (x, y, sample_weight) arrays, inputs alone, a `kopt.data.Split` or a "
        f"batched `tf.data.Dataset` of these. Received: {type(data).__module__}.{type(data).__qualname__}."
    )


def _weights(given: Any, count: int) -> np.ndarray[Any, Any]:
    weights = np.asarray(given)
    if weights.shape != (count,) or weights.dtype.kind not in "biuf":
        raise DataError(
            f"train sample weights are one number an example, shape ({count},). Received: {weights.dtype} of shape "
            f"{weights.shape}."
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError(
            f"train sample weights must be finite and at least 0. Received values from {weights.min()} to "
            f"{weights.max()}."
        )
    return weights.astype(np.float32)


def _rows(lesson: Lesson, rows: np.ndarray[Any, Any]) -> Lesson:
    return Lesson(*keras.tree.map_structure(lambda array: array[rows], lesson.arrays))
