"""Weights of examples from weights of their classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError


def weights_of_classes(y: Any, class_weight: Mapping[int, float]) -> tf.Tensor:
    """Return the weight of each example from that of its class, 1 for classes that are not named.

    Args:
        y: labels of shape (batch,) or (batch, 1), or one-hot rows of shape (batch, classes).
        class_weight: weight by label.

    Returns:
        float32 of shape (batch,).

    Raises:
        ConfigError: `y` are not the labels of one output, or a key is no label.
    """
    if y is None or tf.nest.is_nested(y):
        raise ConfigError("`class_weight` needs the labels of one output. Pass `sample_weight` instead.")
    if not class_weight or any(not isinstance(label, (int, np.integer)) or label < 0 for label in class_weight):
        raise ConfigError(
            f"`class_weight` is a dict from labels, counted from 0, to weights. Received: {class_weight!r}."
        )
    y = tf.convert_to_tensor(y)
    one_hot = y.shape.rank == 2 and y.shape[-1] != 1
    labels = tf.argmax(y, axis=-1) if one_hot else tf.cast(tf.reshape(y, [-1]), tf.int64)
    table = tf.constant([float(class_weight.get(label, 1.0)) for label in range(max(class_weight) + 1)])
    known = labels < table.shape[0]
    return tf.where(known, tf.gather(table, tf.where(known, labels, 0)), 1.0)
