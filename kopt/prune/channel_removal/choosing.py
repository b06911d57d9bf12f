"""Which units stay: scores ranked, and the goal reached."""

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt

from kopt.core.records.changes.channel_pruning import LatencyProbe
from kopt.core.records.profiles.cost import ModelProfile
from kopt.graph.channels import ChannelGraph, ChannelGroup
from kopt.prune.channel_removal import importance, widths
from kopt.prune.channel_removal.costs import PrunedCosts
from kopt.prune.channel_removal.goals import Goal, Path, reach
from kopt.prune.channel_removal.latency import latency_savings, reach_latency
from kopt.prune.channel_removal.rebuilding import rebuild
from kopt.prune.channel_removal.savings import per_saving, savings

Kept = npt.NDArray[np.bool_]
# Groups that a message names.
_NAMED = 5


def savings_of(
    per: str | None, model: keras.Model, graph: ChannelGraph, costs: PrunedCosts, runtime: str
) -> list[float] | None:
    """Return what one unit of every free group saves of what `per` names; `None` if that is nothing."""
    if per is None:
        return None
    if per == "latency":
        return latency_savings(model, graph, runtime)
    return [float(saved) for saved in savings(graph, costs.macs if per == "macs" else costs.parameters)]


def candidates_of(
    graph: ChannelGraph,
    scores: importance.Scores,
    saved: Sequence[float] | None,
    *,
    criterion: str,
    round_to: int,
    min_channels: int,
) -> list[widths.Candidate]:
    """Return the free groups with the importance of their units, each divided by what it saves if that is known."""
    return [
        widths.Candidate(
            per_saving(importance.leveled(scores[group.units], criterion), saving),
            _divisor(group, round_to),
            -(-min_channels // group.channels_per_unit),
        )
        for group, saving in zip(graph.free, saved or [1.0] * len(graph.free), strict=True)
    ]


def _divisor(group: ChannelGroup, round_to: int) -> int:
    # Neither the number of heads nor that of recurrent units is a size that kernels want rounded.
    return widths.divisor_of(group.units.size, group.channels_per_unit, round_to) if group.kind == "channels" else 1


def chosen(
    goal: Goal,
    model: keras.Model,
    graph: ChannelGraph,
    candidates: Sequence[widths.Candidate],
    costs: PrunedCosts,
    before: ModelProfile,
    runtime: str,
) -> tuple[Kept, tuple[LatencyProbe, ...]]:
    """Return the units that stay, and what was measured to find how many."""
    path = Path(candidates, goal.scope)

    def kept(step: int) -> Kept:
        return _kept(graph, candidates, path.at(step))

    if goal.quantity == "keep":
        return _kept(graph, candidates, path.keeping(goal.value)), ()
    if goal.is_latency:
        step, probes = reach_latency(
            goal,
            model,
            runtime,
            path.last,
            macs=lambda step: costs.macs(kept(step)),
            rebuilt=lambda step: rebuild(model, graph, kept(step)),
            staying=_staying(graph),
        )
        return kept(step), probes
    cost, whole, unit = (
        (costs.macs, before.macs, "multiply-accumulates")
        if goal.quantity == "target_macs"
        else (costs.parameters, before.parameters, "parameters")
    )
    counts = path.at(reach(goal, path.last, lambda step: cost(kept(step)), whole, unit, _staying(graph)))
    if goal.scope == "global":
        most = goal.target(whole)
        counts = widths.filled(candidates, counts, lambda wider: cost(_kept(graph, candidates, wider)) <= most)
    return _kept(graph, candidates, counts), ()


def _staying(graph: ChannelGraph) -> str:
    """Return a sentence about the groups that cannot shrink; empty if all can."""
    found = [f"{group.layers[0]} ({group.reason})" for group in graph.groups if group.reason]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f" Whatever the target, these stay: {', '.join(found[:_NAMED])}{more}." if found else ""


def _kept(graph: ChannelGraph, candidates: Sequence[widths.Candidate], counts: Sequence[int]) -> Kept:
    kept = np.ones(graph.unit_count, np.bool_)
    for group, candidate, count in zip(graph.free, candidates, counts, strict=True):
        kept[group.units] = False
        kept[group.units[widths.best(candidate.scores, count)]] = True
    return kept
