"""Which activations treat every channel by itself."""

from typing import Any

import keras

from kopt.graph.activation_functions import keras_activation

_ACROSS = ("softmax", "log_softmax", "sparsemax", "glu")
_LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)


def by_channel(function: Any) -> bool:
    """Return whether an activation of Keras computes every entry from that entry alone.

    Functions of the user may do anything, so they do not count.
    """
    function = keras_activation(function)
    if isinstance(function, keras.Operation):
        return type(function) in _LAYERS
    return function is None or (function.__module__.startswith("keras.") and described(function) not in _ACROSS)


def described(function: Any) -> str:
    """Return what an activation is called."""
    return str(getattr(function, "__name__", type(function).__name__))
