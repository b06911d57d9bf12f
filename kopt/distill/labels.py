"""Labels that are there for some examples only."""

from typing import Any

import tensorflow as tf

from kopt.core.errors import ConfigError


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
