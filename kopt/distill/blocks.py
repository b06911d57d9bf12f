"""Blocks that can be left out of a model, and layers whose width the outputs show."""

import math
from typing import Any

import keras

from kopt.core.errors import ConfigError
from kopt.graph import Call, GraphView


def removable(model: keras.Model, kept: float) -> dict[str, int]:
    """Return the layers to pass by so that a share of the blocks is left, with the input that each gives back.

    A block is an `Add` one of whose inputs goes past the layers that the other comes from; where there is none, a layer
    with weights that gives the shape it takes. Of blocks of one shape the first are kept.

    Args:
        model: Functional or Sequential.
        kept: share of them, in [0, 1]; at 1 nothing is removed.

    Raises:
        UnsupportedModelError: a subclassed model.
        ConfigError: there is no block.
    """
    if kept == 1.0:
        return {}
    view = GraphView.of(model)
    outputs = {id(tensor) for tensor in view.outputs}
    inner = [call for call in view.calls if id(call.outputs[0]) not in outputs]
    blocks = {id(call): place for call in inner if (place := _past(view, call)) is not None}
    blocks = blocks or {id(call): 0 for call in inner if _keeps_shape(call)}
    if not blocks:
        raise ConfigError(
            f"No block of {model.name!r} can be left out: there is no `keras.layers.Add` round which a tensor of the "
            f"same shape goes, and no layer that gives the shape it takes. Use `depth=1.0`."
        )
    by_shape: dict[tuple[Any, ...], list[Call]] = {}
    for call in (one for one in inner if id(one) in blocks):
        by_shape.setdefault(tuple(call.outputs[0].shape), []).append(call)
    removed = [call for group in by_shape.values() for call in group[math.ceil(kept * len(group)) :]]
    return {call.operation.name: blocks[id(call)] for call in removed}


def tied_to_outputs(view: GraphView) -> set[int]:
    """Return the ids of the layers whose channels the outputs of a model show."""
    fixed: set[int] = set()
    pending = [call for tensor in view.outputs if (call := view.producer(tensor)) is not None]
    while pending:
        call = pending.pop()
        operation = call.operation
        weights = getattr(operation, "weights", [])
        if weights:
            fixed.add(id(operation))
        if not weights or _passes_channels(operation):
            pending += [one for tensor in call.inputs if (one := view.producer(tensor)) is not None]
    return fixed


def _past(view: GraphView, call: Call) -> int | None:
    """Return which input of an addition goes past the layers that the other comes from; `None` if neither does."""
    if type(call.operation) is not keras.layers.Add or len(call.inputs) != 2:
        return None
    one, other = call.inputs
    if tuple(one.shape) != tuple(other.shape):
        return None
    return 0 if _comes_from(view, other, one) else 1 if _comes_from(view, one, other) else None


def _comes_from(view: GraphView, tensor: keras.KerasTensor, source: keras.KerasTensor) -> bool:
    """Return whether `tensor` is made of `source`, and of nothing else that is not made of it."""
    pending, seen = [tensor], set()
    while pending:
        one = pending.pop()
        if one is source:
            seen.add(id(source))
            continue
        call = view.producer(one)
        if call is None:
            return False
        if id(call) not in seen:
            seen.add(id(call))
            pending += call.inputs
    return id(source) in seen


def _keeps_shape(call: Call) -> bool:
    weights = getattr(call.operation, "weights", [])
    shapes = [tuple(tensor.shape) for tensor in (*call.inputs, *call.outputs)]
    return bool(weights) and not _passes_channels(call.operation) and len(shapes) == 2 and shapes[0] == shapes[1]


def _passes_channels(operation: Any) -> bool:
    kind = type(operation).__name__
    return "Normalization" in kind or "Depthwise" in kind or kind == "PReLU"
