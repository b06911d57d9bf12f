"""Which layers are called with a mask."""

from typing import Any

import keras

from kopt.graph.internals import mask_of
from kopt.graph.view import GraphView

_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def has_mask(call: Any) -> bool:
    """Return whether a call in a `GraphView` has a mask: its own, a causal one, or one that comes with an input."""
    _, kwargs = call.arguments
    given = any(value is not None for name, value in kwargs.items() if name.endswith("mask") and "causal" not in name)
    return bool(given or kwargs.get("use_causal_mask") or any(mask_of(tensor) is not None for tensor in call.inputs))


def masked_attention(view: GraphView, prefix: str = "") -> list[str]:
    """Return the paths of attention layers that are called with a mask, as `GraphView.walk` has them."""
    found: list[str] = []
    for operation in view.operations:
        calls = view.calls_of(operation)
        if calls[0].nested is not None:
            found += masked_attention(calls[0].nested, f"{prefix}{operation.name}/")
        elif isinstance(operation, _ATTENTION) and any(map(has_mask, calls)):
            found.append(f"{prefix}{operation.name}")
    return found
