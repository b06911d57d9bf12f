"""What has to be computed again when a layer is perturbed, and what can be kept from the unperturbed pass."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.records.profiles.sensitivity import Perturbation
from kopt.profile.layer_sensitivity.examples import Batch
from kopt.profile.layer_sensitivity.kernels import Target
from kopt.profile.layer_sensitivity.tracing import Trace

# Cutting out a function takes 0.1 s to 1 s whatever the data is. Where there are more layers, neighbors share one,
# which computes again from the first of them on: on average a twenty-fourth of a pass more for every run.
MOST_SUFFIXES = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Suffix:
    """The part of the forward pass that depends on some layers.

    Attributes:
        targets: the layers.
        kernels: their kernels, tensors of the trace.
        switches: those of them that have one, by path.
        kept: tensors of the unperturbed pass that it starts from.
        changed: places in `Trace.judged` that depend on the layers.
    """

    targets: tuple[Target, ...]
    kernels: tuple[tf.Tensor, ...]
    switches: dict[str, tf.Tensor]
    kept: tuple[tf.Tensor, ...]
    changed: tuple[int, ...]

    def function(self, trace: Trace) -> Callable[..., list[Any]]:
        """Return it as a function of `kept`, the kernels and the switches."""
        feeds = [*self.kept, *self.kernels, *self.switches.values()]
        return trace.function(feeds, [trace.judged[place] for place in self.changed])

    def values(self, target: Target, kernels: Sequence[Any] | None) -> list[Any]:
        """Return what is fed for kernels and switches: `kernels` for those of `target`, or `None` to pass it over."""
        values = []
        for one in self.targets:
            replaced = one is target and kernels is not None
            values += list(kernels or ()) if replaced else [kernel.variable.value for kernel in one.kernels]
        return [*values, *(path == target.path and kernels is None for path in self.switches)]


def suffixes_of(
    trace: Trace, targets: Sequence[Target], wanted: set[str], *, with_switches: bool
) -> tuple[list[Suffix], list[str]]:
    """Return suffixes that together have all layers of `wanted`, and the paths of those that do not change the loss.

    In order of execution; layers that begin at the same place in the order of `targets`.
    """
    alive, dead, first = [], [], 0
    for target in targets:
        kernels = tuple(trace.kernels[first : first + len(target.kernels)])
        first += len(kernels)
        if trace.judged[0].ref() not in trace.reached(kernels):
            dead.append(target.path)
        elif target.path in wanted:
            alive.append((min(map(trace.position, kernels)), target, kernels))
    alive.sort(key=lambda row: row[0])
    parts = min(len(alive), MOST_SUFFIXES)
    bounds = [round(part * len(alive) / parts) for part in range(parts + 1)] if parts else []
    members = [alive[start:stop] for start, stop in itertools.pairwise(bounds)]
    return [_suffix(trace, rows, with_switches) for rows in members], dead


def _suffix(trace: Trace, rows: Sequence[tuple[int, Target, tuple[tf.Tensor, ...]]], with_switches: bool) -> Suffix:
    targets = tuple(target for _, target, _ in rows)
    kernels = tuple(kernel for _, _, own in rows for kernel in own)
    paths = [target.path for target in targets if with_switches and target.path in trace.switches]
    switches = {path: trace.switches[path] for path in paths}
    reached = trace.reached([*kernels, *switches.values()])
    changed = tuple(place for place, tensor in enumerate(trace.judged) if tensor.ref() in reached)
    return Suffix(targets, kernels, switches, tuple(trace.frontier(reached)), changed)


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Suffixes whose activations and perturbed kernels are kept at the same time.

    Attributes:
        suffixes: in order of execution.
        size_bytes: of all that is kept, for one batch.
    """

    suffixes: tuple[Suffix, ...]
    size_bytes: int


def grouped(
    trace: Trace, suffixes: Sequence[Suffix], batch: Batch, perturbations: Sequence[Perturbation], limit_bytes: int
) -> list[Group]:
    """Return the suffixes in groups that keep at most `limit_bytes` each, or hold a single one."""
    tensors = {tensor.ref(): tensor for suffix in suffixes for tensor in suffix.kept}
    one = trace.sizes(list(tensors.values()), flat_inputs(batch.rows(0, 1)))
    sizes = {tensor: batch.size * size for tensor, size in zip(tensors, one, strict=True)}
    groups: list[Group] = []
    members: list[Suffix] = []
    kept: dict[Any, int] = {}
    kernels = 0
    for suffix in suffixes:
        more = {tensor.ref(): sizes[tensor.ref()] for tensor in suffix.kept}
        own = len(perturbations) * sum(_bytes(tensor) for tensor in suffix.kernels)
        if members and sum({**kept, **more}.values()) + kernels + own > limit_bytes:
            groups.append(Group(tuple(members), sum(kept.values()) + kernels))
            members, kept, kernels = [], {}, 0
        members.append(suffix)
        kept.update(more)
        kernels += own
    return [*groups, Group(tuple(members), sum(kept.values()) + kernels)]


def flat_inputs(batch: Batch) -> list[Any]:
    """Return what is fed to `Trace.inputs`."""
    return list(tf.nest.flatten((batch.x, batch.y)))


def _bytes(tensor: tf.Tensor) -> int:
    return int(np.prod(tensor.shape)) * int(tensor.dtype.size)
