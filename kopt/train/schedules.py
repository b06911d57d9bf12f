"""Learning-rate schedules that Keras lacks, as `keras.optimizers.schedules.LearningRateSchedule`.

A schedule is a function of the number of updates the optimizer has made, computed inside the graph. That is what Keras
passes to it: `optimizer.iterations`, which a step that loss scaling skips does not advance. The exception is Keras' own
`gradient_accumulation_steps=k`: there a schedule counts micro-batches, so multiply its lengths by k.

The maths are the functions in small letters: tensors in, tensors out.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops
from matplotlib.figure import Figure

from kopt.core.errors import ConfigError
from kopt.core.settings import choice, number, whole
from kopt.report.parts.svg import drawing, write_plot

__all__ = ["CosineRestarts", "InverseSquareRoot", "OneCycle", "OneCycleMomentum", "Warmup", "plot", "table"]

_register = keras.saving.register_keras_serializable(package="kopt")
_SHAPES = ("cosine", "linear")
# A schedule whose cycles grow knows their borders up to this many updates.
_HORIZON = 2**40
_MOST_POINTS = 400


def interpolate(start: float, end: float, progress: Any, shape: str) -> Any:
    """Return the value on the way from `start` to `end`, with p = `progress` clipped to [0, 1].

    `"linear"`: `start + (end - start) p`. `"cosine"`: `end + (start - end) (1 + cos(pi p)) / 2`.
    """
    progress = ops.clip(progress, 0.0, 1.0)
    if shape == "cosine":
        progress = 0.5 * (1.0 - ops.cos(math.pi * progress))
    return start + (end - start) * progress


def one_cycle(step: Any, start: float, peak: float, end: float, rising: int, total: int, shape: str) -> Any:
    """Return the value at `step` of a cycle from `start` to `peak` in `rising` steps, then to `end` at `total`."""
    step = ops.cast(step, "float32")
    rise = interpolate(start, peak, step / max(rising, 1), shape)
    fall = interpolate(peak, end, (step - rising) / max(total - rising, 1), shape)
    return ops.where(step < rising, rise, fall)


def warm_up(step: Any, steps: int, start_factor: float, power: float) -> Any:
    """Return the factor `f + (1 - f) (step / steps)^power`, with `f = start_factor`; 1 from `steps` on."""
    progress = ops.clip(ops.cast(step, "float32") / steps, 0.0, 1.0)
    return start_factor + (1.0 - start_factor) * progress**power


def inverse_square_root(step: Any, warmup_steps: int) -> Any:
    """Return the factor `min(n / w, sqrt(w / n))` of update number `n = step + 1`, with `w = warmup_steps`."""
    n = ops.cast(step, "float32") + 1.0
    return ops.minimum(n / warmup_steps, ops.sqrt(warmup_steps / n))


def restarts(step: Any, starts: Sequence[int], lengths: Sequence[int]) -> tuple[Any, Any]:
    """Return which cycle `step` lies in, from 0, and the fraction of it that is done, in [0, 1).

    With a single cycle, it repeats for ever. In whole numbers, because a logarithm puts the first step of a cycle into
    the one before, by rounding.
    """
    step = ops.cast(step, "int64")
    if len(starts) == 1:
        return step // lengths[0], ops.cast(step % lengths[0], "float32") / lengths[0]
    begun = ops.cast(step >= ops.convert_to_tensor(starts, "int64"), "int32")
    cycle = ops.sum(begun) - 1
    start, length = (ops.take(ops.convert_to_tensor(values, "int64"), cycle) for values in (starts, lengths))
    return cycle, ops.cast(step - start, "float32") / ops.cast(length, "float32")


@_register
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """One rise and one long fall of the learning rate over the whole training.

    Use it to train in few epochs with a large peak, e.g. the one that `kopt.train.find_learning_rate` suggests; let the
    momentum go the opposite way with `OneCycleMomentum`.

    Formula: with `r = round(warmup_fraction * total_steps)`, from `max/start_divisor` to `max` in `r` updates, then to
    `max/end_divisor` at `total_steps`, along a cosine or a line; constant after that.

    Args:
        max_learning_rate: the peak.
        total_steps: updates in the whole training: epochs times updates an epoch.
        warmup_fraction: part of the updates that rise, in [0, 1]. Default 0.3.
        start_divisor: the start is the peak divided by it. Default 25.
        end_divisor: the end is the peak divided by it. Default 10,000.
        shape: `"cosine"` or `"linear"`. Default `"cosine"`.

    Raises:
        ConfigError: a setting is out of range.

    Example:
        >>> rate = kopt.train.schedules.OneCycle(0.1, 1000)
        >>> [round(float(rate(step)), 4) for step in (0, 300, 1000)]
        [0.004, 0.1, 0.0]

    Source: L. Smith, "A disciplined approach to neural network hyper-parameters", 2018.
    """

    def __init__(
        self,
        max_learning_rate: float,
        total_steps: int,
        *,
        warmup_fraction: float = 0.3,
        start_divisor: float = 25.0,
        end_divisor: float = 1e4,
        shape: str = "cosine",
    ):
        self.max_learning_rate = number("max_learning_rate", max_learning_rate, least=0.0, open_below=True)
        self.total_steps = whole("total_steps", total_steps)
        self.warmup_fraction = number("warmup_fraction", warmup_fraction, least=0.0, most=1.0)
        self.start_divisor = number("start_divisor", start_divisor, least=1.0)
        self.end_divisor = number("end_divisor", end_divisor, least=1.0)
        self.shape = choice("shape", shape, _SHAPES)

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of the update after `step` updates."""
        peak, rising = self.max_learning_rate, round(self.warmup_fraction * self.total_steps)
        ends = peak / self.start_divisor, peak / self.end_divisor
        return one_cycle(step, ends[0], peak, ends[1], rising, self.total_steps, self.shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        names = ("max_learning_rate", "total_steps", "warmup_fraction", "start_divisor", "end_divisor", "shape")
        return {name: getattr(self, name) for name in names}


@_register
class OneCycleMomentum(keras.optimizers.schedules.LearningRateSchedule):
    """The momentum that belongs to `OneCycle`: from `high` down to `low` while the learning rate rises, and back.

    A Keras optimizer takes a number for its momentum, no schedule. `kopt.train.MomentumSchedule(optimizer, schedule)`
    makes it follow this one.

    Args:
        total_steps: as for `OneCycle`.
        low: momentum at the peak of the learning rate, in [0, 1). Default 0.85.
        high: momentum at its ends, in [0, 1). Default 0.95.
        warmup_fraction: as for `OneCycle`.
        shape: as for `OneCycle`.

    Raises:
        ConfigError: a setting is out of range.

    Example:
        >>> momentum = kopt.train.schedules.OneCycleMomentum(1000)
        >>> [round(float(momentum(step)), 2) for step in (0, 300, 1000)]
        [0.95, 0.85, 0.95]

    Source: L. Smith, "A disciplined approach to neural network hyper-parameters", 2018.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        low: float = 0.85,
        high: float = 0.95,
        warmup_fraction: float = 0.3,
        shape: str = "cosine",
    ):
        self.total_steps = whole("total_steps", total_steps)
        self.low, self.high = number("low", low, least=0.0, most=0.9999), number("high", high, least=0.0, most=0.9999)
        self.warmup_fraction = number("warmup_fraction", warmup_fraction, least=0.0, most=1.0)
        self.shape = choice("shape", shape, _SHAPES)
        if self.low > self.high:
            raise ConfigError(f"`low` must not be above `high`. Received: low={low}, high={high}.")

    def __call__(self, step: Any) -> Any:
        """Return the momentum of the update after `step` updates."""
        rising = round(self.warmup_fraction * self.total_steps)
        return one_cycle(step, self.high, self.low, self.high, rising, self.total_steps, self.shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {name: getattr(self, name) for name in ("total_steps", "low", "high", "warmup_fraction", "shape")}


@_register
class CosineRestarts(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine decay that starts again, each time longer and lower if asked (SGDR).

    Put `Warmup` in front of it for a cosine with warm-up and restarts. For one cosine without a restart, use
    `OneCycle(rate, steps, warmup_fraction=..., start_divisor=..., end_divisor=...)`.

    Formula: in cycle `i`, of `T_i = round(cycle_steps * cycle_multiplier^i)` updates, after `t` of them:
    `minimum + (peak_i - minimum) (1 + cos(pi t / T_i)) / 2` with `peak_i = max(learning_rate * decay^i, minimum)`.

    Args:
        learning_rate: peak of the first cycle.
        cycle_steps: updates in the first cycle.
        cycle_multiplier: length of a cycle over that of the one before; 1 or at least 1.01. Default 2.
        decay: peak of a cycle over that of the one before, in (0, 1]. Default 1.
        minimum: the learning rate that each cycle falls to. Default 0.

    Raises:
        ConfigError: a setting is out of range.

    Example:
        >>> rate = kopt.train.schedules.CosineRestarts(0.1, 100)
        >>> [round(float(rate(step)), 3) for step in (0, 50, 99, 100)]
        [0.1, 0.05, 0.0, 0.1]

    Source: I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.
    """

    def __init__(
        self,
        learning_rate: float,
        cycle_steps: int,
        *,
        cycle_multiplier: float = 2.0,
        decay: float = 1.0,
        minimum: float = 0.0,
    ):
        self.learning_rate = number("learning_rate", learning_rate, least=0.0, open_below=True)
        self.cycle_steps = whole("cycle_steps", cycle_steps)
        self.cycle_multiplier = number("cycle_multiplier", cycle_multiplier, least=1.0)
        self.decay = number("decay", decay, least=0.0, most=1.0, open_below=True)
        self.minimum = number("minimum", minimum, least=0.0, most=self.learning_rate)
        if 1.0 < self.cycle_multiplier < 1.01:
            raise ConfigError(f"`cycle_multiplier` must be 1 or at least 1.01. Received: {cycle_multiplier!r}.")
        self._starts, self._lengths = _cycles(self.cycle_steps, self.cycle_multiplier)

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of the update after `step` updates."""
        cycle, progress = restarts(step, self._starts, self._lengths)
        peak = self.learning_rate * self.decay ** ops.cast(cycle, "float32") if self.decay < 1 else self.learning_rate
        peak = ops.maximum(peak, self.minimum)
        return self.minimum + (peak - self.minimum) * 0.5 * (1.0 + ops.cos(math.pi * progress))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        names = ("learning_rate", "cycle_steps", "cycle_multiplier", "decay", "minimum")
        return {name: getattr(self, name) for name in names}


@_register
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A linear or polynomial warm-up in front of any schedule, or of a constant.

    Formula: for `t < steps`, `schedule(0) * (f + (1 - f) (t / steps)^power)` with `f = start_factor`; then
    `schedule(t - steps)`.

    Args:
        schedule: what comes after the warm-up: a schedule, or a learning rate that stays.
        steps: updates that the warm-up takes.
        start_factor: the first learning rate as part of the target, in [0, 1]. Default 0.01; with 0, the first update
            changes nothing.
        power: 1 is linear, larger ones stay low for longer. Default 1.

    Raises:
        ConfigError: a setting is out of range.

    Example:
        >>> rate = kopt.train.schedules.Warmup(0.1, 500)
        >>> [round(float(rate(step)), 3) for step in (0, 249, 499, 5000)]
        [0.001, 0.05, 0.1, 0.1]

    Source: P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2.
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule | float,
        steps: int,
        *,
        start_factor: float = 0.01,
        power: float = 1.0,
    ):
        if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            schedule = number("schedule", schedule, least=0.0, open_below=True)
        self.schedule = schedule
        self.steps = whole("steps", steps)
        self.start_factor = number("start_factor", start_factor, least=0.0, most=1.0)
        self.power = number("power", power, least=0.0, open_below=True)

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of the update after `step` updates."""
        after = ops.maximum(ops.cast(step, "int64") - self.steps, 0)
        rate = self.schedule if isinstance(self.schedule, float) else self.schedule(after)
        return ops.cast(rate, "float32") * warm_up(step, self.steps, self.start_factor, self.power)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor; the schedule as Keras serializes it."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps": self.steps, "start_factor": self.start_factor, "power": self.power}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Warmup":
        """Return the schedule that `get_config` describes."""
        return cls(**{**config, "schedule": keras.saving.deserialize_keras_object(config["schedule"])})


