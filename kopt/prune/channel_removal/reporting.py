"""What the report says of groups, and what its reader should know."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kopt.core.records.changes.channel_pruning import LatencyProbe, PrunedGroup
from kopt.graph.channels import ChannelGraph
from kopt.prune.channel_removal import widths
from kopt.prune.channel_removal.latency_search import TOLERANCE

# Matrix kernels of processors compute outputs in tiles of 8 or 16; tensor cores of GPUs take multiples of 8.
_TILE = 8
_MOST_NAMES = 5


def rows(
    graph: ChannelGraph,
    candidates: Sequence[widths.Candidate],
    kept: npt.NDArray[np.bool_],
    saved: Sequence[float] | None,
) -> Iterator[PrunedGroup]:
    """Yield every group before and after, in the order of the layers.

    Args:
        graph: the channels.
        candidates: the free groups.
        kept: `True` for the units that are left.
        saved: what a unit of each free group saves; `None` if that did not count.
    """
    divisors, savings = iter(candidates), iter(saved or ())
    for group in graph.groups:
        per_unit = group.channels_per_unit
        yield PrunedGroup(
            layers=group.layers,
            kind=group.kind,
            before=group.width,
            after=int(kept[group.units].sum()) * per_unit,
            divisor=1 if group.reason else next(divisors).divisor * per_unit,
            frozen=group.reason,
            remark=group.remark,
            saving=None if group.reason or saved is None else next(savings) / per_unit,
        )


def notes(
    graph: ChannelGraph, is_open: bool, groups: Sequence[PrunedGroup], probes: Sequence[LatencyProbe]
) -> Iterator[str]:
    """Yield what the reader should know; `is_open` says that arithmetic of layers with open sizes is not known."""
    if all(group.after == group.before for group in groups):
        yield (
            "Nothing was removed: with these settings every width stays. `round_to=1` takes single channels, and "
            "`min_channels` and `protect` keep some."
        )
    else:
        yield "The smaller model is not compiled. Train it: what it computes has changed."
    if probes:
        yield f"A latency of at most the target, and no more than {TOLERANCE:.0%} below, ends the search for widths."
    steps = sorted({group.divisor for group in groups if not group.frozen and group.divisor > 1})
    if steps:
        yield f"Widths are multiples of {' or '.join(map(str, steps))}; `round_to=1` comes nearer to a target."
    odd = [f"{group.layers[0]} ({group.after})" for group in groups if _is_odd(group)]
    if odd:
        yield f"Widths that fill no tiles of {_TILE}, by which matrix kernels compute: {_listed(odd)}."
    if is_open:
        yield "Multiply-accumulates of layers with open sizes are not known and not counted."
    if graph.unfollowed:
        yield f"Layers that stay whole: {'; '.join(graph.unfollowed)}."
    if graph.doubled:
        yield f"Called in several models, each of which has its own copy now: {_listed(graph.doubled)}."


def _is_odd(group: PrunedGroup) -> bool:
    return group.kind == "channels" and group.after != group.before and group.after % _TILE != 0


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
