"""Masks that belong to a model: they are saved with it, and hold whenever an optimizer changes its weights."""

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import InputError
from kopt.core.pruning_records import Pattern
from kopt.graph import OwnedVariable, owned_variables
from kopt.prune import patterns
from kopt.prune.schedules import Schedule

_DEPTHWISE = "Depthwise"


class MaskedUpdate:
    """The constraint of a variable under a mask; the one that was there before goes first."""

    def __init__(self, masks: "Masks", place: int):
        """Stand for the mask at `place` of `masks`."""
        self.masks, self.place = masks, place

    def __call__(self, variable: Any) -> tf.Tensor:
        """Return what an optimizer has made of the variable, masked."""
        return self.masks.constrain(self.place, variable)


class Masks(keras.layers.Layer):
    """The masks of a model, the step they are at, and the schedule they follow.

    Keras optimizers apply the constraints of all variables after their update. The first of them that is called counts
    the step and, when it is the turn of the schedule, computes all masks from the updated weights.
    """

    owned: tuple[OwnedVariable, ...]
    _pruned: tuple[Any, ...]
    _before: tuple[Any, ...]

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
        super().__init__(name="pruning_masks", trainable=False, dtype="float32")
        owned = {one.path: one for one in owned_variables(model)}
        missing = [path for path in paths if path not in owned]
        if missing:
            raise InputError(f"The model {model.name!r} has no variables {', '.join(missing)} to prune.")
        self.paths, self.targets = tuple(paths), tuple(targets)
        self.pattern, self.schedule = pattern, schedule
        # Past Keras, which would count the variables of the model as those of this layer.
        object.__setattr__(self, "owned", tuple(owned[path] for path in paths))
        object.__setattr__(self, "_pruned", tuple(one.variable for one in self.owned))
        object.__setattr__(self, "_before", tuple(one.variable.constraint for one in self.owned))
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False, aggregation="only_first_replica"
        )
        self.masks = [
            self.add_weight(
                name=f"mask_{place}",
                shape=one.variable.shape,
                dtype="bool",
                initializer="ones",
                trainable=False,
                aggregation="only_first_replica",
            )
            for place, one in enumerate(self.owned)
        ]
        self.built = True
        for place, one in enumerate(self.owned):
            one.variable.constraint = MaskedUpdate(self, place)
        self._last = threading.local()

    def description(self) -> dict[str, Any]:
        """Return what makes these masks again, as masks of ones: plain data for the config of a model."""
        return {
            "paths": list(self.paths),
            "targets": list(self.targets),
            "pattern": self.pattern.to_json(indent=None),
            "schedule": keras.saving.serialize_keras_object(self.schedule),
        }

    def call(self, inputs: Any) -> Any:
        """Give back what comes in: masks are applied by the optimizer."""
        return inputs

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

    def apply(self) -> None:
        """Set every masked weight to zero."""
        for one, mask in zip(self.owned, self.masks, strict=True):
            values = one.variable.numpy()
            one.variable.assign(np.where(mask.numpy(), values, np.zeros_like(values)))

    def constrain(self, place: int, variable: Any) -> tf.Tensor:
        """Return the updated `variable`, the one at `place`, under its mask."""
        if self._begins_step(place):
            self._count_step()
        value = self._constrained_before(place, variable)
        return tf.where(_value(self.masks[place]), value, tf.zeros_like(value))

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

    def _count_step(self) -> None:
        self.step.assign_add(1)
        if self.pattern.granularity == "n:m":
            return  # Its masks are those of the first step.
        turn, sparsity = self.schedule(_value(self.step) + 1)
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            tf.cond(turn, lambda: self._assign(self._new_masks(sparsity)), lambda: None)
        else:  # Replicas cannot meet for an assignment within a condition.
            self._assign(
                tf.cond(
                    turn, lambda: self._new_masks(sparsity), lambda: [tf.identity(_value(one)) for one in self.masks]
                )
            )

    def _assign(self, values: Sequence[tf.Tensor]) -> None:
        for mask, value in zip(self.masks, values, strict=True):
            mask.assign(value)

    def _constrained_before(self, place: int, variable: Any) -> tf.Tensor:
        before = self._before[place]
        return tf.convert_to_tensor(_value(variable) if before is None else before(variable))

    def _new_masks(self, sparsity: tf.Tensor) -> list[tf.Tensor]:
        weights = [self._constrained_before(place, variable) for place, variable in enumerate(self._pruned)]
        if self.pattern.scope == "global":
            return patterns.global_masks(weights, sparsity)
        final = self.schedule.final_sparsity
        shares = [1.0 if final == 0 or target == final else target / final for target in self.targets]
        return [
            self._mask(one, value, sparsity if share == 1.0 else sparsity * share)
            for one, value, share in zip(self.owned, weights, shares, strict=True)
        ]

    def _mask(self, one: Any, weights: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
        pattern = self.pattern
        if pattern.granularity == "block":
            return patterns.block_mask(weights, sparsity, pattern.block, pattern.pooling)
        if pattern.granularity == "n:m":
            return patterns.n_m_mask(weights, *pattern.n_m)
        if pattern.granularity == "channel":
            return patterns.channel_mask(weights, sparsity, channel_axes(one.layer, len(weights.shape)))
        return patterns.element_mask(weights, sparsity)


def channel_axes(layer: keras.layers.Layer, rank: int) -> tuple[int, ...]:
    """Return the axes of a kernel that number its output channels."""
    return (rank - 2, rank - 1) if _DEPTHWISE in type(layer).__name__ else (rank - 1,)


def _value(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
