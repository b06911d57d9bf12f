"""Standing in for a method of a Keras object for a while, and leaving no trace."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras

_THREAD = threading.local()


class Recorder(Protocol):
    """Notes tensors from the inside of what is called."""

    def recording(self) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """Give a dict that fills with them, by name, while something is called in this thread inside the block."""
        ...


def open_recordings() -> tuple[tuple[Recorder, dict[str, Any]], ...]:
    """Return who notes what is called in this thread now, each with what it has noted so far."""
    return getattr(_THREAD, "recordings", ())


@contextlib.contextmanager
def opened(recorder: Recorder, found: dict[str, Any]) -> Iterator[None]:
    """Have `open_recordings` give this pair inside the block."""
    before = open_recordings()
    _THREAD.recordings = (*before, (recorder, found))
    try:
        yield
    finally:
        _THREAD.recordings = before


@contextlib.contextmanager
def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Call `function` where `owner.name` is called inside the block.

    The function is put on the instance past `__setattr__`, with which Keras looks for layers and variables.
    """
    attributes = vars(owner)
    missing = object()
    before = attributes.get(name, missing)
    attributes[name] = function
    try:
        yield
    finally:
        if before is missing:
            del attributes[name]
        else:
            attributes[name] = before


def with_own_callbacks(model: keras.Model, callbacks: Any) -> list[keras.callbacks.Callback]:
    """Return the callbacks that `fit` was given, after those that the model itself wants in every `fit`.

    A model says so by a method `own_callbacks`; those of `kopt.prune.magnitude` look at the length of the training.
    """
    given = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks or []
    own: list[Any] = getattr(model, "own_callbacks", list)()
    return [*own, *(given if isinstance(given, (list, tuple)) else [given])]