@_register
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise, then a fall with one over the square root of the update, as transformers are trained.

    Use it when the length of the training is not known beforehand.

    Formula: `learning_rate * min(n / w, sqrt(w / n))` for update number `n`, counted from 1, and `w = warmup_steps`.

    Args:
        learning_rate: the peak, reached at update number `warmup_steps`.
        warmup_steps: updates that rise. Default 4,000.

    Raises:
        ConfigError: a setting is out of range.

    Example:
        >>> rate = kopt.train.schedules.InverseSquareRoot(7e-4)
        >>> [round(float(rate(step)), 6) for step in (0, 3999, 15999)]
        [0.0, 0.0007, 0.00035]

    Source: A. Vaswani et al., "Attention is all you need", 2017, section 5.3, with the constant written as the peak.
    """

    def __init__(self, learning_rate: float, *, warmup_steps: int = 4000):
        self.learning_rate = number("learning_rate", learning_rate, least=0.0, open_below=True)
        self.warmup_steps = whole("warmup_steps", warmup_steps)

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of the update after `step` updates."""
        return self.learning_rate * inverse_square_root(step, self.warmup_steps)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"learning_rate": self.learning_rate, "warmup_steps": self.warmup_steps}


def table(schedule: Callable[[int], Any], steps: int) -> list[tuple[int, float]]:
    """Return `(step, value)` of a schedule, for every step or for 400 evenly spaced ones if there are more.

    Args:
        schedule: any schedule of Keras or kopt.
        steps: the first step that is not asked for.

    Raises:
        ConfigError: `steps` is no whole number of at least 1.

    Example:
        >>> for step, rate in kopt.train.schedules.table(kopt.train.schedules.Warmup(0.1, 3), 4):
        ...     print(step, round(rate, 3))
        0 0.001
        1 0.034
        2 0.067
        3 0.1
    """
    points = min(whole("steps", steps), _MOST_POINTS)
    chosen = sorted({round(i * (steps - 1) / max(points - 1, 1)) for i in range(points)})
    return [(step, float(schedule(step))) for step in chosen]


def plot(schedule: Callable[[int], Any], steps: int, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Draw a schedule over its first `steps` updates into a `.svg` or `.png` file, and return its path.

    Raises:
        ConfigError: `steps` is no whole number of at least 1, or another ending of `path`.
        OutputExistsError: `path` exists and `overwrite` is false.
        OutputError: `path` cannot be written.

    Example:
        >>> kopt.train.schedules.plot(kopt.train.schedules.OneCycle(0.1, 100), 100, "rate.svg").name
        'rate.svg'
    """
    points = table(schedule, steps)
    values = [value for _, value in points]
    name = type(schedule).__name__
    with drawing():
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([step for step, _ in points], values, color="#0072b2")
        axes.set_xlabel("updates")
        axes.set_ylim(bottom=0)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        words = f"{name} over {steps} updates: from {values[0]:.3g} by {max(values):.3g} to {values[-1]:.3g}."
        return write_plot(path, figure, "schedule", words, overwrite=overwrite)


def _cycles(first: int, multiplier: float) -> tuple[list[int], list[int]]:
    starts, lengths = [0], [first]
    while multiplier > 1.0 and starts[-1] + lengths[-1] < _HORIZON:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(round(first * multiplier ** len(lengths)))
    return starts, lengths
