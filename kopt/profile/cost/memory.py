"""The most that the tensors of a forward pass take at one moment, from when each is made and last read."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from kopt.profile.cost.flat import FlatCall, FlatGraph
from kopt.profile.cost.shapes import Shape, names, product

# What these give is what they were given: no memory of its own in inference.
VIEWS = frozenset(
    names(
        """
        Flatten Reshape Identity Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout
        GaussianNoise AlphaDropout ActivityRegularization Masking ExpandDims Squeeze
        """
    )
)


class Peak(NamedTuple):
    """Bytes, and the call at which they are there."""

    size_bytes: int
    path: str


def bytes_of(shapes: Sequence[Shape], tensors: Sequence[Any]) -> int | None:
    """Return the bytes of tensors, each once; `None` where a size is open.

    Args:
        shapes: of the tensors, batch axis first.
        tensors: that have the types.
    """
    sizes = {id(tensor): size_bytes(shape, tensor.dtype) for shape, tensor in zip(shapes, tensors, strict=True)}
    return None if None in sizes.values() else sum(size or 0 for size in sizes.values())


def size_bytes(shape: Shape, dtype: str) -> int | None:
    """Return the bytes of a tensor; `None` where a size is open."""
    return None if None in shape else product(shape) * item_bytes(dtype)


def item_bytes(dtype: str) -> int:
    """Return the bytes of one entry of a Keras dtype; of a string, what it takes beside its characters: nothing."""
    bits = re.search(r"\d+", dtype)
    if bits is None:
        return int(dtype == "bool")
    return max(1, int(bits.group()) // 8)


def peak_activations(graph: FlatGraph, input_bytes: Sequence[int | None]) -> Peak | None:
    """Return the peak of a forward pass; `None` where a size is open.

    At each call its inputs, its outputs and everything that a later call still reads are there. Weights, scratch memory
    of a kernel and tensors inside a layer are not counted.

    Args:
        graph: the calls, in order, with sizes that are known.
        input_bytes: of the model's inputs.
    """
    sizes: dict[int, int | None] = dict(zip(graph.inputs, input_bytes, strict=True))
    owner = {key: key for key in graph.inputs}
    for call in graph.calls:
        for key, shape, tensor in zip(call.outputs, call.output_shapes, call.call.outputs, strict=True):
            is_view = type(call.operation).__name__ in VIEWS and len(call.inputs) == 1
            owner[key] = owner[call.inputs[0]] if is_view else key
            if not is_view:
                sizes[key] = size_bytes(shape, tensor.dtype)
    known = {key: size for key, size in sizes.items() if size is not None}
    return _peak(graph.calls, set(graph.inputs), known, owner, graph.outputs) if len(known) == len(sizes) else None


def _peak(
    calls: Sequence[FlatCall], alive: set[int], sizes: dict[int, int], owner: dict[int, int], outputs: Sequence[int]
) -> Peak:
    last = {owner[key]: place for place, call in enumerate(calls) for key in call.inputs}
    last.update({owner[key]: len(calls) for key in outputs})
    peak = Peak(sum(sizes[key] for key in alive), "")
    for place, call in enumerate(calls):
        alive = alive | {owner[key] for key in call.outputs}
        now = sum(sizes[key] for key in alive)
        if now > peak.size_bytes:
            peak = Peak(now, call.path)
        alive = {key for key in alive if last.get(key, -1) > place}
    return peak


def weight_bytes(variable: keras.Variable) -> int:
    """Return the bytes of a variable in the type it is kept in."""
    return product(variable.shape) * item_bytes(keras.backend.standardize_dtype(variable.dtype))
