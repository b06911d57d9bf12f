"""Channels that fade out while a model trains, and the smaller model that is left."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.changes.channel_pruning import PrunedGroup
from kopt.core.settings import choice, names, whole
from kopt.graph import from_tf_keras, require_built, require_finite
from kopt.graph.channels import ChannelGraph, ChannelGroup, Flow, channel_graph, run
from kopt.graph.values import values_of
from kopt.profile import model as profile
from kopt.prune.channel_removal.checking import KINDS
from kopt.prune.channel_removal.costs import PrunedCosts
from kopt.prune.channel_removal.goals import SCOPES
from kopt.prune.channel_removal.pruning import ChannelPruning
from kopt.prune.channel_removal.rebuilding import rebuild
from kopt.prune.gradual_removal.channel_masks import CRITERIA, ChannelMasks, MaskedChannels, axes_by_path
from kopt.prune.plain import require_plain
from kopt.prune.schedules import as_schedule
from kopt.train import preserved
from kopt.train.weight_constraints import constrainable, plain_copy

# What stands for an open size when masked channels are tried out.
_OPEN_SIZE = 32


def channels_gradually(
    model: keras.Model,
    schedule_or_sparsity: Any,
    *,
    criterion: str = "l2",
    round_to: int = 8,
    min_channels: int = 1,
    scope: str = "layer",
    protect: str | Iterable[str] = (),
    kinds: Sequence[str] = KINDS,
) -> tuple[keras.Model, ChannelPruning]:
    """Return a copy of a model whose least important channels become zero as it trains, and a report.

    Use it where `channels` costs too much accuracy at once: the weights have time to make up for every channel that
    goes. Shapes stay as they are while the copy trains, in `fit` or a loop of your own, compiled or not; `finalize`
    takes the zero channels out and computes the same.

    A channel is masked in everything that makes it, in all layers that depend on each other (see
    `kopt.graph.channel_graph`): outputs of kernels, biases, factors, offsets and means of normalizations. So it is zero
    after its activation, too. Groups that this is not true of keep their channels and are listed: those behind an
    activation that makes something else of a zero, e.g. a sigmoid, and those that a layer normalizes over, where even
    a zero counts.

    The masks are part of the model like those of `magnitude`: the optimizer applies them, `.keras` files hold them.

    Formula: at sparsity `s` a group of `n` units keeps the `n (1 - s)` of the highest scores, with `scope="global"`
    those of its units that are among the highest of all, rounded as `channels` does. The score of a unit is the mean
    over its layers of `|w|` divided by the mean of `|w|` over the layer.

    Args:
        model: Functional or Sequential, built; not changed.
        schedule_or_sparsity: share of the channels of every group to mask, at once, or a schedule of
            `kopt.prune.schedules` or `tfmot.sparsity.keras`.
        criterion: `"l2"` or `"l1"` of the kernel's rows; `"bn_scale"`, by the factors of batch normalizations.
        round_to: as in `channels`, and so are
        min_channels: that a group keeps at least,
        scope: `"layer"` (every group loses the same share) or `"global"` (the lowest scores go, wherever they are),
        protect: names of layers that keep their outputs, and
        kinds: what may go.

    Returns:
        The model, to be compiled, and the report: what is masked now, and which groups stay for what reason.

    Raises:
        ConfigError: a setting is out of range, or a name of `protect` is of no layer.
        InputError: the model is not built, has masks or penalties already, or no group can be masked.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedModelError: a subclassed model, or a layer that cannot be cloned.

    Example:
        >>> schedule = kopt.prune.schedules.Cubic(0.5, begin=1, end=20, frequency=1)
        >>> fading, report = kopt.prune.channels_gradually(model, schedule)
        >>> fading.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = fading.fit(x_train, y_train, epochs=2, verbose=0)
        >>> smaller, report = kopt.prune.finalize(fading)
        >>> fading.get_layer("conv2").filters, smaller.get_layer("conv2").filters
        (16, 8)

    Source: He et al., "Soft filter pruning", 2018, https://arxiv.org/abs/1808.06866, here with masks that hold; Zhu and
    Gupta, 2017, https://arxiv.org/abs/1710.01878, for the schedule.
    """
    choice("criterion", criterion, CRITERIA)
    choice("scope", scope, SCOPES)
    whole("round_to", round_to)
    whole("min_channels", min_channels)
    kinds = names("kinds", kinds)
    for kind in kinds or ("",):
        choice("kinds", kind, KINDS)
    schedule = as_schedule(schedule_or_sparsity)
    model = from_tf_keras(model)
    require_built(model)
    require_plain(model)
    require_finite(model)
    protected = names("protect", protect)
    graph = _with_reasons(model, channel_graph(model, protect=protected), criterion, kinds)
    places = tuple(place for place, group in enumerate(graph.groups) if not group.reason)
    if not places:
        reasons = "; ".join(f"{group.layers[0]}: {group.reason}" for group in graph.groups[:10])
        raise InputError(f"Model {model.name!r} has no channels that can be masked. {reasons}.")
    copy = constrainable(model)
    masks = ChannelMasks(copy, MaskedChannels(places, protected, criterion, round_to, min_channels, scope), schedule)
    if masks.removes_nothing(schedule.final_sparsity):
        widths = sorted({group.width for group in graph.groups if not group.reason})
        raise ConfigError(
            f"A sparsity of {schedule.final_sparsity:g} removes nothing of groups of {', '.join(map(str, widths))} "
            f"channels in steps of {round_to}, with {min_channels} left at least. Lower `round_to`, or ask for more."
        )
    copy.constrain_by(masks)
    masks.start()
    note = "Nothing is removed yet: compile it, train it, then `kopt.prune.finalize`. What is left then is given here."
    return copy, _report(model, graph, masks, note)


def without_masked_channels(model: Any) -> tuple[keras.Model, ChannelPruning]:
    """Return a plain model without the channels that are masked in one of `channels_gradually`, and a report."""
    masks: ChannelMasks = model.pruning
    plain = plain_copy(model)
    graph = channel_graph(plain, protect=masks.how.protect)
    reasons = [one.reason or "it had no mask" for one in _with_reasons(plain, graph, masks.how.criterion, KINDS).groups]
    groups = tuple(
        group if group.reason or place in masks.how.groups else dataclasses.replace(group, reason=reasons[place])
        for place, group in enumerate(graph.groups)
    )
    graph = dataclasses.replace(graph, groups=groups)
    return rebuild(plain, graph, masks.kept()), _report(plain, graph, masks, "The smaller model is not compiled.")


def _report(model: keras.Model, graph: ChannelGraph, masks: ChannelMasks, note: str) -> ChannelPruning:
    before, kept = profile(model), masks.kept()
    costs = PrunedCosts(model, graph, before.macs)
    return ChannelPruning(
        model=model.name,
        goal=f"sparsity={masks.schedule.final_sparsity:g}",
        criterion=masks.how.criterion,
        scope=masks.how.scope,
        groups=tuple(_row(group, kept, masks) for group in graph.groups),
        parameters_before=costs.parameters(np.ones_like(kept)),
        parameters_after=costs.parameters(kept),
        macs_before=before.macs,
        macs_after=costs.macs(kept),
        notes=(repr(masks.schedule), note),
    )


def _row(group: ChannelGroup, kept: npt.NDArray[np.bool_], masks: ChannelMasks) -> PrunedGroup:
    return PrunedGroup(
        layers=group.layers,
        kind=group.kind,
        before=group.width,
        after=int(kept[group.units].sum()) * group.channels_per_unit,
        divisor=1 if group.reason else masks.divisor(group) * group.channels_per_unit,
        frozen=group.reason,
        remark=group.remark,
    )


def _with_reasons(model: keras.Model, graph: ChannelGraph, criterion: str, kinds: Sequence[str]) -> ChannelGraph:
    """Return the graph with the groups that cannot be masked made to stay."""
    trained = {id(variable) for variable in model.trainable_variables}
    frozen, scaled = np.zeros((2, graph.unit_count), np.bool_)
    for weight in graph.weights:
        if weight.role in ("kernel", "bias", "scale", "offset") and id(weight.variable) not in trained:
            frozen[weight.units] = True
        if weight.role == "scale":
            scaled[weight.units] = True

    def reason(group: ChannelGroup) -> str:
        if group.reason:
            return group.reason
        if group.kind not in kinds:
            return f"only {', '.join(kinds)} go"
        if group.remark:
            return f"a zero counts there: {group.remark}"
        if frozen[group.units].any():
            return "a layer of it is frozen: training does not change it"
        if criterion == "bn_scale" and not scaled[group.units].all():
            return "it has no normalization with a scale"
        return ""

    groups = [dataclasses.replace(group, reason=reason(group)) for group in graph.groups]
    leaks = _leaks(model, graph, [group for group in groups if not group.reason])
    groups = [
        dataclasses.replace(group, reason=next((leaks[unit] for unit in group.units if unit in leaks), group.reason))
        for group in groups
    ]
    return dataclasses.replace(graph, groups=tuple(groups))


def _leaks(model: keras.Model, graph: ChannelGraph, groups: list[ChannelGroup]) -> dict[int, str]:
    """Return the units that are not zero, where a layer reads them, when everything that makes them is, with why.

    All units of the groups are masked at once: what others make cannot reach them, because every operation between
    layers with weights treats channels one by one; see `kopt.graph.channels.rules`.
    """
    masked = np.zeros(graph.unit_count, np.bool_)
    for group in groups:
        masked[group.units] = True
    readers = {weight.path for weight in graph.weights if weight.role == "input"}
    found: dict[int, str] = {}

    def look(flow: Flow, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        for tensor, place in zip(inputs, flow.inputs, strict=True):
            if place is None or flow.path not in readers:
                continue
            axis, units = place
            entries = np.moveaxis(np.asarray(tensor), axis, -1).reshape(-1, units.size)
            for unit in units[masked[units] & (entries != 0).any(axis=0)].tolist():
                found.setdefault(unit, f"a channel that is zero before its activation is not where {flow.path!r} reads")

    with preserved(model):
        for axes in axes_by_path(model, graph, groups).values():
            for weight in axes:
                values = np.moveaxis(values_of(weight.variable).copy(), weight.axis, 0)
                values[masked[weight.units]] = 0
                weight.variable.assign(np.moveaxis(values, 0, weight.axis))
        run(model, graph, _ones(model), look)
    return found


def _ones(model: keras.Model) -> list[npt.NDArray[Any]]:
    shapes = [(one.shape[0] or 1, *(size or _OPEN_SIZE for size in one.shape[1:])) for one in model.inputs]
    return [np.ones(shape, one.dtype) for shape, one in zip(shapes, model.inputs, strict=True)]
