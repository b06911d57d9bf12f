"""The shapes that a formula is about, among the arguments of a call: no masks, no initial states."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kopt.profile.cost.shapes import Shape

_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def operand_shapes(
    operation: keras.Operation, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Shape, ...]:
    """Return the shapes of what a layer or operation computes on.

    Args:
        operation: of Keras.
        call: its `call`, whose parameters tell what the arguments are.
        args: tensors, arrays and settings by position.
        kwargs: those by name.
    """
    if not isinstance(operation, keras.layers.Layer):
        return tuple(shape for one in (*args, *kwargs.values()) for shape in _shapes(one))
    named = inspect.signature(call).bind(*args, **kwargs).arguments
    if isinstance(operation, _ATTENTION):
        key = named.get("key")
        parts = [named["query"], named["value"], named["value"] if key is None else key]
        return tuple(shape for part in parts for shape in _shapes(part))
    return tuple(_shapes(next(iter(named.values()), None)))


def _shapes(value: Any) -> list[Shape]:
    return [tuple(leaf.shape) for leaf in keras.tree.flatten(value) if hasattr(leaf, "shape")]
