"""Dense layers, embeddings, recurrent layers and attention: which axes of their weights are channels."""

from typing import Any

import keras
import numpy as np

from kopt.graph.channels.activations import by_channel, described
from kopt.graph.channels.convolutions import made
from kopt.graph.channels.ledger import Visit
from kopt.graph.channels.maps import ChannelMap, Channels, Fixed, UnfollowedError

_ATTENTION_ARGUMENTS = ("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask")


def dense(visit: Visit) -> Channels:
    """`kernel` is `(inputs, units)`."""
    visit.require_variables("kernel", "bias")
    inputs, outputs = visit.ids(-1), made(visit, visit.operation.units)
    visit.entry(visit.variable("kernel"), 0, inputs, "input")
    visit.entry(visit.variable("kernel"), 1, outputs, "kernel")
    visit.entry(visit.variable("bias"), 0, outputs, "bias")
    visit.setting("units", outputs)
    return ChannelMap(len(visit.main().shape) - 1, outputs)


def embedding(visit: Visit) -> Channels:
    """`embeddings` is `(vocabulary, output_dim)`."""
    visit.require_variables("embeddings")
    axis = len(visit.main().shape)
    outputs = made(visit, visit.operation.output_dim)
    visit.entry(visit.variable("embeddings"), 1, outputs, "kernel")
    visit.setting("output_dim", outputs)
    return ChannelMap(axis, outputs)


def recurrent(visit: Visit) -> list[ChannelMap]:
    """Weights hold the units once for every gate, side by side; the state has the same units as the output."""
    layer, gates = visit.operation, {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[type(visit.operation).__name__]
    visit.require_variables("kernel", "recurrent_kernel", "bias", "seed_generator_state")
    inputs, outputs = visit.ids(-1), made(visit, layer.units, "units")
    for function in (layer.activation, getattr(layer, "recurrent_activation", None)):
        if not by_channel(function):
            visit.ledger.space.freeze(outputs, f"the activation {described(function)!r} of {visit.path!r}")
    every_gate = np.tile(outputs, gates)
    visit.entry(visit.variable("kernel"), 0, inputs, "input")
    visit.entry(visit.variable("kernel"), 1, every_gate, "kernel")
    visit.entry(visit.variable("recurrent_kernel"), 0, outputs, "input")
    visit.entry(visit.variable("recurrent_kernel"), 1, every_gate, "kernel")
    visit.entry(visit.variable("bias"), -1, every_gate, "bias")
    visit.setting("units", outputs)
    return [ChannelMap(len(tensor.shape) - 1, outputs) for tensor in visit.call.outputs]


def einsum_dense(visit: Visit) -> Channels:
    """Like `dense` where the equation sums over the channels and has one new index, e.g. `"abc,cd->abd"`."""
    layer = visit.operation
    visit.require_variables("kernel", "bias")
    left, result = layer.equation.replace(" ", "").split("->")
    given, kernel = left.split(",")
    summed, new = set(given) - set(result), set(result) - set(given)
    if "." in left or len(summed) != 1 or len(new) != 1 or layer.bias_axes not in (None, *new):
        raise UnfollowedError("its equation does more than one sum over the channels")
    old_index, new_index = summed.pop(), new.pop()
    inputs = visit.ids(given.index(old_index))
    axis = result.index(new_index)
    outputs = made(visit, visit.call.outputs[0].shape[axis])
    visit.entry(visit.variable("kernel"), kernel.index(old_index), inputs, "input")
    visit.entry(visit.variable("kernel"), kernel.index(new_index), outputs, "kernel")
    visit.entry(visit.variable("bias"), 0, outputs, "bias")
    visit.setting("output_shape", outputs, axis - 1)
    return ChannelMap(axis, outputs)


def multi_head_attention(visit: Visit) -> list[Channels]:
    """Whole heads can go; what it takes and gives is as wide as the stream that it stands in."""
    layer, (query, value, key) = visit.operation, _operands(visit)
    if layer.get_config()["output_shape"] is not None or layer.get_config().get("use_gate"):
        raise UnfollowedError("its output has a shape of its own")
    visit.require_variables("kernel", "bias", "seed_generator_state")
    taken = [visit.ids(-1, tensor) for tensor in (query, value, key)]
    stream, heads = taken[0], visit.block(layer.num_heads, "heads")
    for inner, ids in zip((layer.query_dense, layer.value_dense, layer.key_dense), taken, strict=True):
        visit.entry(inner.kernel, 0, ids, "input")
        visit.entry(inner.kernel, 1, heads, "kernel")
        visit.entry(inner.bias, 0, heads, "bias")
    visit.entry(layer.output_dense.kernel, 0, heads, "input")
    visit.entry(layer.output_dense.kernel, -1, stream, "kernel")
    visit.entry(layer.output_dense.bias, 0, stream, "bias")
    visit.setting("num_heads", heads)
    if len(visit.call.outputs) > 1:
        visit.ledger.space.freeze(heads, f"{visit.path!r} returns its attention scores")
    first = ChannelMap(len(query.shape) - 1, stream)
    return [first, *(Fixed(f"attention scores of {visit.path!r}") for _ in visit.call.outputs[1:])]


def _operands(visit: Visit) -> tuple[Any, Any, Any]:
    """Return query, value and key.

    Raises:
        UnfollowedError: another tensor has an axis for heads or channels, or one of these is no tensor.
    """
    args, kwargs = visit.call.arguments
    named = dict(zip(_ATTENTION_ARGUMENTS, args, strict=False))
    named.update(kwargs)
    mask = named.get("attention_mask")
    if mask is not None and len(mask.shape) != 3:
        raise UnfollowedError("its mask may differ from head to head")
    query, value = named.get("query"), named.get("value")
    key = named.get("key") if named.get("key") is not None else value
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in (query, value, key)):
        raise UnfollowedError("an operand is a constant")
    return query, value, key
