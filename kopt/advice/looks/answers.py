"""What a model answers: in inference, on training and on validation examples; what its channels do meanwhile."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.advice.looks.subject import Subject
from kopt.core.errors import UnsupportedModelError
from kopt.core.records.profiles.circumstances import ChannelActivity, FitScores, InferenceFacts, LayerActivity
from kopt.data.splits import class_ids
from kopt.data.validation import as_model_inputs
from kopt.graph import Call, GraphView, signature
from kopt.graph.internals import graph_of
from kopt.graph.running import run
from kopt.train.steps.label_checks import LossKind, only_loss

_ASKED, _WATCHED, _JUDGED = 8, 256, 1024
_CORRELATED, _LEAST_ACTIVE = 0.99, 10
_MOST_ROWS, _MOST_CHANNELS = 4096, 2048
_CONSTANT = 1e-6  # of the largest magnitude
_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6", "LeakyRelu", "Elu", "Gelu", "Silu")
_PLAIN = ("linear", "softmax", "sigmoid")


def inference(subject: Subject) -> InferenceFacts:
    """Ask a few examples twice together, and the first one alone."""
    x = tf.nest.map_structure(lambda leaf: leaf[:_ASKED], subject.inputs)
    alone = tf.nest.map_structure(lambda leaf: leaf[:1], x)
    first, second, single = (_outputs(subject.model, one) for one in (x, x, alone))
    return InferenceFacts(
        examples=len(first[0]),
        nonfinite=int(sum(np.count_nonzero(~np.isfinite(one)) for one in first)),
        repeat_difference=_difference(first, second),
        batch_difference=_difference([one[:1] for one in first], single, first),
    )


def fit_scores(subject: Subject) -> FitScores:
    """Evaluate the model on some training and as many validation examples."""
    train, judged = subject.examples[:2], subject.judged[:2]
    size = min(_JUDGED, _length(train), _length(judged))
    seen, unseen = (_evaluate(subject, data, size) for data in (train, judged))
    return FitScores(
        examples=size,
        loss=seen["loss"],
        validation_loss=unseen["loss"],
        accuracy=_accuracy(seen),
        validation_accuracy=_accuracy(unseen),
        **_against_chance(subject, train, size),
    )


def channel_activity(subject: Subject) -> ChannelActivity:
    """Watch the channels of activations while some examples go through.

    Raises:
        UnsupportedModelError: the model has no graph, so that there is no call to look at.
    """
    model = subject.model
    if graph_of(model) is None:
        raise UnsupportedModelError(f"The layers of {type(model).__qualname__} are called by Python code.")
    x = tf.nest.map_structure(lambda leaf: leaf[:_WATCHED], subject.inputs)
    inputs = list(as_model_inputs(x, signature(model)[0]).values())
    view = GraphView.of(model)
    found: list[LayerActivity] = []

    def look(path: str, call: Call, taken: Sequence[Any], given: Sequence[Any]) -> None:
        if _is_activation(call.operation) and given[0].shape.rank >= 2:
            axis = 1 if getattr(call.operation, "data_format", None) == "channels_first" else -1
            found.append(_activity(path, type(call.operation).__name__, np.asarray(given[0], np.float32), axis))

    run(view, inputs, look)
    return ChannelActivity(len(inputs[0]), tuple(found))


def _activity(path: str, kind: str, values: np.ndarray, axis: int) -> LayerActivity:
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    low, high = rows.min(axis=0), rows.max(axis=0)
    largest = np.abs(rows).max() or 1.0
    varies = np.flatnonzero(high - low > _CONSTANT * largest)
    return LayerActivity(path, kind, rows.shape[1], rows.shape[1] - len(varies), copies(rows[:, varies]))


def copies(rows: np.ndarray) -> int:
    """Return how many columns follow an earlier one, of those that are not 0 in at least ten rows."""
    step = -(-len(rows) // _MOST_ROWS)
    some = rows[::step, :_MOST_CHANNELS].astype(np.float64)
    some = some[:, np.count_nonzero(some, axis=0) >= _LEAST_ACTIVE]
    centered = some - some.mean(axis=0)
    norms = np.sqrt((centered**2).sum(axis=0))
    unit = centered[:, norms > 0] / norms[norms > 0]
    if unit.shape[1] < 2:
        return 0
    correlation = np.abs(unit.T @ unit)
    return int(np.count_nonzero(np.triu(correlation, 1).max(axis=0) > _CORRELATED))


def _is_activation(operation: Any) -> bool:
    kind = type(operation).__name__
    name = str(getattr(getattr(operation, "activation", None), "__name__", ""))
    return (kind in _ACTIVATIONS and name not in _PLAIN) or bool(name and name not in _PLAIN)


def _outputs(model: keras.Model, x: Any) -> list[np.ndarray]:
    """Return the outputs as `predict`, `evaluate` and files give them; a plain call of augmentation is random."""
    return [np.asarray(tf.cast(one, tf.float32)) for one in tf.nest.flatten(model(x, training=False))]


def _difference(one: list[np.ndarray], other: list[np.ndarray], scale: list[np.ndarray] | None = None) -> float:
    """Return the largest difference as a share of the largest finite output."""
    most = 0.0
    for a, b, whole in zip(one, other, scale or one, strict=True):
        finite = np.isfinite(a) & np.isfinite(b)
        largest = np.abs(whole[np.isfinite(whole)]).max(initial=0.0)
        if largest and finite.any():
            most = max(most, float(np.abs(a[finite] - b[finite]).max() / largest))
    return most


def _length(data: tuple[Any, ...]) -> int:
    return len(tf.nest.flatten(data)[0])


def _evaluate(subject: Subject, data: tuple[Any, ...], size: int) -> dict[str, float]:
    x, y = (tf.nest.map_structure(lambda leaf: _as_keras_takes(leaf[:size]), part) for part in data)
    found = subject.model.evaluate(x, y, batch_size=subject.batch_size, verbose=0, return_dict=True)
    return {name: float(value) for name, value in found.items()}


def _as_keras_takes(values: Any) -> Any:
    """Return text as a tensor, since Keras takes no arrays of it."""
    return tf.constant(values) if isinstance(values, np.ndarray) and values.dtype.kind in "OSU" else values


def _accuracy(scores: dict[str, float]) -> float | None:
    return next((value for name, value in scores.items() if "acc" in name), None)


def _against_chance(subject: Subject, train: tuple[Any, ...], size: int) -> dict[str, float | None]:
    """Return the entropy of the shares of the classes, the loss of always answering with them, and the model's own."""
    x, y = train
    none: dict[str, float | None] = {"chance_loss": None, "cross_entropy": None}
    ids = class_ids(y) if isinstance(y, np.ndarray) else None
    kind = LossKind.of(only_loss(subject.model.loss))
    if ids is None or kind.family == "other":
        return none
    some = tf.nest.map_structure(lambda leaf: _as_keras_takes(leaf[:size]), x)
    outputs = tf.nest.flatten(subject.model.predict(some, batch_size=subject.batch_size, verbose=0))
    shares = np.unique(ids, return_counts=True)[1] / len(ids)
    entropy = -float(sum(share * math.log(share) for share in shares))
    if len(outputs) > 1 or not entropy:
        return none
    own = _cross_entropy(ids[:size], np.asarray(outputs[0], np.float64), kind.from_logits)
    return none if own is None else {"chance_loss": entropy, "cross_entropy": own}


def _cross_entropy(ids: np.ndarray, outputs: np.ndarray, from_logits: bool) -> float | None:
    """Return the mean of `-log p` of the right classes; `None` where the outputs are of another form."""
    scores = outputs.reshape(len(ids), -1) if outputs.ndim == 1 else outputs
    if scores.ndim != 2 or ids.min() < 0 or ids.max() >= max(scores.shape[1], 2):
        return None
    if scores.shape[1] == 1:  # of the second of two classes
        second = 1 / (1 + np.exp(-scores)) if from_logits else scores
        probabilities = np.concatenate([1 - second, second], axis=1)
    elif from_logits:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
    else:
        probabilities = scores
    return float(-np.log(np.clip(probabilities[np.arange(len(ids)), ids], 1e-7, 1)).mean())
