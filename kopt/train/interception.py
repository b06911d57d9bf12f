"""Standing in for a method of a Keras object for a while, and leaving no trace."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


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
