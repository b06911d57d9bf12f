"""The most that the tensors of a forward pass take at one moment, from when each is made and last read."""

from collections.abc import Mapping
from typing import NamedTuple

import keras

from kopt.profile.cost.flat import FlatCall, FlatGraph
from kopt.profile.cost.macs import Shape, product

# What these give is what they were given: no memory of its own in inference.
_VIEWS = (
    "Flatten", "Reshape", "Identity", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization", "Masking", "ExpandDims", "Squeeze",
)  # fmt: skip


class Peak(NamedTuple):
    """Bytes for one example, and the call at which they are there."""

    size_bytes: int
    path: str


def bytes_of(call: FlatCall) -> tuple[int | None, ...]:
    """Return the bytes of the outputs of a call, for one example; `None` where a dimension is open."""
    pairs = zip(call.output_shapes, call.call.outputs, strict=True)
    return tuple(size_bytes(shape, tensor.dtype) for shape, tensor in pairs)


def input_bytes_of(call: FlatCall) -> tuple[int | None, ...]:
    """Return the bytes of the tensors that a call takes, each once, for one example."""
    taken = dict(zip(call.inputs, zip(call.input_shapes, call.call.inputs, strict=True), strict=True))
    return tuple(size_bytes(shape, tensor.dtype) for shape, tensor in taken.values())


def size_bytes(shape: Shape, dtype: str) -> int | None:
    """Return the bytes of one example of a tensor; `None` where a dimension is open."""
    entries = product(shape[1:])
    return None if entries is None else entries * item_bytes(dtype)


def item_bytes(dtype: str) -> int:
    """Return the bytes of one entry of a Keras dtype."""
    digits = "".join(filter(str.isdigit, dtype))
    return max(1, int(digits) // 8) if digits else 1


def peak_activations(graph: FlatGraph, input_bytes: Mapping[int, int | None]) -> Peak | None:
    """Return the peak of a forward pass; `None` where a size is open.

    At each call its inputs, its outputs and everything that a later call still reads are there. Weights, scratch memory
    of a kernel and tensors inside a layer are not counted.

    Args:
        graph: the calls, in order.
        input_bytes: of the model's inputs, by key, for one example.
    """
    sizes, owner = dict(input_bytes), {key: key for key in graph.inputs}
    for call in graph.calls:
        for key, size in zip(call.outputs, bytes_of(call), strict=True):
            is_view = type(call.operation).__name__ in _VIEWS and len(call.inputs) == 1
            owner[key] = owner[call.inputs[0]] if is_view else key
            sizes[key] = 0 if is_view else size
    if any(size is None for size in sizes.values()):
        return None
    last = _last_reads(graph, owner)
    alive = set(graph.inputs)
    peak = Peak(sum(sizes[key] or 0 for key in alive), "")
    for place, call in enumerate(graph.calls):
        alive |= {owner[key] for key in call.outputs}
        now = sum(sizes[key] or 0 for key in alive)
        if now > peak.size_bytes:
            peak = Peak(now, call.path)
        alive = {key for key in alive if last.get(key, -1) > place}
    return peak


def _last_reads(graph: FlatGraph, owner: Mapping[int, int]) -> dict[int, int]:
    last: dict[int, int] = {}
    for place, call in enumerate(graph.calls):
        for key in call.inputs:
            last[owner[key]] = place
    last.update({owner[key]: len(graph.calls) for key in graph.outputs})
    return last


def weight_bytes(variable: keras.Variable) -> int:
    """Return the bytes of a variable in the type it is kept in."""
    entries = product(variable.shape) or 0
    return entries * item_bytes(keras.backend.standardize_dtype(variable.dtype))
