"""Activations as models have them: functions of Keras, or of TensorFlow and `keras.ops` that compute the same."""

from typing import Any

import keras
import tensorflow as tf

A = keras.activations

# Of `keras.ops.gelu` the default is the approximation, that of `keras.activations.gelu` is not.
_OF_OPS = (
    *("elu", "hard_sigmoid", "hard_silu", "leaky_relu", "log_sigmoid", "log_softmax", "relu", "relu6", "selu"),
    *("sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"),
)
_OF_TENSORFLOW = (
    *("elu", "gelu", "leaky_relu", "log_softmax", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus"),
    *("softsign", "tanh"),
)
_SAME: dict[Any, Any] = {
    **{getattr(keras.ops, name): getattr(A, name) for name in _OF_OPS},
    **{getattr(tf.nn, name): getattr(A, name) for name in _OF_TENSORFLOW},
    tf.identity: A.linear,
}


def keras_activation(function: Any) -> Any:
    """Return the activation of Keras that computes what a function does; the function itself if none is known."""
    return _SAME.get(function, function)
