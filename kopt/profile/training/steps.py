"""Which steps of `fit` look at their update, and which run as if nobody watched."""

from collections.abc import Callable
from typing import Any

import keras

from kopt.profile.training.collection import UpdateStatistics
from kopt.train.internals import calls_of_apply


class StepChoice:
    """Has the step of `fit` twice, with the statistics and without, and hands it the one that the next call needs.

    Even a condition that is never met costs a short step several percent. When to look follows from the count of
    batches, which the host knows, so no other step has to ask.
    """

    def __init__(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer, statistics: UpdateStatistics, every: int
    ):
        """Look from the next call of `choose` on.

        Args:
            model: that trains.
            optimizer: the one whose update is looked at.
            statistics: that stand round its update.
            every: updates between two samples.
        """
        self._model, self._optimizer, self._statistics, self._every = model, optimizer, statistics, every
        self._watched: Any = None
        self._plain: Any = None
        self._calls = self._next = 0

    def begin_epoch(self) -> None:
        """Take the counts over from the optimizer: a step that was skipped or cut short has not counted there."""
        self._calls, self._next = int(calls_of_apply(self._optimizer)), int(self._statistics.next)

    def choose(self, batch: int) -> None:
        """Set the step for the call that begins with `batch` of this epoch.

        `kopt.train.accelerate` has a step of its own, with many batches a call; there is no choice then.
        """
        function = self._model.train_function
        if function is None:
            return
        if function is not self._watched and function is not self._plain:
            self._watched = function
            self._model.make_train_function(force=True)
            self._plain = self._without(self._model.train_function)
        calls = self._calls + batch + self._model.steps_per_execution
        last_update = calls // (self._optimizer.gradient_accumulation_steps or 1) - 1
        looks = last_update >= self._next
        if looks:
            self._next = last_update - last_update % self._every + self._every
        self._model.train_function = self._watched if looks else self._plain

    def _without(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def plain(iterator: Any) -> Any:
            with self._statistics.left_out():  # It is traced within its first call.
                return step(iterator)

        return plain
