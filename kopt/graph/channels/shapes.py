"""Layers and operations that move, drop or merge axes."""

import operator
from typing import Any

import keras
import numpy as np

from kopt.graph.channels.activations import by_channel, described
from kopt.graph.channels.convolutions import channel_axis
from kopt.graph.channels.ledger import Visit
from kopt.graph.channels.maps import ChannelMap, Channels, UnfollowedError, permuted, reduced, reshaped


def same(visit: Visit) -> Channels:
    """Every entry is computed from that entry, and from numbers that are the same for all channels."""
    operation = visit.operation
    settings = {} if isinstance(operation, keras.layers.Layer) else vars(operation)
    public = [value for name, value in settings.items() if not name.startswith("_")]
    if any(map(_is_list, (*keras.tree.flatten(visit.call.arguments), *public))):
        raise UnfollowedError("it may have one number a channel in its settings")
    return visit.of(visit.main())


def _is_list(value: Any) -> bool:
    if isinstance(value, (str, keras.KerasTensor)):
        return False
    return isinstance(value, (list, tuple)) or bool(getattr(value, "ndim", 0))


def dropout(visit: Visit) -> Channels:
    """Of single entries; a shape of the noise must not have the number of channels."""
    if any(size not in (None, 1) for size in getattr(visit.operation, "noise_shape", None) or ()):
        raise UnfollowedError("the shape of its noise is part of its config")
    return visit.of(visit.main())


def activation(visit: Visit) -> Channels:
    """Every entry is computed from that entry, if the activation is of that kind."""
    function = visit.operation.activation
    if visit.operation.variables or not by_channel(function):
        raise UnfollowedError(f"its activation {described(function)!r} may compute over all channels")
    return visit.of(visit.main())


def softmax(visit: Visit) -> Channels:
    """Over another axis than that of the channels."""
    axes = visit.operation.axis
    _reduce(visit, axes if isinstance(axes, (list, tuple)) else [axes], keepdims=True)
    return visit.of(visit.main())


def spatial(visit: Visit) -> Channels:
    """Pooling, padding, cropping, enlarging: positions change, channels do not."""
    channels, axis = visit.of(visit.main()), channel_axis(visit)
    if isinstance(channels, ChannelMap) and channels.axis != axis:
        raise UnfollowedError("it takes another axis for the channels")
    return channels


def global_pooling(visit: Visit) -> Channels:
    """Over all positions."""
    axis, rank = channel_axis(visit), len(visit.main().shape)
    return _reduce(visit, [place for place in range(1, rank) if place != axis], visit.operation.keepdims)


def reduction(visit: Visit) -> Channels:
    """Of `keras.ops`, over some axes."""
    axes = visit.operation.axis
    if axes is None:
        raise UnfollowedError("it computes over all channels")
    return _reduce(visit, axes if isinstance(axes, (list, tuple)) else [axes], visit.operation.keepdims)


def _reduce(visit: Visit, axes: Any, keepdims: bool) -> Channels:
    channels = visit.of(visit.main())
    if not isinstance(channels, ChannelMap):
        return channels
    return reduced(channels, len(visit.main().shape), tuple(axes), bool(keepdims))


def flatten(visit: Visit) -> Channels:
    """All axes but the batch become one."""
    if getattr(visit.operation, "data_format", "channels_last") == "channels_first" and len(visit.main().shape) > 2:
        raise UnfollowedError("it flattens channels that come first in another order")
    return _reshape(visit)


def reshape(visit: Visit) -> Channels:
    """To a shape that the config holds, without the batch."""
    channels = _reshape(visit)
    _set(visit, channels, "target_shape", visit.operation.target_shape, -1)
    return channels


def reshape_operation(visit: Visit) -> Channels:
    """To a shape that the config holds, with the batch."""
    channels = _reshape(visit)
    _set(visit, channels, "newshape", visit.operation.newshape, 0)
    return channels


def _reshape(visit: Visit) -> Channels:
    channels, shape = visit.of(visit.main()), tuple(visit.main().shape)
    if not isinstance(channels, ChannelMap):
        return channels
    found, ties = reshaped(shape, tuple(visit.call.outputs[0].shape), channels)
    for one, other in ties:
        visit.ledger.space.tie(one, other)
    return found


def _set(visit: Visit, channels: Channels, key: str, sizes: Any, shift: int) -> None:
    if isinstance(channels, ChannelMap) and sizes[channels.axis + shift] not in (None, -1):
        visit.setting(key, channels.ids, channels.axis + shift)


def permute(visit: Visit) -> Channels:
    """Axes in another order, counted from 1."""
    return _permuted(visit, (0, *visit.operation.dims))


