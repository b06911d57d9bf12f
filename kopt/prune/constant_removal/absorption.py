"""Where a layer can take in what constant channels give it: in its bias, or in the normalization behind it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kopt.graph import GraphView
from kopt.graph.channels import ChannelGraph, Flow
from kopt.train.interception import replaced

L = keras.layers
Array = npt.NDArray[np.float64]

# Layers that are linear up to their activation, of which a constant input makes a constant.
_LINEAR = (
    *(L.Dense, L.EinsumDense, L.Conv1D, L.Conv2D, L.Conv3D, L.SeparableConv1D, L.SeparableConv2D),
    *(L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose),
)
# Spread over the positions, as a share of the largest value, that is rounding and not the border of an image.
_ROUNDING = 1e-5
_AT_ONCE = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A variable that takes a shift of a layer's outputs in, with a factor of 1 (a bias) or -1 (a moving mean)."""

    path: str
    variable: Any
    factor: float


def place_of(model: keras.Model, graph: ChannelGraph, flow: Flow) -> tuple[Place | None, str]:
    """Return where the reader `flow` takes a shift in, or why there is no such place."""
    layer = flow.call.operation
    named = f"{flow.path!r} ({type(layer).__name__})"
    if type(layer) not in _LINEAR:
        return None, f"{named} reads them, which takes in no constant but zero"
    if layer.bias is not None:
        return Place(flow.path, layer.bias, 1.0), ""
    norm = _normalization_behind(model, graph, flow)
    if norm is None:
        return None, f"{named} reads them and has neither a bias nor a normalization of its own behind it"
    return Place(norm.path, norm.call.operation.moving_mean, -1.0), ""


def _normalization_behind(model: keras.Model, graph: ChannelGraph, flow: Flow) -> Flow | None:
    """Return the batch normalization that nothing but this layer, without activation, gives its input to."""
    layer, tensor = flow.call.operation, flow.call.outputs[0]
    view = next(view for view in _views(GraphView.of(model)) if view.producer(tensor) is not None)
    takers = view.consumers(tensor)
    if layer.activation is not keras.activations.linear or len(takers) != 1:
        return None
    norm = takers[0].operation
    calls = [one for one in graph.flows if one.call.operation in (layer, norm)]
    is_output = any(tensor is output for output in view.outputs)
    if type(norm) is not L.BatchNormalization or len(calls) != 2 or is_output or flow.outputs[0] is None:
        return None
    found = next(one for one in calls if one.call.operation is norm)
    return found if norm.axis % len(tensor.shape) == flow.outputs[0][0] else None


def _views(view: GraphView) -> Iterator[GraphView]:
    yield view
    for call in view.calls:
        if call.nested is not None:
            yield from _views(call.nested)


def responses(flow: Flow, shape: tuple[int, ...], constants: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return what a layer makes of constant channels, and for which of them it is the same at every position.

    It is not at the border of an image that is padded with zeros.

    Args:
        flow: the reader, whose layer is linear up to its activation.
        shape: of one example of its input.
        constants: `(sets, entries)`: values along the axis of the channels, each row for itself.

    Returns:
        `(sets, outputs)` and `(sets,)`.
    """
    layer, (taken, given) = flow.call.operation, (flow.inputs[0], flow.outputs[0])
    assert taken is not None
    assert given is not None
    axis, made = taken[0], given[0]
    along = [-1 if place == axis else 1 for place in range(len(shape) + 1)]
    means, even = [], []
    with replaced(layer, "activation", keras.activations.linear):
        nothing = np.asarray(layer(np.zeros((1, *shape), "float32")), np.float64)
        for start in range(0, len(constants), _AT_ONCE):
            some = constants[start : start + _AT_ONCE]
            x = np.stack([np.broadcast_to(row.reshape(along)[0], shape) for row in some])
            y = np.moveaxis(np.asarray(layer(x.astype("float32")), np.float64) - nothing, made, -1)
            y = y.reshape(len(some), -1, y.shape[-1])
            means.append(y.mean(axis=1))
            even.append(np.ptp(y, axis=1).max(axis=-1) <= _ROUNDING * np.abs(y).max(axis=(1, 2)))
    return np.concatenate(means), np.concatenate(even)
