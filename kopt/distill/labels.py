"""Labels and weights of the outputs, and labels that are there for some examples only."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError


def arranged(
    y: Any, sample_weight: Any, y_pred: Any, names: Sequence[str], unlabeled: int | None
) -> tuple[Any, list[Any], Any]:
    """Return labels that a loss of Keras can compute with, what each output's soft loss gets of them, and the weights.

    Args:
        y: labels as `fit` takes them: one, a list, or by output name; `None`: none.
        sample_weight: likewise; one may be for all outputs.
        y_pred: outputs.
        names: of the outputs, in the order in which Keras flattens them.
        unlabeled: see `known`; `None`: all examples have labels.

    Raises:
        ConfigError: weights for some of the outputs; with `unlabeled`, labels for some of them.
    """
    if y is None:
        return None, [None] * len(names), sample_weight
    labels, given = _by_output(y, names), weights_by_output(sample_weight, names)
    is_whole = all(one is not None for one in labels)
    if unlabeled is None:
        paired = [None if one is None else (one, None) for one in labels]
        if isinstance(y, Mapping) and isinstance(y_pred, (list, tuple)) and is_whole:
            return labels, paired, None if sample_weight is None else given
        return y, paired, sample_weight
    if not is_whole:
        there = [name for name, one in zip(names, labels, strict=True) if one is not None]
        raise ConfigError(
            f"With `unlabeled` every output has labels. Received labels of {', '.join(there) or 'none'}; the outputs "
            f"are {', '.join(names)}. Pass arrays full of {unlabeled} for the others."
        )
    pairs = [known(one, unlabeled) for one in labels]
    weights = [weighted(weight, present) for weight, (_, present) in zip(given, pairs, strict=True)]
    return (
        keras.tree.pack_sequence_as(y_pred, [one for one, _ in pairs]),
        pairs,
        keras.tree.pack_sequence_as(y_pred, weights),
    )


def weights_by_output(sample_weight: Any, names: Sequence[str]) -> list[Any]:
    """Return the weights of each output, `None` where there are none; one may be for all.

    Raises:
        ConfigError: there are neither one nor as many as outputs.
    """
    if sample_weight is None or isinstance(sample_weight, Mapping):
        return _by_output(sample_weight, names)
    leaves = keras.tree.flatten(sample_weight)
    if len(leaves) not in (1, len(names)):
        raise ConfigError(
            f"`sample_weight` is one array for all outputs or one for each of {', '.join(names)}. Received: "
            f"{len(leaves)} arrays."
        )
    return _by_output(leaves if len(leaves) > 1 else leaves * len(names), names)


def _by_output(values: Any, names: Sequence[str]) -> list[Any]:
    """Return what there is for each output, in order; nothing for any where their number is another."""
    if isinstance(values, Mapping):
        leaves = [values.get(name) for name in names]
    else:
        leaves = [] if values is None else keras.tree.flatten(values)
    if len(leaves) != len(names):
        leaves = [None] * len(names)
    return [None if one is None else tf.convert_to_tensor(one) for one in leaves]


def known(y: Any, unlabeled: int) -> tuple[Any, Any]:
    """Return labels that can be computed with, and 1.0 where there is one, 0.0 where there is none.

    Of whole numbers `unlabeled` stands for no label; of floating-point ones NaN does. What is missing becomes 0.

    Args:
        y: a tensor: class numbers of shape (examples,), (examples, 1) or (examples, positions), or rows of floats.
        unlabeled: the number.
    """
    if y.dtype.is_floating:
        missing = tf.math.is_nan(y)
        return tf.where(missing, tf.zeros_like(y), y), 1.0 - _any(tf.cast(missing, tf.float32))
    missing = tf.equal(y, tf.cast(unlabeled, y.dtype))
    return tf.where(missing, tf.zeros_like(y), y), 1.0 - _squeezed(tf.cast(missing, tf.float32))


def weighted(sample_weight: Any, present: Any) -> Any:
    """Return weights that are 0 where there is no label."""
    if sample_weight is None:
        return present
    sample_weight = tf.cast(sample_weight, tf.float32)
    if sample_weight.shape.rank > present.shape.rank and sample_weight.shape[-1] == 1:
        sample_weight = sample_weight[..., 0]
    extra = present.shape.rank - sample_weight.shape.rank
    return tf.reshape(sample_weight, (*tf.unstack(tf.shape(sample_weight)), *[1] * extra)) * present


def classes(y: Any, outputs: Any) -> Any:
    """Return class numbers, of the shape of `outputs` without its last axis.

    Raises:
        ConfigError: `y` has neither the shape of class numbers nor that of the outputs.
    """
    rank = outputs.shape.rank
    if y.shape.rank == rank and y.shape[-1] == 1:
        y = y[..., 0]
    if y.shape.rank == rank and y.shape[-1] == outputs.shape[-1]:
        return tf.argmax(y, axis=-1)
    if y.shape.rank == rank - 1:
        return tf.cast(y, tf.int64)
    raise ConfigError(
        f"Labels of shape {tuple(y.shape)} are not classes of outputs of shape {tuple(outputs.shape)}. Pass class "
        f"numbers or one-hot rows, or a loss that needs no labels, e.g. 'kl'."
    )


def _squeezed(missing: Any) -> Any:
    return missing[..., 0] if missing.shape.rank > 1 and missing.shape[-1] == 1 else missing


def _any(missing: Any) -> Any:
    return tf.reduce_max(missing, axis=-1) if missing.shape.rank > 1 else missing
