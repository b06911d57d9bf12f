"""When masks are computed anew and how sparse they are then.

A schedule is called with a step and returns whether it is its turn and the sparsity, as those of
`tfmot.sparsity.keras` do, whose objects are taken wherever one of these is. Step `s` comes before the `s`-th update of
the weights, so the first is 1 and comes before any training.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.core.settings import REALS, number, whole

__all__ = ["Constant", "Cubic", "Iterative", "OneCycle", "Polynomial", "Schedule"]

_PACKAGE = "kopt.prune"  # `kopt.train.schedules` has a `OneCycle`, too
_MOST = 1.0 - 1e-6
_LATE = 10**9  # a step at which a schedule has come to its end


@dataclasses.dataclass(eq=False, repr=False)
class Schedule:
    """The base of all schedules: a turn every `frequency` steps from `begin` to `end`, and at `end`.

    Attributes:
        final_sparsity: that it leads to, in [0, 1).
        begin: first step with a turn, at least 1.
        end: last step with a turn.
        frequency: steps between two turns.

    Raises:
        ConfigError: a sparsity outside [0, 1), a step below 1 or `end` before `begin`.

    Example:
        >>> class Linear(kopt.prune.schedules.Schedule):
        ...     def sparsity(self, progress, step):
        ...         return self.final_sparsity * progress
        >>> turn, sparsity = Linear(0.8, begin=1, end=101, frequency=50)(51)
        >>> bool(turn), round(float(sparsity), 3)
        (True, 0.4)
    """

    final_sparsity: float
    begin: int = 1
    end: int = 1000
    frequency: int = dataclasses.field(default=10, kw_only=True)

    def __post_init__(self) -> None:
        self.final_sparsity = number("final_sparsity", self.final_sparsity)
        if not 0.0 <= self.final_sparsity < 1.0:
            raise ConfigError(f"`final_sparsity` must be in [0, 1). Received: {self.final_sparsity!r}.")
        for name in ("begin", "end", "frequency"):
            setattr(self, name, whole(name, getattr(self, name)))
        if self.end < self.begin:
            raise ConfigError(f"`end` must not come before `begin`. Received: begin={self.begin}, end={self.end}.")

    def sparsity(self, progress: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return the sparsity at `step`, which is `progress` (in [0, 1], float32) of the way from `begin` to `end`."""
        raise NotImplementedError

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return whether masks are computed at `step` (bool) and how sparse (float32), both of the shape of `step`."""
        step = tf.cast(step, tf.int64)
        inside = (step >= self.begin) & (step <= self.end)
        turn = ((step - self.begin) % self.frequency == 0) | (step == self.end)
        return inside & turn, self.sparsity(self._progress(step), step)

    def _progress(self, step: tf.Tensor) -> tf.Tensor:
        # In the order of tfmot, so that rounding agrees.
        progress = tf.cast(step - self.begin, tf.float32) / max(1, self.end - self.begin)
        return tf.minimum(1.0, tf.maximum(0.0, progress)) if self.end > self.begin else tf.ones_like(progress)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Schedule":
        """Make it from `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"


@keras.saving.register_keras_serializable(_PACKAGE)
class Constant(Schedule):
    """The same sparsity at every turn; by default one turn, before training, so that the mask is fixed.

    Example:
        >>> turn, sparsity = kopt.prune.schedules.Constant(0.5)(np.arange(3))
        >>> turn.numpy().tolist(), sparsity.numpy().tolist()  # one turn, before the first update
        ([False, True, False], [0.5, 0.5, 0.5])
    """

    def __init__(self, final_sparsity: float, begin: int = 1, end: int | None = None, frequency: int = 10):
        super().__init__(final_sparsity, begin, begin if end is None else end, frequency=frequency)

    def sparsity(self, progress: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return it."""
        return tf.fill(tf.shape(step), tf.constant(self.final_sparsity, tf.float32))


@keras.saving.register_keras_serializable(_PACKAGE)
@dataclasses.dataclass(eq=False, repr=False)
class Polynomial(Schedule):
    """From `initial_sparsity` to `final_sparsity`, fast at first.

    Formula: `final + (initial - final) (1 - t)^power`, with `t` from 0 to 1 between `begin` and `end`, as in
    `tfmot.sparsity.keras.PolynomialDecay`; `power=3` is automated gradual pruning.

    Example:
        >>> schedule = kopt.prune.schedules.Polynomial(0.8, begin=1, end=101, frequency=50, power=1.0)
        >>> turn, sparsity = schedule(np.array([1, 26, 51, 101]))
        >>> turn.numpy().tolist(), [round(float(value), 2) for value in sparsity]
        ([True, False, True, True], [0.0, 0.2, 0.4, 0.8])

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878
    """

    initial_sparsity: float = dataclasses.field(default=0.0, kw_only=True)
    power: float = dataclasses.field(default=3.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.initial_sparsity = number("initial_sparsity", self.initial_sparsity, least=0.0, most=_MOST)
        self.power = number("power", self.power, least=0.0, open_below=True)

    def sparsity(self, progress: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return it by the formula above."""
        return (self.initial_sparsity - self.final_sparsity) * tf.pow(1 - progress, self.power) + self.final_sparsity


@keras.saving.register_keras_serializable(_PACKAGE)
@dataclasses.dataclass(eq=False, repr=False)
class Cubic(Polynomial):
    """Automated gradual pruning: `Polynomial` with power 3.

    Example:
        >>> turn, sparsity = kopt.prune.schedules.Cubic(0.8, begin=1, end=101)(51)
        >>> round(float(sparsity), 3)  # 0.8 (1 - 0.5^3) half way
        0.7
    """

    power: float = dataclasses.field(default=3.0, init=False)


@keras.saving.register_keras_serializable(_PACKAGE)
@dataclasses.dataclass(eq=False, repr=False)
class OneCycle(Schedule):
    """Slow, fast, slow, along a logistic curve from almost 0 to `final_sparsity`.

    Formula: `final (1 + e^(-alpha + beta)) / (1 + e^(-alpha t + beta))`.

    Example:
        >>> turn, sparsity = kopt.prune.schedules.OneCycle(0.8, begin=1, end=101)(np.array([1, 36, 101]))
        >>> [round(float(value), 2) for value in sparsity]
        [0.01, 0.38, 0.8]

    Source: Hubens et al., "One-cycle pruning", 2021, https://arxiv.org/abs/2107.02086
    """

    alpha: float = dataclasses.field(default=14.0, kw_only=True)
    beta: float = dataclasses.field(default=5.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alpha = number("alpha", self.alpha, least=0.0, open_below=True)
        self.beta = number("beta", self.beta)

    def sparsity(self, progress: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return it by the formula above."""
        highest = 1 + np.exp(self.beta - self.alpha)
        return self.final_sparsity * highest / (1 + tf.exp(self.beta - self.alpha * progress))


@keras.saving.register_keras_serializable(_PACKAGE)
class Iterative(Schedule):
    """Rounds of pruning with training between them; each removes the same share of the weights that are left.

    Formula: after round `k` of `rounds` the sparsity is `1 - (1 - final)^(k / rounds)`.

    Example:
        >>> schedule = kopt.prune.schedules.Iterative(0.875, begin=1, every=100, rounds=3)
        >>> turn, sparsity = schedule(np.array([1, 101, 201]))
        >>> [round(float(value), 3) for value in sparsity]  # each round takes half of what is left
        [0.5, 0.75, 0.875]

    Source: Frankle and Carbin, "The lottery ticket hypothesis", 2019, https://arxiv.org/abs/1803.03635 (without going
    back to the first weights).
    """

    def __init__(self, final_sparsity: float, begin: int = 1, *, every: int, rounds: int):
        whole("rounds", rounds)
        super().__init__(final_sparsity, begin, begin + (rounds - 1) * whole("every", every), frequency=every)
        self.rounds = rounds

    def sparsity(self, progress: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return it by the formula above."""
        done = tf.cast(tf.clip_by_value((step - self.begin) // self.frequency + 1, 1, self.rounds), tf.float32)
        return 1 - tf.pow(1 - self.final_sparsity, done / self.rounds)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        settings = {"final_sparsity": self.final_sparsity, "begin": self.begin}
        return {**settings, "every": self.frequency, "rounds": self.rounds}


@keras.saving.register_keras_serializable(_PACKAGE)
class FromTfmot(Schedule):
    """A `PolynomialDecay` or `ConstantSparsity` of tfmot, step for step: there is no turn at `end` of its own.

    Args:
        kind: name of the class.
        config: its settings.
    """

    def __init__(self, kind: str, config: dict[str, Any]):
        self.kind, self.config = kind, dict(config)
        self.final_sparsity = float(config.get("final_sparsity", config.get("target_sparsity", 0.0)))
        self.begin, self.frequency = int(config["begin_step"]), int(config["frequency"])
        self.end = int(config["end_step"])  # negative: no end

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what the schedule of tfmot does."""
        step = tf.cast(step, tf.int64)
        inside = (step >= self.begin) & ((step <= self.end) | (self.end < 0))
        return inside & ((step - self.begin) % self.frequency == 0), self.sparsity(self._progress(step), step)

    def sparsity(self, progress: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return it: polynomial or constant."""
        if self.kind == "ConstantSparsity":
            return tf.fill(tf.shape(step), tf.constant(self.final_sparsity, tf.float32))
        initial = self.config["initial_sparsity"]
        return (initial - self.final_sparsity) * tf.pow(1 - progress, self.config["power"]) + self.final_sparsity

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"kind": self.kind, "config": self.config}


class Foreign(Schedule):
    """Any other object with the protocol of tfmot; a model with it cannot be saved as a whole."""

    def __init__(self, schedule: Any):
        self.schedule = schedule
        settings = getattr(schedule, "__dict__", {})
        known = settings.get("final_sparsity", settings.get("target_sparsity"))
        self.final_sparsity = float(schedule(tf.constant(_LATE, tf.int64))[1] if known is None else known)
        self.begin = self.end = self.frequency = 0

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what it does."""
        turn, sparsity = self.schedule(tf.cast(step, tf.int64))
        return tf.cast(turn, tf.bool), tf.cast(sparsity, tf.float32)

    def __repr__(self) -> str:
        return type(self.schedule).__qualname__

    def get_config(self) -> dict[str, Any]:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"The schedule {type(self.schedule).__qualname__} cannot be written to a `.keras` file. Use one of "
            f"`kopt.prune.schedules`, `PolynomialDecay` or `ConstantSparsity` of tfmot, or `model.save_weights`."
        )


def as_schedule(given: Any) -> Schedule:
    """Return a schedule for a sparsity (masks are fixed before training), a schedule, or one of tfmot.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(given, Schedule):
        return given
    if isinstance(given, REALS) and not isinstance(given, bool):
        return Constant(float(given))
    if callable(given) and hasattr(given, "get_config") and not isinstance(given, type):
        config = given.get_config()
        if type(given).__module__.startswith("tensorflow_model_optimization"):
            return FromTfmot(type(given).__name__, config["config"])
        return Foreign(given)
    raise ConfigError(
        f"`schedule_or_sparsity` must be a sparsity in [0, 1), a schedule of `kopt.prune.schedules` or of "
        f"`tfmot.sparsity.keras`. Received: {given!r}."
    )


def highest_sparsity(schedule: Schedule, first: int, last: int) -> float:
    """Return the sparsity of the last turn with a step in `[first, last]`; 0 if there is none or it prunes nothing."""
    steps = np.arange(first, last + 1)
    try:
        turns, sparsities = (np.broadcast_to(part, steps.shape) for part in schedule(tf.constant(steps)))
    except (TypeError, ValueError, tf.errors.OpError):  # An object of the user may take single steps only.
        pairs = [schedule(step) for step in steps]
        turns, sparsities = np.array([bool(turn) for turn, _ in pairs]), np.array([float(one) for _, one in pairs])
    return float(np.asarray(sparsities)[turns][-1]) if turns.any() else 0.0
