"""What to do when a metric stops improving: a smaller learning rate, or the end."""

import dataclasses
import math
import warnings
from typing import Any

import keras

from kopt.core.errors import ConfigError, nearest
from kopt.core.settings import choice, number, whole
from kopt.train.internals import direction_of
from kopt.train.optimizers.warmup import ScaledLearningRate
from kopt.train.optimizers.wrapper import find

_MODES = ("auto", "min", "max")
# Metrics that Keras does not know, and whose name contains one of these, are better when they are higher.
_HIGHER = (
    *("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "r2", "score", "similarity"),
    *("io_u", "dice", "sensitivity", "specificity", "correlation", "psnr", "ssim"),
)


@dataclasses.dataclass(frozen=True)
class PlateauState:
    """What reduce-on-plateau remembers: the best value, epochs without improvement, epochs of cooldown left."""

    best: float | None = None
    wait: int = 0
    cooldown: int = 0


def next_state(
    state: PlateauState, value: float, *, higher: bool, min_delta: float, patience: int, cooldown: int
) -> tuple[PlateauState, bool]:
    """Return the state after an epoch with the metric `value`, and whether to reduce now.

    A value that is not better than the best by more than `min_delta`, NaN too, counts as no improvement.
    """
    gain = math.inf if state.best is None else (value - state.best if higher else state.best - value)
    if gain > min_delta and not math.isnan(value):
        return PlateauState(value, 0, max(state.cooldown - 1, 0)), False
    if state.cooldown:
        return PlateauState(state.best, 0, state.cooldown - 1), False
    if state.wait + 1 >= patience:
        return PlateauState(state.best, 0, cooldown), True
    return PlateauState(state.best, state.wait + 1, 0), False


@keras.saving.register_keras_serializable(package="kopt")
class ReduceOnPlateau(keras.callbacks.Callback):
    """Make the learning rate smaller when a metric stops improving, also one that follows a schedule.

    `keras.callbacks.ReduceLROnPlateau` sets `optimizer.learning_rate`, which Keras refuses (TypeError, in the epoch in
    which it first acts) when that is a schedule. Wrap such an optimizer in `kopt.train.ScaledLearningRate`; this
    callback then multiplies the scale and the schedule goes on underneath. Without the wrapper it sets a plain learning
    rate as Keras does, and refuses a schedule before training.

    Formula: after `patience` epochs in a row without an improvement of more than `min_delta`, the learning rate is
    multiplied with `factor`, but not below `minimum`; then nothing happens for `cooldown` epochs.

    Args:
        monitor: name in the logs. Default `"val_loss"`.
        factor: in (0, 1). Default 0.5.
        patience: epochs, at least 1. Default 5.
        min_delta: at least 0. Default 1e-4.
        cooldown: epochs, at least 0. Default 0.
        minimum: the learning rate, or with the wrapper the scale, that is not gone below. Default 0.
        mode: `"min"`, `"max"` or `"auto"`: min for losses, as the metric itself says where it is one of Keras', else
            max for names that contain acc, auc, precision, recall, f1, iou, r2, score, similarity and the like.
            Default `"auto"`.

    Raises:
        ConfigError: a setting is out of range; when training begins: the learning rate is a schedule; after the first
            epoch: the logs have no such name. An epoch that was not validated (`validation_freq`) does not count; if
            the first was not, a warning says so.

    Example:
        >>> reduce = kopt.train.callbacks.ReduceOnPlateau(patience=1, min_delta=10.0)  # nothing improves by 10
        >>> history = model.fit(x_train, y_train, validation_split=0.1, epochs=3, callbacks=[reduce], verbose=0)
        >>> round(float(model.optimizer.learning_rate), 5)  # halved twice
        0.00075
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        factor: float = 0.5,
        patience: int = 5,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        minimum: float = 0.0,
        mode: str = "auto",
    ):
        super().__init__()
        self.monitor = monitor
        self.factor = number("factor", factor, least=0.0, most=0.9999, open_below=True)
        self.patience, self.cooldown = whole("patience", patience), whole("cooldown", cooldown, least=0)
        self.min_delta, self.minimum = number("min_delta", min_delta, least=0.0), number("minimum", minimum, least=0.0)
        self.mode = choice("mode", mode, _MODES)
        # Plain numbers: `kopt.train.accelerate` keeps such attributes in its checkpoints.
        self.best: float | None = None
        self.wait = self.cooldown_left = 0

    @property
    def state(self) -> PlateauState:
        """What the callback remembers."""
        return PlateauState(self.best, self.wait, self.cooldown_left)

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse a learning rate that cannot be set, and start afresh."""
        self.best, self.wait, self.cooldown_left = None, 0, 0
        optimizer = self.model.optimizer
        if find(optimizer, ScaledLearningRate) is None and not _settable(optimizer):
            raise ConfigError(
                "The learning rate follows a schedule, so it cannot be set. Wrap the optimizer: "
                "`kopt.train.ScaledLearningRate(optimizer)`, and compile again."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the metric, and reduce if it is time."""
        logs = {} if logs is None else logs
        is_validated = any(name.startswith("val_") for name in logs)
        if self.monitor not in logs and self.monitor.startswith("val_") and not is_validated:
            if epoch == 0:
                warnings.warn(
                    f"The logs have no {self.monitor!r} after the first epoch, which was not validated: the learning "
                    f"rate stays until one is. Pass `validation_data`.",
                    stacklevel=2,
                )
            return
        if self.monitor not in logs:
            raise ConfigError(
                f"The logs have no {self.monitor!r}.{nearest(self.monitor, logs)} They have: {', '.join(logs)}. "
                f"Validation metrics need `validation_data`."
            )
        higher = self.mode == "max" or (self.mode == "auto" and self._is_better_when_higher())
        state, reduce = next_state(
            self.state,
            float(logs[self.monitor]),
            higher=higher,
            min_delta=self.min_delta,
            patience=self.patience,
            cooldown=self.cooldown,
        )
        self.best, self.wait, self.cooldown_left = state.best, state.wait, state.cooldown
        if reduce:
            self._reduce()
        scaled = find(self.model.optimizer, ScaledLearningRate)
        scale = float(scaled.scale.numpy()) if scaled is not None else 1.0
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)) * scale

    def _is_better_when_higher(self) -> bool:
        name = self.monitor.removeprefix("val_")
        if name.endswith("loss"):
            return False
        direction = direction_of(self.model, name)
        return any(part in name for part in _HIGHER) if direction is None else direction == "up"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        names = ("monitor", "factor", "patience", "min_delta", "cooldown", "minimum", "mode")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ReduceOnPlateau":
        """Return the callback that `get_config` describes."""
        return cls(**config)

    def _reduce(self) -> None:
        scaled = find(self.model.optimizer, ScaledLearningRate)
        if scaled is not None:
            scaled.scale.assign(max(float(scaled.scale.numpy()) * self.factor, self.minimum))
        else:
            optimizer = self.model.optimizer
            rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            optimizer.learning_rate = max(rate * self.factor, min(self.minimum, rate))


@dataclasses.dataclass(frozen=True)
class _Preset:
    patience: int
    min_delta: float


# Epochs without an improvement of more than `min_delta` that are waited for.
_PRESETS = {"quick": _Preset(3, 1e-3), "balanced": _Preset(10, 1e-4), "patient": _Preset(30, 0.0)}


def early_stopping(preset: str = "balanced", *, monitor: str = "val_loss", **settings: Any) -> Any:
    """Return a `keras.callbacks.EarlyStopping` with settings that go together; the best weights are restored.

    | preset | patience (epochs) | min_delta | for |
    |---|---|---|---|
    | quick | 3 | 1e-3 | trials of a search, where the last bit does not matter |
    | balanced | 10 | 1e-4 | a usual training |
    | patient | 30 | 0 | a noisy metric, a learning rate with restarts or reduced on plateaus |

    Args:
        preset: as above. Default `"balanced"`.
        monitor: name in the logs. Default `"val_loss"`.
        settings: arguments of `keras.callbacks.EarlyStopping` that replace those of the preset.

    Raises:
        ConfigError: an unknown preset or setting.

    Example:
        >>> stop = kopt.train.callbacks.early_stopping("patient", patience=50)
        >>> stop.patience, stop.restore_best_weights
        (50, True)
    """
    chosen = _PRESETS[choice("preset", preset, tuple(_PRESETS))]
    known = ("patience", "min_delta", "mode", "baseline", "restore_best_weights", "start_from_epoch", "verbose")
    for name in settings:
        if name not in known:
            raise ConfigError(f"Unknown setting {name!r}.{nearest(name, known)} Accepted: {', '.join(known)}.")
    arguments = {**dataclasses.asdict(chosen), "restore_best_weights": True, **settings}
    return keras.callbacks.EarlyStopping(monitor, **arguments)


def _settable(optimizer: Any) -> bool:
    """Return whether the learning rate is a variable: of a schedule or function, only its value is to be had."""
    return hasattr(optimizer.learning_rate, "assign")
