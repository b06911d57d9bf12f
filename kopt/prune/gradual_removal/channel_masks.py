"""Masks over whole channels, of all layers that they go through, following a schedule."""

import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kopt.core.records.changes.magnitude_pruning import Pattern
from kopt.core.serialization import Record
from kopt.graph import owned_variables
from kopt.graph.channels import ChannelGraph, ChannelGroup, WeightAxis, channel_graph
from kopt.prune.channel_removal.widths import divisor_of, least_units
from kopt.prune.schedules import Schedule
from kopt.prune.weight_masks.masks import Masks

# What makes a channel: it is zero if all of these are; see `kopt.graph.channels.ledger.ROLES`.
MADE_BY = ("kernel", "bias", "scale", "offset", "mean")
CRITERIA = ("l2", "l1", "bn_scale")

Kept = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class MaskedChannels(Record):
    """What the masks over the channels of a model are made of; plain data, saved with the model.

    Attributes:
        groups: places of the groups under masks among those of `channel_graph`.
        protect: as `channel_graph` takes it.
        criterion: one of `CRITERIA`.
        round_to: channels left are a multiple of it where they can be.
        min_channels: that a group keeps.
        scope: `"layer"`: every group loses the same share; `"global"`: the lowest scores go, wherever they are.
    """

    groups: tuple[int, ...]
    protect: tuple[str, ...]
    criterion: str
    round_to: int
    min_channels: int
    scope: str = "layer"


