"""Which activations treat every channel by itself."""

from typing import Any

_ACROSS = ("softmax", "log_softmax", "sparsemax", "glu", "threshold_softmax")


def by_channel(function: Any) -> bool:
    """Return whether an activation of Keras computes every entry from that entry alone.

    Functions of the user may do anything, so they do not count.
    """
    module = getattr(function, "__module__", type(function).__module__)
    name = getattr(function, "__name__", type(function).__name__.lower())
    return function is None or (module.startswith("keras.") and name not in _ACROSS)


def described(function: Any) -> str:
    """Return what an activation is called."""
    return str(getattr(function, "__name__", type(function).__name__))
