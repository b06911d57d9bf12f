"""Convolutions: which axes of their weights are channels."""

import numpy as np

from kopt.graph.channels.activations import by_channel, described
from kopt.graph.channels.ledger import Visit
from kopt.graph.channels.maps import ChannelMap, Channels, UnfollowedError, grouped
from kopt.graph.channels.space import Ids


def convolution(visit: Visit) -> Channels:
    """`kernel` is `(..., inputs / groups, filters)`. In groups the same place of every group goes together."""
    layer = visit.operation
    visit.require_variables("kernel", "bias")
    axis = channel_axis(visit)
    inputs, kernel = visit.ids(axis), visit.variable("kernel")
    if layer.groups == inputs.size > 1:
        return _one_channel_a_group(visit, axis, inputs)
    if layer.groups > 1:
        _tie_groups(visit, inputs, layer.groups)
        inputs = grouped(inputs, layer.groups)[0]
    outputs = made(visit, layer.filters)
    if layer.groups > 1:
        _tie_groups(visit, outputs, layer.groups)
    visit.entry(kernel, -2, inputs, "input")
    visit.entry(kernel, -1, outputs, "kernel")
    visit.entry(visit.variable("bias"), 0, outputs, "bias")
    visit.setting("filters", outputs)
    return ChannelMap(axis, outputs)


def _one_channel_a_group(visit: Visit, axis: int, inputs: Ids) -> Channels:
    """A depthwise convolution: what comes of a channel goes with it, and so does its group."""
    outputs = np.repeat(inputs, visit.operation.filters // inputs.size)
    visit.entry(visit.variable("kernel"), -1, outputs, "kernel")
    visit.entry(visit.variable("bias"), 0, outputs, "bias")
    visit.setting("filters", outputs)
    visit.setting("groups", inputs)
    return activated(visit, ChannelMap(axis, outputs))


def depthwise(visit: Visit) -> Channels:
    """`kernel` is `(..., inputs, multiplier)`; output `c * multiplier + i` comes of input `c`."""
    visit.require_variables("kernel", "bias")
    axis = channel_axis(visit)
    inputs = visit.ids(axis)
    outputs = np.repeat(inputs, visit.operation.depth_multiplier)
    visit.entry(visit.variable("kernel"), -2, inputs, "kernel")
    visit.entry(visit.variable("bias"), 0, outputs, "bias")
    return activated(visit, ChannelMap(axis, outputs))


def separable(visit: Visit) -> Channels:
    """A depthwise convolution, then `pointwise_kernel` of `(..., inputs * multiplier, filters)`."""
    layer = visit.operation
    visit.require_variables("depthwise_kernel", "pointwise_kernel", "bias")
    axis = channel_axis(visit)
    inputs, outputs = visit.ids(axis), made(visit, layer.filters)
    visit.entry(visit.variable("depthwise_kernel"), -2, inputs, "input")
    visit.entry(visit.variable("pointwise_kernel"), -2, np.repeat(inputs, layer.depth_multiplier), "input")
    visit.entry(visit.variable("pointwise_kernel"), -1, outputs, "kernel")
    visit.entry(visit.variable("bias"), 0, outputs, "bias")
    visit.setting("filters", outputs)
    return ChannelMap(axis, outputs)


def transposed(visit: Visit) -> Channels:
    """`kernel` is `(..., filters, inputs)`."""
    layer = visit.operation
    visit.require_variables("kernel", "bias")
    axis = channel_axis(visit)
    inputs, outputs = visit.ids(axis), made(visit, layer.filters)
    visit.entry(visit.variable("kernel"), -1, inputs, "input")
    visit.entry(visit.variable("kernel"), -2, outputs, "kernel")
    visit.entry(visit.variable("bias"), 0, outputs, "bias")
    visit.setting("filters", outputs)
    return ChannelMap(axis, outputs)


def channel_axis(visit: Visit) -> int:
    """Return the axis of the channels of the input, as `data_format` says.

    Raises:
        UnfollowedError: the input has no axis for channels.
    """
    rank = len(visit.main().shape)
    if rank < 3:
        raise UnfollowedError("its input has no axis of positions")
    return 1 if getattr(visit.operation, "data_format", "channels_last") == "channels_first" else rank - 1


def made(visit: Visit, size: int, kind: str = "channels") -> Ids:
    """Return ids of the channels that the layer makes; an activation across channels makes them stay."""
    ids = visit.block(size, kind)
    activated(visit, ChannelMap(0, ids))
    return ids


def activated(visit: Visit, channels: ChannelMap) -> ChannelMap:
    """Return the channels after the layer's own activation."""
    activation = getattr(visit.operation, "activation", None)
    if not by_channel(activation):
        reason = f"the activation {described(activation)!r} of {visit.path!r} may compute over all channels"
        visit.ledger.space.freeze(channels.ids, reason)
    return channels


def _tie_groups(visit: Visit, ids: Ids, groups: int) -> None:
    first, *others = grouped(ids, groups)
    for other in others:
        visit.ledger.space.tie(first, other)
