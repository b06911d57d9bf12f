"""Penalties that make whole channels small, as regularizers of variables, and models that carry them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kopt.core.serialization import Record
from kopt.graph.additions import Addition, add
from kopt.graph.channels import ChannelGraph, ChannelGroup, channel_graph
from kopt.graph.internals import FunctionalModel

_KEY = "kopt_group_lasso"


def norm(squares: tf.Tensor) -> tf.Tensor:
    """Return the square root, with a slope of 0 at 0, where the root itself has none.

    Args:
        squares: sums of squares, float32.
    """
    positive = squares > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squares, 1.0)), 0.0)


class GroupNorms:
    """`strength sqrt(p) sum_u |w_u|` of the units of a group, `p` weights each, over all layers that make them.

    Args:
        group: its units.
        parts: variables that make them: the variable, the axis, and the units along it.
        strength: factor.

    Attributes:
        weights_per_unit: `p`.
    """

    def __init__(self, group: ChannelGroup, parts: Sequence[tuple[Any, int, npt.NDArray[np.int64]]], strength: float):
        self._units, self._strength = group.units.size, strength
        self._parts: list[tuple[Any, int, Any, Any]] = []
        order = np.argsort(group.units)
        total = 0
        for variable, axis, units in parts:
            entries = np.flatnonzero(np.isin(units, group.units))
            local = order[np.searchsorted(group.units, units[entries], sorter=order)]
            self._parts.append((variable, axis, entries, local))
            total += int(np.prod(variable.shape)) // variable.shape[axis] * entries.size
        self.weights_per_unit = total // self._units

    def norms(self) -> tf.Tensor:
        """Return `|w_u|` of every unit."""
        squares = tf.zeros([self._units])
        for variable, axis, entries, local in self._parts:
            values = tf.square(tf.cast(variable.value, tf.float32))
            sums = tf.reduce_sum(values, axis=[place for place in range(len(values.shape)) if place != axis])
            squares += tf.math.unsorted_segment_sum(tf.gather(sums, entries), local, self._units)
        return norm(squares)

    def __call__(self) -> tf.Tensor:
        """Return the penalty."""
        return self._strength * self.weights_per_unit**0.5 * tf.reduce_sum(self.norms())


class ScaleNorms:
    """`strength sum |gamma|` of some entries of a variable."""

    def __init__(self, variable: Any, entries: npt.NDArray[np.int64], strength: float):
        self._variable, self._entries, self._strength = variable, entries, strength

    def __call__(self) -> tf.Tensor:
        """Return the penalty."""
        values = tf.gather(tf.cast(self._variable.value, tf.float32), self._entries)
        return self._strength * tf.reduce_sum(tf.abs(values))


class AddedPenalty:
    """The regularizer of a variable: the one that was there, and a penalty that may look at others."""

    def __init__(self, before: Callable[[Any], Any] | None, penalty: Callable[[], tf.Tensor]):
        """Put `penalty` beside the regularizer `before`."""
        self._before, self._penalty = before, penalty

    def __call__(self, variable: Any) -> tf.Tensor:
        """Return both."""
        added = self._penalty()
        return added if self._before is None else added + tf.cast(self._before(variable), added.dtype)


@dataclasses.dataclass(frozen=True)
class PenaltySettings(Record):
    """What penalties are made of; saved with a model. See `kopt.prune.group_lasso`."""

    strength: float
    scale_strength: float
    protect: tuple[str, ...]


class Penalties:
    """The penalties of a model.

    Attributes:
        settings: that they were made with.
        graph: channels of the model.
        groups: by place of the group in the graph, for those that have one.
        scales: of the scales of batch normalizations.
    """

    def __init__(self, model: keras.Model, settings: PenaltySettings):
        """Give variables of `model` regularizers.

        Each group hangs on one of its variables, that of the first layer that is trained.
        """
        self.settings, self.graph = settings, channel_graph(model, protect=settings.protect)
        trained = {id(variable) for variable in model.trainable_variables}
        self.groups: dict[int, GroupNorms] = {}
        for place, group in enumerate(self.graph.groups):
            parts = _parts(self.graph, group, trained)
            if not group.reason and parts:
                self.groups[place] = GroupNorms(group, parts, settings.strength)
                if settings.strength:
                    _add(parts[0][0], self.groups[place])
        self.scales = list(self._scales(trained)) if settings.scale_strength else []

    def _scales(self, trained: set[int]) -> Any:
        free = np.zeros(self.graph.unit_count, np.bool_)
        for group in self.graph.free:
            free[group.units] = True
        for weight in self.graph.weights:
            if weight.role == "scale" and len(weight.variable.shape) == 1 and id(weight.variable) in trained:
                penalty = ScaleNorms(weight.variable, np.flatnonzero(free[weight.units]), self.settings.scale_strength)
                _add(weight.variable, penalty)
                yield penalty


def _parts(graph: ChannelGraph, group: ChannelGroup, trained: set[int]) -> list[tuple[Any, int, npt.NDArray[np.int64]]]:
    return [
        (weight.variable, weight.axis, weight.units)
        for weight in graph.weights
        if weight.role == "kernel" and id(weight.variable) in trained and np.isin(weight.units, group.units).any()
    ]


def _add(variable: Any, penalty: Callable[[], tf.Tensor]) -> None:
    variable.regularizer = AddedPenalty(variable.regularizer, penalty)


class PenalizedModel:
    """What a model with penalties adds: it saves and loads them."""

    plain: ClassVar[type[keras.Model]]
    # `Penalties`.
    penalties = Addition()

    def penalize(self, settings: PenaltySettings) -> None:
        """Add penalties."""
        add(self, penalties=Penalties(self, settings))

    def get_config(self) -> dict[str, Any]:
        """Return the config of the model, and its penalties."""
        return {**self.plain_config(), _KEY: self.penalties.settings.to_dict()}

    def plain_config(self) -> dict[str, Any]:
        """Return the config without the penalties, for `plain`."""
        return super().get_config()  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model with its penalties."""
        config = dict(config)
        settings = PenaltySettings.from_dict(config.pop(_KEY))
        model = super().from_config(config, custom_objects=custom_objects)  # type: ignore[misc]
        model.penalize(settings)
        return model


@keras.saving.register_keras_serializable("kopt")
class PenalizedFunctional(PenalizedModel, FunctionalModel):
    """A Functional model with penalties."""

    plain = FunctionalModel


@keras.saving.register_keras_serializable("kopt")
class PenalizedSequential(PenalizedModel, keras.Sequential):
    """A Sequential model with penalties."""

    plain = keras.Sequential
