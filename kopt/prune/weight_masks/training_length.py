"""A look at the length of a training before it begins: does the schedule prune anything in it?"""

import warnings
from collections.abc import Callable
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
        self._begins = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Look where the training begins."""
        self._masks.follow(getattr(self.model, "optimizer", None))
        self._begins = self._masks.pattern.granularity != "n:m"

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Refuse a training in which nothing would be pruned, and warn of one that ends too early."""
        steps, begins, self._begins = self.params.get("steps"), self._begins, False
        if begins and steps is not None:
            masks, total = self._masks, steps * (self.params["epochs"] - epoch)
            check_length(
                masks.schedule,
                int(masks.step.numpy()) + 1,
                total // accumulated_steps(self.model.optimizer),
                masks.removes_nothing,
                is_pruned=self._is_pruned(),
            )

    def on_train_end(self, logs: Any = None) -> None:
        """Warn if the training was of unknown length, and pruned nothing."""
        masks = self._masks
        if self.params.get("steps") is None and not self._is_pruned() and masks.schedule.final_sparsity > 0:
            warnings.warn(
                f"This training pruned nothing: {masks.schedule!r} is at step {int(masks.step.numpy())}. Let it begin "
                f"earlier, with a smaller `frequency`, or train longer.",
                stacklevel=2,
            )

    def _is_pruned(self) -> bool:
        return any(not mask.numpy().all() for mask in self._masks.masks)


def check_length(
    schedule: Schedule, first: int, total: int, removes_nothing: Callable[[float], bool], *, is_pruned: bool
) -> None:
    """Refuse a training in which nothing would be pruned, and warn of one that ends too early.

    Args:
        schedule: of the masks.
        first: step that the training begins with.
        total: its steps.
        removes_nothing: whether masks are ones at a sparsity.
        is_pruned: whether any are not, before the training.

    Raises:
        ConfigError: nothing would be pruned.
    """
    final = schedule.final_sparsity
    reached = highest_sparsity(schedule, first, first + total)
    if final > 0 and not is_pruned and removes_nothing(reached):
        raise ConfigError(
            f"The schedule {schedule!r} prunes nothing in this training, which takes {total} steps from step {first} "
            f"on. Let it begin earlier, with a smaller `frequency`, or train longer."
        )
    if 0.0 < reached < 0.99 * final and _goes_on(schedule, first + total + 1):
        warnings.warn(
            f"This training of {total} steps ends at a sparsity of {reached:.3f}; {schedule!r} leads to {final:.3f}.",
            stacklevel=2,
        )


def _goes_on(schedule: Schedule, step: int) -> bool:
    return schedule.end >= step
