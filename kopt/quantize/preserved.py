"""What a kernel brings along from pruning or weight sharing, kept while it is trained with rounded weights."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.graph.additions import AddedState

ZEROS, VALUES, CHANNEL_VALUES = "zeros", "values", "channel values"
CODEBOOKS = (VALUES, CHANNEL_VALUES)
# Random weights hold no zeros, and of so many weights hardly two alike.
_LEAST_ZEROS = 0.05
_MOST_VALUES = 256
# Where each channel has values of its own, of it and of its weights. Weights on a grid of 8 bits use more.
_MOST_OF_CHANNEL, _MOST_SHARE = 64, 2 / 3
# The group of a codebook's zeros, which stay zero; segment sums leave negative numbers out.
_ZERO = -1


def what_to_keep(kernel: np.ndarray, channels: tuple[int, ...]) -> str:
    """Return what updates should leave: `"zeros"`, `"values"` (a codebook), `"channel values"` (several) or nothing.

    Args:
        kernel: its weights. Zeros count from 5 % on, unless all are zero; a codebook is at most 256 values, and a
            quarter of the weights; that of a channel at most 64, and two thirds of its weights.
        channels: axes that number its output channels.
    """
    found = np.unique(kernel).size
    if 1 < found <= min(_MOST_VALUES, kernel.size // 4):
        return VALUES
    zeros = float(np.mean(kernel == 0))
    used = [channel[channel != 0] for channel in _by_channel(kernel, channels)]
    if found > 1 and all(np.unique(one).size <= min(_MOST_OF_CHANNEL, _MOST_SHARE * one.size) for one in used):
        return CHANNEL_VALUES
    return ZEROS if _LEAST_ZEROS <= zeros < 1.0 else ""


def distinct(kernel: np.ndarray, what: str, channels: tuple[int, ...]) -> int:
    """Return how many values a kernel with codebooks has, the most of a channel if each has its own; else 0."""
    if what == CHANNEL_VALUES:
        return max(np.unique(channel).size for channel in _by_channel(kernel, channels))
    return int(np.unique(kernel).size) if what == VALUES else 0


class Preserved(AddedState):
    """Zeros that stay zero, or weights of one value that stay of one value, through the constraint of the kernel.

    Keras optimizers apply the constraint of a variable after its update, compiled or not, on every replica.
    """

    def __init__(self, kernel: Any, what: str):
        """Put a kernel under its own pattern; a constraint that it had goes first.

        Args:
            kernel: a Keras variable. Its values say what is kept; loading a model fills in what was kept then.
            what: see `what_to_keep`.
        """
        super().__init__(name="preserved", trainable=False, dtype="float32")
        self.what, self._before = what, kernel.constraint
        self._most = _MOST_VALUES if what == VALUES else math.prod(kernel.shape)
        self.pattern = self.add_weight(
            name="pattern",
            shape=kernel.shape,
            dtype="bool" if what == ZEROS else "int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.built = True
        kernel.constraint = self._constrain

    def take_from(self, kernel: np.ndarray, channels: tuple[int, ...]) -> None:
        """Take the pattern of these weights; `channels` are the axes that number the output channels."""
        if self.what == ZEROS:
            self.pattern.assign(kernel != 0)
        else:
            groups = _groups(kernel, channels if self.what == CHANNEL_VALUES else ())
            self.pattern.assign(np.where(kernel == 0, _ZERO, groups).astype("int32"))

    def apply(self, kernel: Any) -> None:
        """Bring the pattern back into the variable, when something else than an optimizer has changed it."""
        kernel.assign(self._constrain(kernel))

    def call(self, inputs: Any) -> Any:
        """Give back what comes in: the optimizer applies the pattern."""
        return inputs

    def _constrain(self, variable: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(variable if self._before is None else self._before(variable))
        pattern = tf.convert_to_tensor(self.pattern.value)
        if self.what == ZEROS:
            return tf.where(pattern, value, tf.zeros_like(value))
        groups = tf.reshape(pattern, [-1])
        means = tf.math.unsorted_segment_mean(tf.reshape(value, [-1]), groups, self._most)
        shared = tf.where(groups == _ZERO, 0.0, tf.gather(means, tf.maximum(groups, 0)))
        return tf.reshape(shared, value.shape)


def _groups(kernel: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
    """Return a number for every value, for a value in two channels two."""
    rows = _by_channel(kernel, channels)
    numbers = np.stack([np.unique(one, return_inverse=True)[1] + place * len(one) for place, one in enumerate(rows)])
    first = np.moveaxis(kernel, channels, range(len(channels))).shape
    return np.moveaxis(numbers.reshape(first), range(len(channels)), channels)


def _by_channel(kernel: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
    """Return the weights of each channel as a row."""
    first = np.moveaxis(kernel, channels, range(len(channels)))
    return first.reshape(math.prod(first.shape[: len(channels)]), -1)
