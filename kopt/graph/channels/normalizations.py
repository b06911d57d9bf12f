"""Layers with one weight a channel."""

from kopt.graph.channels.convolutions import channel_axis
from kopt.graph.channels.ledger import Visit
from kopt.graph.channels.maps import ChannelMap, Channels, UnfollowedError, grouped


def batch_normalization(visit: Visit) -> Channels:
    """Every channel has its own statistics."""
    visit.require_variables("gamma", "beta", "moving_mean", "moving_variance")
    axis = visit.operation.axis % len(visit.main().shape)
    ids = visit.ids(axis)
    roles = {"gamma": "scale", "beta": "offset", "moving_mean": "mean", "moving_variance": "other"}
    for name, role in roles.items():
        visit.entry(visit.variable(name), 0, ids, role)
    return ChannelMap(axis, ids)


def layer_normalization(visit: Visit) -> Channels:
    """Statistics over the channels change when one goes, even one that is zero."""
    visit.require_variables("gamma", "beta", "scale")
    rank = len(visit.main().shape)
    axes = visit.operation.axis
    axes = [axis % rank for axis in (axes if isinstance(axes, (list, tuple)) else [axes])]
    channels = visit.of(visit.main())
    axis = channels.axis if isinstance(channels, ChannelMap) else axes[-1]
    if axis not in axes:
        return channels
    ids = visit.ids(axis)
    for name, role in {"gamma": "scale", "scale": "scale", "beta": "offset"}.items():
        visit.entry(visit.variable(name), axes.index(axis), ids, role)
    visit.ledger.space.remark(ids, f"{visit.path!r} normalizes over what is left")
    return ChannelMap(axis, ids)


def group_normalization(visit: Visit) -> Channels:
    """Groups stay as many and equally large, so the same place of every group goes together."""
    layer = visit.operation
    visit.require_variables("gamma", "beta")
    axis = layer.axis % len(visit.main().shape)
    ids = visit.ids(axis)
    for name, role in {"gamma": "scale", "beta": "offset"}.items():
        visit.entry(visit.variable(name), 0, ids, role)
    if layer.groups == ids.size:
        visit.setting("groups", ids)
        return ChannelMap(axis, ids)
    first, *others = grouped(ids, layer.groups)
    for other in others:
        visit.ledger.space.tie(first, other)
    visit.ledger.space.remark(ids, f"{visit.path!r} normalizes over what is left")
    return ChannelMap(axis, ids)


def prelu(visit: Visit) -> Channels:
    """`alpha` has the shape of an example, and 1 where it is shared."""
    visit.require_variables("alpha")
    channels, alpha = visit.of(visit.main()), visit.variable("alpha")
    axis = channels.axis if isinstance(channels, ChannelMap) else len(visit.main().shape) - 1
    if alpha.shape[axis - 1] != 1:
        ids = visit.ids(axis)
        visit.entry(alpha, axis - 1, ids, "other")
    return channels


def layer_scale(visit: Visit) -> Channels:
    """ConvNeXt's factor a channel."""
    axis = channel_axis(visit)
    ids = visit.ids(axis)
    visit.entry(visit.operation.gamma, 0, ids, "scale")
    visit.setting("projection_dim", ids)
    return ChannelMap(axis, ids)


def rescaling(visit: Visit) -> Channels:
    """By one number for all channels."""
    numbers = (visit.operation.scale, visit.operation.offset)
    if any(getattr(number, "ndim", 0) or isinstance(number, (list, tuple)) for number in numbers):
        raise UnfollowedError("it has one number a channel in its config")
    return visit.of(visit.main())
