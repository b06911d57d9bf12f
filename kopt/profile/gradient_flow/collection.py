"""Gradients of batch after batch in one traced step, with moments that stay on the device."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import NonFiniteError
from kopt.graph import OwnedVariable
from kopt.profile.gradient_flow.activations import Counts, watching
from kopt.train.batch_loss import batch_loss


class Sums(NamedTuple):
    """What was summed up over the batches for one variable, or for all together.

    Attributes:
        norm: of the L2 norms.
        square: of the squared norms.
        deviation: of the squared distances from the mean gradient.
        zeros: of the shares of entries that are 0.
        entry: of the mean entries.
    """

    norm: float
    square: float
    deviation: float
    zeros: float
    entry: float


class GradientCollection:
    """Takes batches of one size and keeps sums of their gradients; another copy of the weights stands in memory.

    Attributes:
        connected: for each variable, whether the loss depends on it; known after the first batch.
        activations: what was counted of the activations.
        batches: taken so far.
        loss_sum: of their losses.
    """

    def __init__(self, model: keras.Model, variables: list[OwnedVariable], loss: Any, *, training: bool, width: float):
        """Make room for the sums; nothing is traced yet."""
        self._model, self._variables, self._loss = model, variables, loss
        self._training, self._width = training, width
        self.connected: list[bool] = []
        self.activations: list[Counts] = []
        self.batches, self.loss_sum = 0, 0.0
        self._means = [tf.Variable(tf.zeros(one.variable.shape, tf.float32)) for one in variables]
        self._sizes = [float(math.prod(one.variable.shape)) for one in variables]
        self._sums = tf.Variable(tf.zeros([len(variables) + 1, len(Sums._fields)], tf.float64))
        self._step = tf.function(self._take, autograph=False, reduce_retracing=True)

    def take(self, batch: tuple[Any, Any, Any]) -> None:
        """Add one batch.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite.
        """
        self.batches += 1
        loss, squares = self._step(*batch, tf.constant(float(self.batches), tf.float32))
        self.loss_sum += float(loss)
        bad = np.flatnonzero(~np.isfinite(squares.numpy()))
        if len(bad) or not math.isfinite(float(loss)):
            what = f"The gradient of {self._variables[bad[0]].path!r}" if len(bad) else "The loss"
            raise NonFiniteError(
                f"{what} is NaN or infinite in batch {self.batches - 1}. `kopt.train.locate_nonfinite` says where it "
                f"begins."
            )

    def sums(self) -> list[Sums]:
        """Return the sums by variable, and last those of all gradients together."""
        return [Sums(*map(float, row)) for row in self._sums.numpy()]

    def _take(self, x: Any, y: Any, weight: Any, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape, watching(self._model) as watched:
            loss = batch_loss(self._model, self._loss, (x, y, weight), training=self._training)
            scale = _loss_scale(self._model)
            scaled = loss * tf.cast(scale, loss.dtype)
        found = tape.gradient(scaled, [one.variable.value for one in self._variables])
        self.connected = [gradient is not None for gradient in found]
        gradients = [_dense(gradient, one, scale) for gradient, one in zip(found, self._variables, strict=True)]
        rows = [self._add(mean, gradient, number) for mean, gradient in zip(self._means, gradients, strict=True)]
        table = tf.stack([tf.stack(row) for row in rows])
        self._sums.assign_add(tf.cast(tf.concat([table, self._together(table)], 0), tf.float64))
        self._count(watched)
        return loss, table[:, 1]

    def _add(self, mean: tf.Variable, gradient: tf.Tensor, number: tf.Tensor) -> list[tf.Tensor]:
        """Add a gradient to the mean by Welford's recurrence; return what is summed up."""
        square, change = _square(gradient), gradient - mean
        mean.assign_add(change / number)
        zeros = 1.0 - tf.math.count_nonzero(gradient, dtype=tf.float32) / max(1, math.prod(gradient.shape))
        return [tf.sqrt(square), square, tf.reduce_sum(change * (gradient - mean)), zeros, tf.reduce_mean(gradient)]

    def _together(self, table: tf.Tensor) -> tf.Tensor:
        """Return the row of all variables as if they were one."""
        square, deviation = tf.reduce_sum(table[:, 1]), tf.reduce_sum(table[:, 2])
        weights = tf.constant(self._sizes) / max(1.0, sum(self._sizes))
        zeros, entry = tf.reduce_sum(table[:, 3] * weights), tf.reduce_sum(table[:, 4] * weights)
        return tf.stack([tf.sqrt(square), square, deviation, zeros, entry])[tf.newaxis]

    def _count(self, watched: list[Any]) -> None:
        if not self.activations:  # The first trace; variables cannot be made in the graph itself.
            with tf.init_scope():
                self.activations = [Counts(one, self._width) for one in watched]
        for counts, one in zip(self.activations, watched, strict=True):
            counts.add(one.output)


def _dense(gradient: Any, owned: OwnedVariable, scale: tf.Tensor) -> tf.Tensor:
    if gradient is None:
        return tf.zeros(owned.variable.shape, tf.float32)
    return tf.ensure_shape(tf.cast(tf.convert_to_tensor(gradient), tf.float32), owned.variable.shape) / scale


def _square(tensor: Any) -> tf.Tensor:
    return tf.reduce_sum(tf.square(tensor))


def _loss_scale(model: keras.Model) -> tf.Tensor:
    """Return what a float16 loss is multiplied with, so that small gradients do not become 0."""
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return tf.constant(1.0)
    return tf.cast(optimizer.scale_loss(tf.constant(1.0)), tf.float32)