def transpose(visit: Visit) -> Channels:
    """Axes in another order, by default reversed."""
    rank = len(visit.main().shape)
    axes = visit.operation.axes
    return _permuted(visit, tuple(reversed(range(rank))) if axes is None else tuple(axis % rank for axis in axes))


def _permuted(visit: Visit, order: tuple[int, ...]) -> Channels:
    channels = visit.of(visit.main())
    return permuted(channels, order) if isinstance(channels, ChannelMap) else channels


def repeat_vector(visit: Visit) -> Channels:
    """`(batch, channels)` to `(batch, n, channels)`."""
    return ChannelMap(2, visit.ids(1))


def expand_dims(visit: Visit) -> Channels:
    """New axes of size 1."""
    channels, rank = visit.of(visit.main()), len(visit.call.outputs[0].shape)
    if not isinstance(channels, ChannelMap):
        return channels
    axes = visit.operation.axis
    added = {axis % rank for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    return ChannelMap([axis for axis in range(rank) if axis not in added][channels.axis], channels.ids)


def squeeze(visit: Visit) -> Channels:
    """Axes of size 1 go."""
    axes, shape = visit.operation.axis, tuple(visit.main().shape)
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    return _reduce(visit, axes if isinstance(axes, (list, tuple)) else [axes], keepdims=False)


def getitem(visit: Visit) -> Channels:
    """Slices and single places of other axes than that of the channels."""
    tensor, item = visit.call.arguments[0]
    channels = visit.of(tensor)
    if not isinstance(channels, ChannelMap):
        return channels
    items = list(item) if isinstance(item, tuple) else [item]
    if any(not isinstance(one, (int, slice)) and one is not Ellipsis for one in items):
        raise UnfollowedError("it picks entries by something else than whole numbers and slices")
    if Ellipsis in items:
        place = items.index(Ellipsis)
        items[place : place + 1] = [slice(None)] * (len(tensor.shape) - len(items) + 1)
    if channels.axis < len(items) and items[channels.axis] != slice(None):
        raise UnfollowedError("it picks some of the channels")
    dropped = sum(not isinstance(one, slice) for one in items[: channels.axis])
    return ChannelMap(channels.axis - dropped, channels.ids)


def pad(visit: Visit) -> Channels:
    """Padding of other axes than that of the channels."""
    channels = visit.of(visit.main())
    if isinstance(channels, ChannelMap):
        widths = visit.operation.pad_width
        if any(widths[channels.axis if len(widths) > 1 else 0]):
            raise UnfollowedError("it pads the channels")
    return channels


def concatenate(visit: Visit) -> Channels:
    """One after the other along the axis of the channels; along another axis they are the same."""
    tensors = [tensor for tensor in visit.call.arguments[0][0] if isinstance(tensor, keras.KerasTensor)]
    if len(tensors) != len(visit.call.arguments[0][0]):
        raise UnfollowedError("it puts a constant beside the channels")
    rank = len(tensors[0].shape)
    axis = operator.index(visit.operation.axis) % rank
    mapped = {channels.axis for channels in map(visit.of, tensors) if isinstance(channels, ChannelMap)}
    if len(mapped) > 1:
        raise UnfollowedError("its inputs have their channels on different axes")
    place = mapped.pop()
    ids = [visit.ids(place, tensor) for tensor in tensors]
    if place == axis:
        return ChannelMap(axis, np.concatenate(ids))
    for other in ids[1:]:
        visit.ledger.space.tie(ids[0], other)
    return ChannelMap(place, ids[0])


def elementwise(visit: Visit) -> Channels:
    """Entries of the same place go together; an axis of size 1 is repeated and ties nothing."""
    leaves = keras.tree.flatten(visit.call.arguments)
    rank = len(visit.call.outputs[0].shape)
    tensors = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
    wide = [(tensor, found) for tensor in tensors if isinstance(found := visit.of(tensor), ChannelMap)]
    # An axis of size 1 is repeated, unless the result has size 1, too.
    wide = [(t, c) for t, c in wide if c.ids.size == visit.call.outputs[0].shape[c.axis - len(t.shape)]]
    if not wide:
        raise UnfollowedError("all of its channels are repeated")
    places = {channels.axis - len(tensor.shape) for tensor, channels in wide}
    if len(places) > 1:
        raise UnfollowedError("its inputs have their channels on different axes")
    place, ids = places.pop(), wide[0][1].ids
    for leaf in leaves:
        shape = tuple(getattr(leaf, "shape", ()))
        if len(shape) < -place or shape[place] == 1:
            continue
        if not isinstance(leaf, keras.KerasTensor):
            raise UnfollowedError("it has a constant with one number a channel")
        visit.ledger.space.tie(ids, visit.ids(place, leaf))
    return ChannelMap(place + rank, ids)
