"""Masks that belong to a model: they are saved with it, and hold whenever an optimizer changes its weights."""

import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.records.changes.magnitude_pruning import Pattern
from kopt.graph.naming import channel_axes, input_axis
from kopt.prune.schedules import Schedule
from kopt.prune.weight_masks import patterns
from kopt.prune.weight_masks.training_length import LengthCheck
from kopt.train.internals import accumulated_steps, is_updating
from kopt.train.weight_constraints import WeightConstraint, value_of


@keras.saving.register_keras_serializable("kopt")
class Masks(WeightConstraint):
    """The masks of a model, the step they are at, and the schedule they follow.

    The first constraint that an optimizer calls counts the step and, when it is the turn of the schedule, computes all
    masks from the updated weights.
    """

    attribute = "pruning"

    def __init__(
        self,
        model: keras.Model,
        paths: Sequence[str],
        targets: Sequence[float],
        pattern: Pattern,
        schedule: Schedule,
    ):
        """Put the variables of `model` under masks of ones.

        Args:
            model: to be pruned; its variables get constraints.
            paths: of the variables, as `kopt.graph.owned_variables` has them.
            targets: final sparsity of each.
            pattern: which weights are pruned together.
            schedule: when, and how many.

        Raises:
            InputError: a path is not in the model.
        """
        super().__init__(model, paths)
        self.targets, self.pattern, self.schedule = tuple(targets), pattern, schedule
        self.step = self.state("step", shape=(), dtype="int64", initializer="zeros")
        self.masks = [
            self.state(f"mask_{place}", shape=one.variable.shape, dtype="bool", initializer="ones")
            for place, one in enumerate(self.owned)
        ]
        self._last = threading.local()
        object.__setattr__(self, "_accumulating", None)

    def settings(self) -> dict[str, Any]:
        """See `WeightConstraint.settings`."""
        return {
            "paths": list(self.paths),
            "targets": list(self.targets),
            "pattern": self.pattern.to_json(indent=None),
            "schedule": keras.saving.serialize_keras_object(self.schedule),
        }

    @classmethod
    def from_settings(cls, model: keras.Model, settings: dict[str, Any]) -> "Masks":
        """See `WeightConstraint.from_settings`: masks of ones."""
        pattern = Pattern.from_json(settings["pattern"])
        schedule = keras.saving.deserialize_keras_object(settings["schedule"])
        return cls(model, settings["paths"], settings["targets"], pattern, schedule)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """See `WeightConstraint.callbacks`: a schedule that would prune nothing is an error before the training."""
        return [LengthCheck(self)]

    @property
    def unfinished(self) -> str:
        """See `WeightConstraint.unfinished`: masks that the schedule still changes."""
        done = int(self.step.numpy())
        if self.pattern.granularity == "n:m" or done + 1 >= max(self.schedule.begin, self.schedule.end):
            return ""
        return f"its masks follow {self.schedule!r} and are at step {done}"

    def removes_nothing(self, sparsity: float) -> bool:
        """Return whether all masks are ones at a sparsity, because it is less than half a unit of any variable."""
        return not removed(self.pattern, self.owned, self.targets, sparsity / self.schedule.final_sparsity)

    def start(self) -> None:
        """Compute and apply the masks that come before any training, if it is the turn of the schedule."""
        turn, sparsity = self.schedule(1)
        if self.pattern.granularity == "n:m" or bool(turn):
            self._assign(self._new_masks(sparsity))
        self.apply()

    def fix(self, kept: Sequence[np.ndarray]) -> None:
        """Take these masks (bool, one for each variable) and apply them."""
        self._assign(kept)
        self.apply()

    def constrained(self, place: int, values: np.ndarray) -> np.ndarray:
        """Return values of the variable at `place` with zeros where its mask is."""
        return np.where(self.masks[place].numpy(), values, np.zeros_like(values))

    def constrain(self, place: int, variable: Any) -> tf.Tensor:
        """Return the updated `variable`, the one at `place`, under its mask."""
        if self._begins_step(place):
            self._count_step()
        value = self.constrained_before(place, variable)
        return tf.where(value_of(self.masks[place]), value, tf.zeros_like(value))

    def _begins_step(self, place: int) -> bool:
        """Return whether this is the first constraint that is called after an update, while a step is traced or run.

        An optimizer calls them in one order, so one that does not come later than the last begins a new step.
        """
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        before, last = getattr(self._last, "graph", None), getattr(self._last, "place", -1)
        same = last >= 0 and (None if before is None else before()) is graph
        self._last.graph = None if graph is None else weakref.ref(graph)
        self._last.place = place
        return not same or place <= last

    def follow(self, optimizer: Any) -> None:
        """Count the updates of an optimizer that accumulates gradients, not the calls of it."""
        accumulates = accumulated_steps(optimizer) > 1
        object.__setattr__(self, "_accumulating", optimizer if accumulates else None)  # Past Keras, as in the base.

    def _count_step(self) -> None:
        updates = None if self._accumulating is None else is_updating(self._accumulating)
        self.step.assign_add(1 if updates is None else tf.cast(updates, tf.int64))
        if self.pattern.granularity == "n:m":
            return  # Its masks are those of the first step.
        turn, sparsity = self.schedule(value_of(self.step) + 1)
        if updates is not None:
            turn = tf.logical_and(turn, updates)
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            tf.cond(turn, lambda: self._assign(self._new_masks(sparsity)), lambda: None)
        else:  # Replicas cannot meet for an assignment within a condition.
            self._assign(
                tf.cond(
                    turn, lambda: self._new_masks(sparsity), lambda: [tf.identity(value_of(one)) for one in self.masks]
                )
            )

    def _assign(self, values: Sequence[tf.Tensor]) -> None:
        for mask, value in zip(self.masks, values, strict=True):
            mask.assign(value)

    def _new_masks(self, sparsity: tf.Tensor) -> list[tf.Tensor]:
        weights = [self.constrained_before(place, one.variable) for place, one in enumerate(self.owned)]
        now = [value_of(mask) for mask in self.masks]
        frozen = [not one.variable.trainable for one in self.owned]  # since: nothing applies a mask to these
        if self.pattern.scope == "global":
            found = patterns.global_masks(weights, sparsity)
            return [mask if stays else new for mask, new, stays in zip(now, found, frozen, strict=True)]
        final = self.schedule.final_sparsity
        shares = [1.0 if target == final else target / final for target in self.targets]
        return [
            mask if stays else self._mask(one, value, sparsity if share == 1.0 else sparsity * share)
            for one, value, share, mask, stays in zip(self.owned, weights, shares, now, frozen, strict=True)
        ]

    def _mask(self, one: Any, weights: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
        pattern, rank = self.pattern, len(weights.shape)
        if pattern.granularity == "block":
            return patterns.block_mask(weights, sparsity, pattern.block, pattern.pooling)
        if pattern.granularity == "n:m":
            return patterns.n_m_mask(weights, *pattern.n_m, input_axis(one.layer, one.variable.name, rank))
        if pattern.granularity == "channel":
            return patterns.channel_mask(weights, sparsity, channel_axes(one.layer, one.variable.name, rank))
        return patterns.element_mask(weights, sparsity)


def removed(pattern: Pattern, owned: Sequence[Any], targets: Sequence[float], share: float = 1.0) -> int:
    """Return how many units (weights, blocks or channels) masks remove of variables at a share of their sparsity."""
    sizes = [_units(pattern, one) for one in owned]
    if pattern.granularity == "n:m":
        return sum(sizes)
    if pattern.scope == "global":
        sizes, targets = [sum(sizes)], targets[:1]
    return sum(size - max(1, round(size * (1 - target * share))) for size, target in zip(sizes, targets, strict=True))


def _units(pattern: Pattern, one: Any) -> int:
    shape = tuple(one.variable.shape)
    if pattern.granularity == "block":
        height, width = pattern.block
        return math.ceil(math.prod(shape[:-1]) / height) * math.ceil(shape[-1] / width)
    if pattern.granularity == "channel":
        return math.prod(shape[axis] for axis in channel_axes(one.layer, one.variable.name, len(shape)))
    return math.prod(shape)
