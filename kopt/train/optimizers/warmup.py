"""Warm-up that goes as fast as the measured gradients allow, and a learning rate that can be turned down."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kopt.core.settings import number, whole
from kopt.train import internals
from kopt.train.optimizers.wrapper import OptimizerWrapper, chain

_register = keras.saving.register_keras_serializable(package="kopt")


def noise_share(change: Any, power: Any) -> Any:
    """Return the part of the gradients' power that is noise, `change / power`, from sums of squares.

    With `change = |g_t - g_(t-1)|^2` and `power = |g_t|^2 + |g_(t-1)|^2`. For gradients `g = G + noise` of independent
    noise with the total variance S, the expectations are `2 S` and `2 (|G|^2 + S)`: the share is `S / (|G|^2 + S)`.
    Equal gradients give 0, noise alone 1, gradients that point back (the steps are too long) up to 2.
    """
    return change / ops.maximum(power, 1e-30)


def next_factor(factor: Any, share: Any, growth: float, threshold: float) -> Any:
    """Return `min(1, factor * growth)` where `share` is below `threshold`, else `factor`."""
    return ops.where(share < threshold, ops.minimum(factor * growth, 1.0), factor)


@_register
class GradientWarmup(OptimizerWrapper):
    """An optimizer whose learning rate grows to its target while successive gradients agree.

    Use it in place of a warm-up of guessed length: it is over in few updates where the first gradients all point the
    same way, and waits where they do not. It ends for good when the target is reached.

    Formula, after update t: `n = s n + (1 - s) |g_t - g_(t-1)|^2`, `p = s p + (1 - s) (|g_t|^2 + |g_(t-1)|^2)` over all
    trainable variables; `n / p` estimates the share of noise in the gradients (see `noise_share`), and
    `factor = min(1, factor * growth)` if `n / p < threshold`. Update t + 1 uses `learning_rate * factor`. The share is
    `1 / (1 + batch / B)` for the simple noise scale `B`, so a threshold of 0.9 grows while B is below 9 batches.

    Everything happens inside the graph, on the gradients as they are applied: summed over replicas, accumulated,
    clipped. It keeps the gradient before, one more slot a variable, and reads each gradient once more, until the target
    is reached.

    Args:
        inner_optimizer: any Keras optimizer but `LossScaleOptimizer`, which goes outside, and `MultiOptimizer`. Its
            learning rate, a number or a schedule, is the target.
        start: first learning rate as part of the target, in (0, 1]. Default 0.01.
        growth: factor of one update, above 1. Default 1.05: from 0.01 to 1 in 95 updates.
        threshold: largest share of noise at which the learning rate grows, in (0, 2]. Default 0.9.
        smoothing: `s` above, in [0, 1). Default 0.9.
        max_steps: from this many updates on, the learning rate grows whatever the noise. Default `None`: it waits.
        name: of the optimizer.

    Raises:
        ConfigError: a setting is out of range.

    Example:
        >>> optimizer = kopt.train.GradientWarmup(keras.optimizers.Adam(1e-3), start=0.01)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
        >>> history = model.fit(x_train, y_train, epochs=2, verbose=0)
        >>> 1e-5 < float(optimizer.effective_learning_rate) <= 1e-3
        True

    Source: the noise scale is that of S. McCandlish et al., "An empirical model of large-batch training", 2018; growing
    with the agreement of successive gradients is that of L. Almeida et al., "Parameter adaptation in stochastic
    optimization", 1998. The rule that joins them is kopt's own.
    """

    def __init__(
        self,
        inner_optimizer: Any,
        *,
        start: float = 0.01,
        growth: float = 1.05,
        threshold: float = 0.9,
        smoothing: float = 0.9,
        max_steps: int | None = None,
        name: str | None = None,
    ):
        start = number("start", start, least=0.0, most=1.0, open_below=True)
        growth = number("growth", growth, least=1.0, open_below=True)
        threshold = number("threshold", threshold, least=0.0, most=2.0, open_below=True)
        smoothing = number("smoothing", smoothing, least=0.0, most=0.999)
        if max_steps is not None:
            whole("max_steps", max_steps, least=0)
        super().__init__(inner_optimizer, name=name)
        self.start, self.growth, self.threshold = start, growth, threshold
        self.smoothing, self.max_steps = smoothing, max_steps
        internals.hook_updates(chain(self)[-1], lambda index: self.factor.value, self._observe)

    def prepare(self, variables: list[keras.Variable]) -> None:
        """Add the gradient before and the sums of squares of every variable, their averages, and the factor."""
        self.factor = self.add_variable((), keras.initializers.Constant(self.start), "float32", name="factor")
        self.change = self.add_variable((), "zeros", "float32", name="change")
        self.power = self.add_variable((), "zeros", "float32", name="power")
        self.updates = self.add_variable((), "zeros", "int32", name="updates")
        self.previous = [self.add_variable_from_reference(variable, "previous_gradient") for variable in variables]
        self.squares = [self.add_variable((2,), "zeros", "float32", name="squares") for _ in variables]

    @property
    def share(self) -> Any:
        """The smoothed share of noise in the gradients, 0 before the second update."""
        return noise_share(self.change, self.power)

    @property
    def effective_learning_rate(self) -> Any:
        """The learning rate of the next update: that of the inner optimizer times the factor."""
        return self.learning_rate * self.factor

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables, then the factor."""
        self.build_for(trainable_variables)
        before = tf.identity(self.iterations)
        self.inner_optimizer.apply(grads, trainable_variables)
        # With gradient accumulation, most calls update nothing.
        self._advance(tf.convert_to_tensor(self.iterations) > before)

    def _observe(self, index: int, gradient: Any) -> None:
        # Once the target is reached, nothing is read any more.
        tf.cond(self.factor.value < 1.0, lambda: self._measure(index, gradient), lambda: None)

    def _measure(self, index: int, gradient: Any) -> None:
        previous, squares = self.previous[index].value, self.squares[index].value
        gradient = tf.cast(tf.convert_to_tensor(gradient), previous.dtype)
        now, then = tf.cast(gradient, tf.float32), tf.cast(previous, tf.float32)
        sums = (tf.reduce_sum(tf.square(now - then)), tf.reduce_sum(tf.square(now)) + tf.reduce_sum(tf.square(then)))
        squares.assign(tf.stack(sums))
        previous.assign(gradient)

    def _advance(self, updated: Any) -> None:
        change, power = tf.unstack(tf.add_n([tf.convert_to_tensor(sums) for sums in self.squares]))
        self.updates.assign(self.updates + tf.cast(updated, "int32"))
        # The first update has no gradient before it. One that is not finite would stay in the averages for ever.
        usable = updated & (self.updates > 1) & tf.math.is_finite(change + power)
        keep = self.smoothing
        self.change.assign(ops.where(usable, keep * self.change + (1 - keep) * change, self.change))
        self.power.assign(ops.where(usable, keep * self.power + (1 - keep) * power, self.power))
        share = self.share
        if self.max_steps is not None:
            share = ops.where(self.updates >= self.max_steps, 0.0, share)
        self.factor.assign(ops.where(usable, next_factor(self.factor, share, self.growth, self.threshold), self.factor))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as Keras serializes them."""
        names = ("start", "growth", "threshold", "smoothing", "max_steps")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@_register
class ScaledLearningRate(OptimizerWrapper):
    """An optimizer whose learning rate, also one that follows a schedule, can be turned down while it trains.

    `kopt.train.callbacks.ReduceOnPlateau` does so. Update and decoupled weight decay use `learning_rate * scale`. The
    scale is a variable of the optimizer: it is saved with the model and no graph has to be traced again.

    Args:
        inner_optimizer: any Keras optimizer but `LossScaleOptimizer`, which goes outside, and `MultiOptimizer`.
        scale: the first scale, above 0. Default 1.
        name: of the optimizer.

    Raises:
        ConfigError: a setting is out of range.

    Example:
        >>> rate = kopt.train.schedules.Warmup(1e-3, 500)
        >>> optimizer = kopt.train.ScaledLearningRate(keras.optimizers.Adam(rate))
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
        >>> reduce = kopt.train.callbacks.ReduceOnPlateau(patience=1, min_delta=10.0)  # nothing improves by 10
        >>> history = model.fit(x_train, y_train, validation_split=0.1, epochs=3, callbacks=[reduce], verbose=0)
        >>> float(optimizer.scale)
        0.25
    """

    def __init__(self, inner_optimizer: Any, *, scale: float = 1.0, name: str | None = None):
        initial = number("scale", scale, least=0.0, open_below=True)
        super().__init__(inner_optimizer, name=name)
        self._initial = initial
        initializer = keras.initializers.Constant(initial)
        self.scale = self.add_variable((), initializer, "float32", name="scale")
        internals.hook_updates(chain(self)[-1], lambda index: self.scale.value)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as Keras serializes them."""
        return {**super().get_config(), "scale": self._initial}
