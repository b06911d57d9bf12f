"""Where the channels of a tensor are: pure functions of shapes and ids."""

import dataclasses
import math

import numpy as np

from kopt.graph.channels.space import Ids

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelMap:
    """The axis of a tensor that shrinks when channels are removed.

    Attributes:
        axis: counted from the front, batch axis first.
        ids: of every index of that axis; flattened feature maps repeat them.
    """

    axis: int
    ids: Ids


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A tensor whose shape stays as it is, with the reason."""

    reason: str


Channels = ChannelMap | Fixed


class UnfollowedError(Exception):
    """An operation that channels cannot be followed through; its text is the reason. Caught inside the room."""


def reshaped(before: Shape, after: Shape, channels: ChannelMap) -> tuple[ChannelMap, tuple[tuple[Ids, Ids], ...]]:
    """Return where the channels are after a reshape, and the ties that it makes.

    Flattening `(H, W, C)` repeats the ids of the `C` channels. Where one axis becomes several, `(H * W * C)` to
    `(H, W, C)`, the entries that share a place on the last one can only go together.

    Args:
        before: shape, batch axis first. Open sizes must stand for the same entries before and after.
        after: shape, batch axis first.
        channels: before the reshape.

    Raises:
        UnfollowedError: the entries cannot be matched.
    """
    old, new = ([size or 1 for size in shape[1:]] for shape in (before, after))
    if math.prod(old) != math.prod(new):
        raise UnfollowedError("it reshapes open sizes or the batch")
    spread = channels.ids.reshape([-1 if axis == channels.axis - 1 else 1 for axis in range(len(old))])
    entries = np.broadcast_to(spread, old).reshape(new)
    for axis in reversed(range(len(new))):
        ids = _along(entries, axis)
        if ids.size > 1 and np.array_equal(np.broadcast_to(_standing(ids, axis, len(new)), new), entries):
            return ChannelMap(axis + 1, ids), ()
    axis = max((axis for axis in range(len(new)) if new[axis] > 1), default=len(new) - 1)
    columns = np.moveaxis(entries, axis, -1).reshape(-1, new[axis])
    return ChannelMap(axis + 1, columns[0]), tuple((columns[0], row) for row in columns[1:])


def _along(entries: Ids, axis: int) -> Ids:
    return np.moveaxis(entries, axis, 0).reshape(entries.shape[axis], -1)[:, 0]


def _standing(ids: Ids, axis: int, rank: int) -> Ids:
    return ids.reshape([-1 if place == axis else 1 for place in range(rank)])


def permuted(channels: ChannelMap, order: tuple[int, ...]) -> ChannelMap:
    """Return where the channels are when axis `i` is the former axis `order[i]`, batch axis included."""
    return ChannelMap(order.index(channels.axis), channels.ids)


def reduced(channels: ChannelMap, rank: int, axes: tuple[int, ...], keepdims: bool) -> ChannelMap:
    """Return where the channels are after a reduction over `axes` of a tensor of `rank` axes.

    Raises:
        UnfollowedError: it reduces the channels themselves.
    """
    counted = {axis % rank for axis in axes}
    if channels.axis in counted:
        raise UnfollowedError("it computes over all channels")
    if 0 in counted and not keepdims:
        raise UnfollowedError("it reduces the batch")
    return channels if keepdims else ChannelMap(channels.axis - sum(a < channels.axis for a in counted), channels.ids)


def grouped(ids: Ids, groups: int) -> Ids:
    """Return ids as `(groups, ids.size / groups)`: one row a group."""
    return ids.reshape(groups, -1)
