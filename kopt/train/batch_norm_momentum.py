"""Momentum of batch normalization, adapted to how fast its statistics move."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kopt.core.errors import ConfigError, TrainingError
from kopt.core.records.training.batch_norm import MomentumChange
from kopt.core.settings import number, whole
from kopt.train import batch_norm
from kopt.train.optimizers.momentum import LiveFloat

Array = npt.NDArray[Any]
# The memory of the average (one minus the momentum) changes by at most this factor at a time.
_LARGEST_STEP = 2.0


def recent_statistics(before: Array, after: Array, momentum: float, steps: int) -> Array:
    """Return the weighted mean of the batch statistics that took a moving average from `before` to `after`.

    A moving average with momentum m over n steps gives `after = m^n before + (1 - m^n) recent`, where `recent` weighs
    the batches as the average does. So it is read off the average alone, without touching the training step.
    """
    kept = momentum**steps
    return (after.astype(np.float64) - kept * before) / (1.0 - kept)


def drift(mean: Array, variance: Array, recent_mean: Array, recent_variance: Array, epsilon: float) -> float:
    """Return how far recent statistics are from the moving ones, in standard deviations.

    `sqrt(mean_c(dm^2) + mean_c(ds^2))` over channels c, with `dm = (recent_mean - mean) / sqrt(variance + epsilon)` and
    `ds = log((recent_variance + epsilon) / (variance + epsilon)) / 2`, the difference of the logarithms of the
    deviations.
    """
    spread = variance + epsilon
    shift = (recent_mean - mean) ** 2 / spread
    stretch = (0.5 * np.log((np.maximum(recent_variance, 0.0) + epsilon) / spread)) ** 2
    return float(np.sqrt(np.mean(shift) + np.mean(stretch)))


def adapted_momentum(momentum: float, found: float, target: float, limits: tuple[float, float]) -> float:
    """Return `1 - (1 - momentum) * sqrt(found / target)`, the root within [1/2, 2], the result within `limits`.

    A drift above `target` shortens the memory of the average, one below lengthens it.
    """
    step = float(np.clip(np.sqrt(found / target), 1 / _LARGEST_STEP, _LARGEST_STEP))
    return float(np.clip(1.0 - (1.0 - momentum) * step, *limits))


@keras.saving.register_keras_serializable(package="kopt")
class AdaptBatchNormMomentum(keras.callbacks.Callback):
    """Adapt the momentum of every batch normalization to the drift of its statistics.

    Use it for short trainings: with the default momentum of 0.99 the moving statistics lag behind weights that change
    fast, and validation in the first epochs looks worse than the model is. Later the drift falls and the average gets
    longer. Training itself, which normalizes with batch statistics, does not change; only what inference uses does.

    Formula: every `every` steps the mean of the recent batch statistics is read off the change of the moving ones
    (`recent_statistics`), their distance is measured (`drift`), and the memory is multiplied with the root of drift
    over target (`adapted_momentum`). The rule is kopt's own. For a layer that is called several times a step, the
    distance is that of its last calls, approximately.

    While it trains, `layer.momentum` is a number that the traced step reads anew; it compares and saves as the
    original. Afterwards it is the original float again. What was done is in `changes`.

    Args:
        target: drift at which the momentum stays, in standard deviations. Default 0.1.
        every: training steps between adaptations. With `steps_per_execution`, which `kopt.train.accelerate` chooses
            unless told, it is at the end of the call of the graph that reaches so many. Default 50.
        limits: least and largest momentum. Default (0.5, 0.999).

    Raises:
        ConfigError: a setting is out of range; when training begins, a model without batch normalization.
        TrainingError: the training step was traced before this callback could act, so that it would do nothing.

    Example:
        >>> adapt = kopt.train.callbacks.AdaptBatchNormMomentum(every=8)
        >>> history = model.fit(x_train, y_train, epochs=2, callbacks=[adapt], verbose=0)
        >>> [(change.step, change.layer) for change in adapt.changes]
        [(8, 'norm1'), (16, 'norm1'), (24, 'norm1'), (32, 'norm1')]
    """

    def __init__(self, *, target: float = 0.1, every: int = 50, limits: tuple[float, float] = (0.5, 0.999)):
        super().__init__()
        self.target = number("target", target, least=0.0, open_below=True)
        self.every = whole("every", every)
        low = number("limits[0]", limits[0], least=0.0, most=0.9999)
        self.limits = low, number("limits[1]", limits[1], least=low, most=0.9999)
        self.changes: tuple[MomentumChange, ...] = ()
        self._layers: list[_Layer] = []
        # Arrays, layer by layer: `kopt.train.accelerate` keeps such attributes in its checkpoints.
        self._momenta, self._means, self._variances = np.zeros(0), list[Array](), list[Array]()
        self._in_use: Array | None = None
        self._steps = self._last = self._batch = 0

    def set_model(self, model: keras.Model) -> None:
        """Make the momentum of every layer a number that the step reads anew; `fit` calls this before all else."""
        super().set_model(model)
        known = {id(entry.layer): entry for entry in self._layers}
        layers = [layer for layer in batch_norm.layers_of(model) if not batch_norm.uses_renorm(layer)]
        self._layers = [known.get(id(layer)) or _Layer(layer) for layer in layers]
        for entry in self._layers:
            entry.layer.momentum = entry.number

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin with the present statistics and momenta."""
        if not self._layers:
            raise ConfigError(f"Model {self.model.name!r} has no batch normalization whose momentum could be adapted.")
        self.changes, self._steps, self._last = (), 0, 0
        self._momenta = np.array([entry.original for entry in self._layers])
        self._remember()
        # A step that was traced in an earlier `fit` has the momentum as a constant.
        self.model.make_train_function(force=True)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Hand the momenta to the step, where they are new: adapted, or those of a checkpoint."""
        if self._in_use is not self._momenta:
            for entry, momentum in zip(self._layers, self._momenta, strict=True):
                entry.variable.assign(momentum)
            self._in_use = self._momenta
        self._batch = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Adapt, if it is time."""
        if self._steps == 0 and not any(entry.number.traced for entry in self._layers):
            raise TrainingError(
                "The training step does not read the momentum of batch normalization: it was traced before `fit` "
                "began. Compile the model again before `fit`."
            )
        # The last call of an epoch may name more steps than there were left.
        end = min(batch + 1, (self.params or {}).get("steps") or batch + 1)
        self._steps += end - self._batch
        if not self._means:
            # The first step has built the model.
            self._remember()
            self._last = self._steps
        elif self._steps - self._last >= self.every:
            self._adapt()

    def on_train_end(self, logs: Any = None) -> None:
        """Give every layer its number back."""
        for entry in self._layers:
            entry.layer.momentum = entry.original
            # A step that stays traced goes on with the original.
            entry.variable.assign(entry.original)
        self._in_use = None

    def _remember(self) -> None:
        built = all(entry.layer.built for entry in self._layers)
        self._means = [entry.layer.moving_mean.numpy() for entry in self._layers] if built else []
        self._variances = [entry.layer.moving_variance.numpy() for entry in self._layers] if built else []

    def _adapt(self) -> None:
        steps, before = self._steps - self._last, list(zip(self._means, self._variances, strict=True))
        self._remember()
        after = list(zip(self._means, self._variances, strict=True))
        found = []
        for entry, momentum, old, new in zip(self._layers, self._momenta, before, after, strict=True):
            recent = [recent_statistics(*pair, float(momentum), steps) for pair in zip(old, new, strict=True)]
            found.append(drift(*old, recent[0], recent[1], entry.layer.epsilon))
        self._momenta = np.array(
            [
                # Statistics that are not finite say nothing about the momentum.
                adapted_momentum(float(momentum), value, self.target, self.limits) if np.isfinite(value) else momentum
                for momentum, value in zip(self._momenta, found, strict=True)
            ]
        )
        self.changes += tuple(
            MomentumChange(self._steps, entry.layer.name, value, float(momentum))
            for entry, value, momentum in zip(self._layers, found, self._momenta, strict=True)
        )
        self._last = self._steps

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"target": self.target, "every": self.every, "limits": self.limits}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AdaptBatchNormMomentum":
        """Return the callback that `get_config` describes."""
        return cls(**{**config, "limits": tuple(config["limits"])})


class _Layer:
    """A layer, its own momentum, and the number that stands for it; kept for steps that stay traced after `fit`."""

    def __init__(self, layer: keras.layers.BatchNormalization):
        self.layer, self.original = layer, float(layer.momentum)
        self.variable = tf.Variable(self.original, trainable=False, dtype=tf.float32)
        self.number = LiveFloat(self.original, lambda: self.variable)
