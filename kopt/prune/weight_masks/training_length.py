"""A look at the length of a training before it begins: does the schedule prune anything in it?"""

import warnings
from typing import Any

import keras

from kopt.core.errors import ConfigError
from kopt.prune.schedules import Schedule, highest_sparsity
from kopt.train.internals import accumulated_steps


class LengthCheck(keras.callbacks.Callback):
    """Compares the length of a training with the schedule."""

    def __init__(self, masks: Any):
        super().__init__()
        self._masks = masks

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse a training in which nothing would be pruned, and warn of one that ends too early."""
        steps, masks, optimizer = self.params.get("steps"), self._masks, getattr(self.model, "optimizer", None)
        masks.follow(optimizer)
        if steps is None or masks.pattern.granularity == "n:m":
            return
        total = steps * self.params["epochs"] // accumulated_steps(optimizer)
        done = int(masks.step.numpy())
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
