"""Statistics of the updates of an optimizer, gathered inside the training step on some steps only."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kopt.graph import OwnedVariable
from kopt.graph.naming import channel_axes

# Numbers of a variable in a sample.
_NORM, _WEIGHT, _UPDATE, _ZEROS = range(4)
_SUMS = 5  # norm, squared norm, squared distance from the mean, share of zeros, mean entry


class EpochSums(NamedTuple):
    """What was summed up over the sampled steps of an epoch.

    Attributes:
        steps: that were sampled.
        gradients: shape (variables, 5): norm, squared norm, squared distance from the mean, share of zeros, mean entry.
        updates: ratios of change to weight, shape (variables,).
        dead: for each variable with two axes and more, the share of output channels without a gradient; `None` else.
    """

    steps: int
    gradients: np.ndarray
    updates: np.ndarray
    dead: list[float | None]


class UpdateStatistics:
    """Stands round the update of an optimizer: every so many steps it looks at gradients, weights and their change.

    All variables share one condition in the graph, which is all that other steps pay for; those that are traced in the
    block of `left_out` do not have it. Two copies of the weights stand in memory: the mean gradient of the epoch, and
    the weights before a sampled update.
    """

    def __init__(self, owned: Sequence[OwnedVariable], optimizer: Any, every: int, capacity: int):
        """Make room.

        Args:
            owned: variables that the optimizer changes, in its order.
            optimizer: whose `iterations` count the updates.
            every: updates between samples; the first one is one.
            capacity: samples that are kept until `read_samples`.
        """
        self._variables = [one.variable for one in owned]
        self._optimizer, self._every, self.capacity = optimizer, every, capacity
        count = len(self._variables)
        self._means = [tf.Variable(tf.zeros(one.shape)) for one in self._variables]
        self._before = [tf.Variable(tf.zeros(one.shape)) for one in self._variables]
        self._channels = [_channels(one) for one in owned]
        self._alive = [_alive(one, axes) for one, axes in zip(self._variables, self._channels, strict=True)]
        self._samples = tf.Variable(tf.zeros([capacity, count, 4]))
        self._heads = tf.Variable(tf.zeros([capacity, 2], tf.float64))  # step, learning rate
        self._taken = tf.Variable(0, dtype=tf.int64)
        self._sums = tf.Variable(tf.zeros([count, _SUMS], tf.float64))
        self._updates = tf.Variable(tf.zeros([count], tf.float64))
        self._steps = tf.Variable(0, dtype=tf.int64)
        self._read = 0
        self.next = tf.Variable(-(-int(optimizer.iterations) // every) * every, dtype=tf.int64)
        self._stands_by = True

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Leave the statistics out of what is traced in the block."""
        self._stands_by = False
        try:
            yield
        finally:
            self._stands_by = True

    def around(self, update: Callable[..., Any]) -> Callable[..., None]:
        """Return `update(gradients, variables, learning_rate)` with the statistics round it."""

        def watched(gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
            if not self._stands_by:
                update(gradients, variables, learning_rate)
                return

            def plain() -> tf.Tensor:
                update(gradients, variables, learning_rate)
                return tf.constant(0)

            def looked_at() -> tf.Tensor:
                for before, variable in zip(self._before, self._variables, strict=True):
                    before.assign(tf.cast(variable.value, tf.float32))
                update(gradients, variables, learning_rate)
                pairs = zip(gradients, self._variables, strict=True)
                self._take([_dense(gradient, one) for gradient, one in pairs], learning_rate)
                return tf.constant(0)

            tf.cond(self._updates_made() >= self.next, looked_at, plain)

        return watched

    def read_samples(self) -> list[tuple[int, float, np.ndarray]]:
        """Return step, learning rate and numbers, shape (variables, 4), of the samples since the last call."""
        taken = int(self._taken)
        heads, samples = self._heads.numpy(), self._samples.numpy()
        places = [place % self.capacity for place in range(max(self._read, taken - self.capacity), taken)]
        self._read = taken
        return [(int(heads[place][0]), float(heads[place][1]), samples[place]) for place in places]

    def end_epoch(self) -> EpochSums:
        """Return the sums of the epoch and begin anew."""
        dead = [None if one is None else 1 - float(one.numpy().mean()) for one in self._alive]
        sums = EpochSums(int(self._steps), self._sums.numpy(), self._updates.numpy(), dead)
        alive = [one for one in self._alive if one is not None]
        for variable in (*self._means, *alive, self._sums, self._updates, self._steps):
            variable.assign(tf.zeros_like(variable))
        return sums

    def _updates_made(self) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(self._optimizer.iterations), tf.int64)

    def _take(self, gradients: list[tf.Tensor], learning_rate: Any) -> None:
        number = tf.cast(self._steps.assign_add(1), tf.float32)
        rows, sums = [], []
        for place, gradient in enumerate(gradients):
            square, change = tf.reduce_sum(tf.square(gradient)), gradient - self._means[place]
            self._means[place].assign_add(change / number)
            deviation = tf.reduce_sum(change * (gradient - self._means[place]))
            nonzero = tf.not_equal(gradient, 0)
            zeros = 1 - tf.math.count_nonzero(nonzero, dtype=tf.float32) / max(1, math.prod(gradient.shape))
            before, alive = self._before[place], self._alive[place]
            moved = tf.norm(tf.cast(self._variables[place].value, tf.float32) - before)
            weight = tf.norm(before)
            rows.append(tf.stack([tf.sqrt(square), weight, tf.math.divide_no_nan(moved, weight), zeros]))
            sums.append(tf.stack([tf.sqrt(square), square, deviation, zeros, tf.reduce_mean(gradient)]))
            if alive is not None:
                others = [axis for axis in range(gradient.shape.rank) if axis not in self._channels[place]]
                alive.assign(alive | tf.reduce_any(nonzero, axis=others))
        table = tf.stack(rows)
        slot = [[tf.cast(self._taken % self.capacity, tf.int32)]]
        made = self._updates_made()
        head = tf.stack([tf.cast(made, tf.float64), tf.cast(learning_rate, tf.float64)])
        self._samples.scatter_nd_update(slot, table[tf.newaxis])
        self._heads.scatter_nd_update(slot, head[tf.newaxis])
        self._taken.assign_add(1)
        self.next.assign(made - made % self._every + self._every)
        self._sums.assign_add(tf.cast(tf.stack(sums), tf.float64))
        self._updates.assign_add(tf.cast(table[:, _UPDATE], tf.float64))


def _channels(owned: OwnedVariable) -> tuple[int, ...]:
    """Return the axes of a kernel's output channels; none of biases and scales."""
    rank = len(owned.variable.shape)
    return channel_axes(owned.layer, owned.variable.name, rank) if rank > 1 else ()


def _alive(variable: Any, axes: tuple[int, ...]) -> Any:
    """Return where output channels are marked that had a gradient; `None` where there are none."""
    return tf.Variable(tf.zeros([variable.shape[axis] for axis in axes], tf.bool)) if axes else None


def _dense(gradient: Any, variable: Any) -> tf.Tensor:
    if gradient is None:
        return tf.zeros(variable.shape)
    # Of the rows of an embedding the shape is lost in a condition.
    return tf.ensure_shape(tf.cast(tf.convert_to_tensor(gradient), tf.float32), variable.shape)
