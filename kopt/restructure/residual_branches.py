"""Which layers stand in the branches of a residual network."""

import dataclasses
from collections.abc import Iterable

import keras

from kopt.graph import Call, GraphView
from kopt.restructure.kinds import KINDS
from kopt.restructure.sites import Site


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """The linear layers between where a signal forks and where it is added again, in the order of the calls."""

    layers: tuple[keras.layers.Layer, ...]


def residual_branches(sites: Iterable[Site]) -> tuple[Branch, ...]:
    """Return the longer side of every addition of two tensors of which at least one has a linear layer of its own.

    The shorter side is the shortcut: an identity or a projection.
    """
    views = {id(view): view for site in sites for view, _ in site.calls}
    return tuple(branch for view in views.values() for branch in _of_view(view))


def last_layers(sites: Iterable[Site]) -> tuple[keras.layers.Layer, ...]:
    """Return the linear layers behind which no other one comes: those that give the model's outputs."""
    linear = [site for site in sites if type(site.layer) in KINDS]
    behind: set[int] = set()
    for site in linear:
        for view, call in site.calls:
            behind |= {id(other.operation) for other in _before(view, call)[:-1]}
    return tuple(site.layer for site in linear if id(site.layer) not in behind)


def _of_view(view: GraphView) -> list[Branch]:
    found = []
    for call in view.calls:
        if type(call.operation).__name__ != "Add" or len(call.inputs) != 2:
            continue
        sides = [_upstream(view, tensor) for tensor in call.inputs]
        one, other = (_own(sides[0], sides[1]), _own(sides[1], sides[0]))
        longer = one if len(one) >= len(other) else other
        if longer:
            found.append(Branch(tuple(longer)))
    return found


def _own(side: list[Call], other: list[Call]) -> list[keras.layers.Layer]:
    """Return the linear layers of one side that are not before the fork."""
    shared = {id(call) for call in other}
    return [call.operation for call in side if id(call) not in shared and type(call.operation) in KINDS]


def _upstream(view: GraphView, tensor: keras.KerasTensor) -> list[Call]:
    maker = view.producer(tensor)
    return [] if maker is None else _before(view, maker)


def _before(view: GraphView, last: Call) -> list[Call]:
    """Return the calls that a call depends on, itself included, in the order of the model."""
    needed, pending = {id(last)}, [last]
    while pending:
        for tensor in pending.pop().inputs:
            maker = view.producer(tensor)
            if maker is not None and id(maker) not in needed:
                needed.add(id(maker))
                pending.append(maker)
    return [call for call in view.calls if id(call) in needed]
