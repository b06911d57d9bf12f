"""What has to hold before channels are scored."""

import dataclasses
from collections.abc import Sequence

import keras

from kopt.core.errors import ConfigError, InputError
from kopt.core.settings import choice, names, whole
from kopt.graph.channels import ChannelGraph
from kopt.prune.channel_removal.goals import Goal
from kopt.prune.channel_removal.savings import PER
from kopt.prune.shipping import RUNTIMES

KINDS = ("channels", "units", "heads")


def require_settings(
    goal: Goal, *, runtime: str, per: str | None, round_to: int, min_channels: int, kinds: Sequence[str]
) -> None:
    """Make sure that settings are in range and go together.

    Raises:
        ConfigError: they do not.
    """
    choice("runtime", runtime, RUNTIMES)
    whole("round_to", round_to)
    whole("min_channels", min_channels)
    for kind in names("kinds", kinds) or ("",):
        choice("kinds", kind, KINDS)
    if per is None:
        return
    choice("per", per, PER)
    if goal.scope != "global":
        raise ConfigError(
            f"`per={per!r}` ranks the channels of different layers, which `scope={goal.scope!r}` does not compare. "
            f'Give `scope="global"`.'
        )


def require_known_macs(model: keras.Model, costs_are_open: bool, goal: Goal, per: str | None) -> None:
    """Make sure that multiply-accumulates are known where a setting goes by them.

    Raises:
        ConfigError: the model has inputs of open sizes.
    """
    by = "per" if per in ("macs", "latency") else goal.quantity
    if costs_are_open and (by in ("per", "target_macs") or goal.is_latency):
        raise ConfigError(
            f"`{by}` needs to know the multiply-accumulates, and model {model.name!r} accepts inputs of any "
            f"size: {[tuple(tensor.shape) for tensor in model.inputs]}. Build it with a fixed size, or give `keep` or "
            f"`target_params`."
        )


def only(graph: ChannelGraph, kinds: Sequence[str]) -> ChannelGraph:
    """Return the graph with the groups of other kinds made to stay."""
    groups = tuple(
        group
        if group.kind in kinds or group.reason
        else dataclasses.replace(group, reason=f"only {', '.join(kinds)} go")
        for group in graph.groups
    )
    return dataclasses.replace(graph, groups=groups)


def require_free(model: keras.Model, graph: ChannelGraph) -> None:
    """Make sure that there is something to remove.

    Raises:
        InputError: there is not.
    """
    if graph.free:
        return
    reasons = "; ".join([*(f"{group.layers[0]}: {group.reason}" for group in graph.groups[:10]), *graph.unfollowed])
    raise InputError(
        f"Model {model.name!r} has no channels that can be removed. {reasons or 'No layer of it makes channels'}. "
        f"`kopt.graph.channel_graph(model).groups` lists all."
    )
