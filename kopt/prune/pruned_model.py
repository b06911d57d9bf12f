"""Models that carry masks: Functional and Sequential models as they were, with the masks as one more part."""

import warnings
from typing import Any

import keras

from kopt.core.errors import ConfigError
from kopt.core.pruning_records import Pattern
from kopt.graph.internals import FunctionalModel
from kopt.prune.channel_masks import ChannelMasks, MaskedChannels
from kopt.prune.masks import Masks
from kopt.prune.schedules import Schedule, highest_sparsity
from kopt.train.interception import with_own_callbacks

_KEY = "kopt_pruning"


class PrunedModel:
    """What a model with masks adds: it saves and loads them, and looks at the schedule before it trains."""

    pruning: Masks

    def put_under_masks(self, paths: list[str], targets: list[float], pattern: Pattern, schedule: Schedule) -> None:
        """Add masks of ones for the variables at `paths`."""
        self.pruning = Masks(self, paths, targets, pattern, schedule)

    def get_config(self) -> dict[str, Any]:
        """Return the config of the model, and how it is pruned."""
        return {**super().get_config(), _KEY: self.pruning.description()}  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model, with masks of ones; Keras fills them in as it does the weights."""
        config = dict(config)
        how = config.pop(_KEY)
        model = super().from_config(config, custom_objects=custom_objects)  # type: ignore[misc]
        model.pruning = _restored_masks(model, how)
        return model

    def fit(self, *args: Any, callbacks: Any = None, **settings: Any) -> Any:
        """See `keras.Model.fit`; a schedule that would prune nothing in this training is an error before it."""
        return super().fit(*args, callbacks=with_own_callbacks(self, callbacks), **settings)  # type: ignore[misc]

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks that any `fit` of this model should have."""
        return [_LengthCheck(self.pruning)]


def _restored_masks(model: keras.Model, how: dict[str, Any]) -> Masks:
    schedule = keras.saving.deserialize_keras_object(how["schedule"])
    if "channels" in how:
        return ChannelMasks(model, MaskedChannels.from_dict(how["channels"]), schedule)
    return Masks(model, how["paths"], how["targets"], Pattern.from_json(how["pattern"]), schedule)


def is_pruned(model: keras.Model) -> bool:
    """Return whether a model carries masks."""
    return isinstance(model, PrunedModel)


class _LengthCheck(keras.callbacks.Callback):
    """Compares the length of a training with the schedule."""

    def __init__(self, masks: Masks):
        super().__init__()
        self._masks = masks

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse a training in which nothing would be pruned, and warn of one that ends too early."""
        steps, masks = self.params.get("steps"), self._masks
        if steps is None or masks.pattern.granularity == "n:m":
            return
        total, done = steps * self.params["epochs"], int(masks.step.numpy())
        final = masks.schedule.final_sparsity
        pruned = any(not mask.numpy().all() for mask in masks.masks)
        reached = highest_sparsity(masks.schedule, done + 1, done + total + 1)
        if reached == 0.0 and not pruned and final > 0:
            raise ConfigError(
                f"The schedule {masks.schedule!r} prunes nothing in this training, which takes {total} steps from step "
                f"{done + 1} on. Let it begin earlier, with a smaller `frequency`, or train longer."
            )
        if 0.0 < reached < 0.99 * final and _goes_on(masks.schedule, done + total + 2):
            warnings.warn(
                f"This training of {total} steps ends at a sparsity of {reached:.3f}; {masks.schedule!r} leads to "
                f"{final:.3f}.",
                stacklevel=2,
            )


def _goes_on(schedule: Schedule, step: int) -> bool:
    return schedule.end >= step


@keras.saving.register_keras_serializable("kopt")
class PrunedFunctional(PrunedModel, FunctionalModel):
    """A Functional model with masks."""


@keras.saving.register_keras_serializable("kopt")
class PrunedSequential(PrunedModel, keras.Sequential):
    """A Sequential model with masks."""
