"""Where to cut a model's graph for rematerialization: counting bytes, nothing else."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.graph.internals import graph_of
from kopt.train.internals import nodes_in_order

_BOUNDS = 24  # Limits tried for the largest segment.


@dataclasses.dataclass(frozen=True, eq=False)
class CallGraph:
    """The calls of one Functional model in the order Keras makes them, and the tensors between them.

    Attributes:
        graph: the model.
        prefix: of the paths of its calls: `""`, or `"<nested model>/"`.
        nodes: the calls.
        call_bytes: of what each call gives, for one example; of everything inside for a nested model.
        tensors: for every tensor that a call gives: the call, the last call that takes it (`len(nodes)` for an output
            of the model), and its bytes for one example.
    """

    graph: keras.Model
    prefix: str
    nodes: tuple[Any, ...]
    call_bytes: tuple[int, ...]
    tensors: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, graph: keras.Model, prefix: str = "") -> "CallGraph":
        """Return the calls of a Functional model."""
        nodes = nodes_in_order(graph)
        produced = {id(tensor): i for i, node in enumerate(nodes) for tensor in node.outputs}
        last: dict[int, int] = {}
        for index, node in enumerate(nodes):
            last.update({id(tensor): index for tensor in node.input_tensors})
        last.update({id(tensor): len(nodes) for tensor in graph.outputs})
        tensors = {id(tensor): tensor for node in nodes for tensor in node.outputs}
        return cls(
            graph,
            prefix,
            tuple(nodes),
            tuple(_call_bytes(node) for node in nodes),
            tuple((produced[key], last.get(key, produced[key]), bytes_of(tensor)) for key, tensor in tensors.items()),
        )

    @property
    def largest(self) -> "CallGraph":
        """The graph that holds most of the activations: this one, or that of a nested model with more than half."""
        for node, size in zip(self.nodes, self.call_bytes, strict=True):
            inner = graph_of(node.operation)
            if inner is not None and 2 * size > sum(self.call_bytes):
                return CallGraph.of(inner, f"{self.prefix}{node.operation.name}/").largest
        return self

    def path(self, index: int) -> str:
        """Return the path of a call: the names of the nested models and of the layer."""
        return f"{self.prefix}{self.nodes[index].operation.name}"

    def inputs(self, start: int, stop: int) -> list[Any]:
        """Return the tensors that the calls from `start` up to `stop` take from outside."""
        inside = {id(tensor) for node in self.nodes[start:stop] for tensor in node.outputs}
        taken = {id(tensor): tensor for node in self.nodes[start:stop] for tensor in node.input_tensors}
        return [tensor for key, tensor in taken.items() if key not in inside]

    def outputs(self, start: int, stop: int) -> list[Any]:
        """Return the tensors that the calls from `start` up to `stop` give to what follows, or to the caller."""
        taken = {id(tensor) for node in self.nodes[stop:] for tensor in node.input_tensors}
        taken |= {id(tensor) for tensor in self.graph.outputs}
        return [tensor for node in self.nodes[start:stop] for tensor in node.outputs if id(tensor) in taken]


def bytes_of(tensor: keras.KerasTensor) -> int:
    """Return the bytes of one example; a dimension that is not known counts as 1."""
    return math.prod(size or 1 for size in tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size


def segments(
    call_bytes: tuple[int, ...], tensors: tuple[tuple[int, int, int], ...], count: int | None = None
) -> list[tuple[int, int]]:
    """Cut a sequence of calls so that what is kept plus the largest segment is least.

    The memory of a step is estimated as `sum of bytes that pass from a segment to later ones + bytes inside the largest
    segment`. For n equal calls in a row the least is at about sqrt(n) segments. For each of some bounds on the largest
    segment, the cuts that keep the least are found exactly, by dynamic programming.

    Args:
        call_bytes: of the activations each call makes.
        tensors: `(maker, last user, bytes)` of each tensor between the calls.
        count: of segments; what is best by default.

    Returns:
        `(start, stop)` of each segment, in order.
    """
    size, ends = len(call_bytes), np.concatenate([[0], np.cumsum(call_bytes)]).astype(float)
    if size == 0:
        return []
    inside = ends[None, :] - ends[:, None]  # Of the segment from row to column.
    kept = _kept(size, tensors)
    forward = np.arange(size + 1)[:, None] < np.arange(size + 1)[None, :]
    best, cuts = math.inf, [(0, size)]
    for bound in np.geomspace(max(max(call_bytes), 1), max(ends[-1], 1), _BOUNDS):
        cost = np.where(forward & (inside <= bound * (1 + 1e-9)), kept, np.inf)
        found = _cheapest(cost) if count is None else _cheapest_of(cost, count)
        if found is None:
            continue
        total = sum(kept[a, b] for a, b in found) + max(inside[a, b] for a, b in found)
        if total < best * (1 - 1e-9):
            best, cuts = total, found
    return cuts


def _kept(size: int, tensors: tuple[tuple[int, int, int], ...]) -> Any:
    """Return the bytes that the calls from row up to column give to later calls; nothing is later than the end."""
    kept = np.zeros((size + 1, size + 1))
    for maker, last, amount in tensors:
        kept[: maker + 1, maker + 1 : min(last, size - 1) + 1] += amount
    return kept


def _cheapest(cost: Any) -> list[tuple[int, int]] | None:
    size = len(cost) - 1
    best, previous = np.full(size + 1, np.inf), np.zeros(size + 1, int)
    best[0] = 0
    for stop in range(1, size + 1):
        through = best + cost[:, stop]
        # Of equally cheap cuts the earliest: fewer segments to compute again.
        previous[stop] = int(np.argmin(through))
        best[stop] = through[previous[stop]]
    return _walk(lambda stop, _: previous[stop], size, size) if np.isfinite(best[size]) else None


def _cheapest_of(cost: Any, count: int) -> list[tuple[int, int]] | None:
    size = len(cost) - 1
    best, steps = np.full(size + 1, np.inf), []
    best[0] = 0
    for _ in range(count):
        through = best[:, None] + cost
        steps.append(np.argmin(through, axis=0))
        best = np.min(through, axis=0)
    return _walk(lambda stop, left: steps[left - 1][stop], size, count) if np.isfinite(best[size]) else None


def _walk(previous: Any, size: int, count: int) -> list[tuple[int, int]]:
    found, stop, left = [], size, count
    while stop > 0:
        start = int(previous(stop, left))
        found.append((start, stop))
        stop, left = start, left - 1
    return found[::-1]


def _call_bytes(node: Any) -> int:
    inner = graph_of(node.operation)
    if inner is None:
        return sum(bytes_of(tensor) for tensor in node.outputs)
    return sum(_call_bytes(inside) for inside in nodes_in_order(inner))