@keras.saving.register_keras_serializable("kopt")
class ChannelMasks(Masks):
    """Masks that agree about channels: one is masked in all weights that make it, or in none."""

    _groups: list[ChannelGroup]
    _axes: list[list[WeightAxis]]

    def __init__(self, model: keras.Model, how: MaskedChannels, schedule: Schedule):
        """Put all weights that make the channels of some groups under masks of ones."""
        graph = channel_graph(model, protect=how.protect)
        groups = [graph.groups[place] for place in how.groups]
        axes = axes_by_path(model, graph, groups)
        targets = [schedule.final_sparsity] * len(axes)
        super().__init__(model, list(axes), targets, Pattern(granularity="channel"), schedule)
        self.how, self.unit_count = how, graph.unit_count
        # Past Keras, as in `Masks`.
        object.__setattr__(self, "_groups", groups)
        object.__setattr__(self, "_axes", list(axes.values()))

    def settings(self) -> dict[str, Any]:
        """See `WeightConstraint.settings`."""
        return {"channels": self.how.to_dict(), "schedule": super().settings()["schedule"]}

    @classmethod
    def from_settings(cls, model: keras.Model, settings: dict[str, Any]) -> "ChannelMasks":
        """See `WeightConstraint.from_settings`: masks of ones."""
        schedule = keras.saving.deserialize_keras_object(settings["schedule"])
        return cls(model, MaskedChannels.from_dict(settings["channels"]), schedule)

    def kept(self) -> Kept:
        """Return for every unit of the model whether it is left."""
        found = np.ones(self.unit_count, np.bool_)
        for axes, mask in zip(self._axes, self.masks, strict=True):
            for weight in axes:
                others = tuple(axis for axis in range(len(mask.shape)) if axis != weight.axis)
                np.logical_and.at(found, weight.units, mask.numpy().any(axis=others))
        return found

    def removes_nothing(self, sparsity: float) -> bool:
        """Return whether rounding keeps all channels at a sparsity, with the scores of now."""
        return all(bool(tf.reduce_all(mask)) for mask in self._new_masks(tf.constant(sparsity, tf.float32)))

    def divisor(self, group: ChannelGroup) -> int:
        """Return what the units left of a group are a multiple of."""
        return divisor_of(group.units.size, group.channels_per_unit, self.how.round_to) if _is_sized(group) else 1

    def _assign(self, values: Any) -> None:
        super()._assign(values)
        for axes, one, mask in zip(self._axes, self.owned, self.masks, strict=True):
            # No optimizer updates a mean, so that no constraint would be asked. Of a channel that is zero it stays 0.
            if any(weight.role == "mean" for weight in axes):
                value = one.variable.value
                one.variable.assign(tf.where(mask.value, value, tf.zeros_like(value)))

    def _new_masks(self, sparsity: tf.Tensor) -> list[tf.Tensor]:
        scores = self._scores()
        kept = tf.ones([self.unit_count], tf.bool)
        for group, wanted in zip(self._groups, self._wanted(scores, tf.cast(sparsity, tf.float32)), strict=True):
            left = units_left(group.units.size, self.divisor(group), self._least(group), wanted)
            best = _best(tf.gather(scores, group.units), left)
            kept = tf.tensor_scatter_nd_update(kept, group.units[:, None], best)
        return [self._spread(axes, tuple(mask.shape), kept) for axes, mask in zip(self._axes, self.masks, strict=True)]

    def _wanted(self, scores: tf.Tensor, sparsity: tf.Tensor) -> list[tf.Tensor]:
        """Return how many units of each group are to stay, before they are rounded."""
        sizes = [group.units.size for group in self._groups]
        if self.how.scope == "layer":
            return [size * (1 - sparsity) for size in sizes]
        everything = tf.concat([self._removable(tf.gather(scores, group.units), group) for group in self._groups], 0)
        kept = _best(everything, sum(sizes) - tf.cast(tf.round(sum(sizes) * sparsity), tf.int32))
        return [tf.reduce_sum(tf.cast(part, tf.float32)) for part in tf.split(kept, sizes)]

    def _removable(self, scores: tf.Tensor, group: ChannelGroup) -> tf.Tensor:
        """Return the scores of a group, infinite of the best as many as are left at the least."""
        least = least_units(group.units.size, self.divisor(group), self._least(group))
        return tf.where(_best(scores, least), np.inf, scores)

    def _least(self, group: ChannelGroup) -> int:
        return -(-self.how.min_channels // group.channels_per_unit)

    def _spread(self, axes: list[WeightAxis], shape: tuple[int, ...], kept: tf.Tensor) -> tf.Tensor:
        mask = tf.ones(shape, tf.bool)
        for weight in axes:
            along = [-1 if axis == weight.axis else 1 for axis in range(len(shape))]
            mask &= tf.reshape(tf.gather(kept, weight.units), along)
        return mask

    def _scores(self) -> tf.Tensor:
        """Return the mean score of every unit over the weights that make it, each divided by its own mean."""
        role = "scale" if self.how.criterion == "bn_scale" else "kernel"
        total, count = tf.zeros([self.unit_count]), np.zeros([self.unit_count], np.float32)
        for place, axes in enumerate(self._axes):
            for weight in axes:
                if weight.role != role:
                    continue
                values = tf.cast(self.constrained_before(place, self.owned[place].variable), tf.float32)
                score = _norms(values, weight.axis, self.how.criterion)
                score /= tf.maximum(tf.reduce_mean(score), 1e-30)
                total += tf.math.unsorted_segment_sum(score, weight.units, self.unit_count)
                np.add.at(count, weight.units, 1)
        return total / np.maximum(count, 1)


def axes_by_path(model: keras.Model, graph: ChannelGraph, groups: list[ChannelGroup]) -> dict[str, list[WeightAxis]]:
    """Return the variables that make channels of these groups: by path, the axes that do."""
    wanted = np.zeros(graph.unit_count, np.bool_)
    for group in groups:
        wanted[group.units] = True
    by_variable: dict[int, list[WeightAxis]] = {}
    for weight in graph.weights:
        if weight.role in MADE_BY and wanted[weight.units].any():
            by_variable.setdefault(id(weight.variable), []).append(weight)
    owned = owned_variables(model)
    return {one.path: by_variable[id(one.variable)] for one in owned if id(one.variable) in by_variable}


def _norms(values: tf.Tensor, axis: int, criterion: str) -> tf.Tensor:
    others = [place for place in range(len(values.shape)) if place != axis]
    if criterion == "l2":
        return tf.sqrt(tf.reduce_sum(tf.square(values), axis=others))
    return tf.reduce_sum(tf.abs(values), axis=others)


def _is_sized(group: ChannelGroup) -> bool:
    """Return whether kernels want the number of units rounded: not that of heads or recurrent units."""
    return group.kind == "channels"


def units_left(units: int, divisor: int, least: int, wanted: tf.Tensor) -> tf.Tensor:
    """Return how many of so many units are left (int32): `kopt.prune.channel_removal.widths.rounded` in a graph."""
    least = least_units(units, divisor, least)
    nearest = divisor * tf.cast(tf.floor(wanted / divisor + 0.5), tf.int32)
    return tf.where(wanted >= units, units, tf.clip_by_value(nearest, least, units))


def _best(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return whether each score is one of the `count` largest; of equal scores the first."""
    order = tf.argsort(scores, direction="DESCENDING", stable=True)
    ranks = tf.argsort(order)
    return ranks < count
