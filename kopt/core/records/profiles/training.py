"""What is seen of a model while it trains, and the advice that follows: frozen, serialisable."""

import dataclasses

from kopt.core.errors import ConfigError, nearest
from kopt.core.records.profiles.gradients import VariableGradient
from kopt.core.records.training.multipliers import LayerMultipliers
from kopt.core.serialization import Record

ADVICE_KINDS = (
    "vanishing", "exploding", "zero gradient", "over-fitting", "plateau", "dead units", "learning rate too high",
    "learning rate too low", "batch normalization drifts", "uneven gradient variance",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainingRun(Record):
    """What a training is called and what is looked at in it.

    Attributes:
        model: name.
        optimizer: class name.
        every: steps between two samples.
        variables: paths of the variables to train, in the order of the numbers of a sample.
    """

    model: str
    optimizer: str
    every: int
    variables: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TrainingSample(Record):
    """One step, as the optimizer applied it.

    Attributes:
        step: updates before it.
        learning_rate: of this step.
        norms: L2 norm of the gradient, by variable.
        weight_norms: L2 norm of the variable before the step.
        update_ratios: L2 norm of the change over that of the variable; 0 for a variable that is 0.
        zero_fractions: share of gradient entries that are exactly 0.
    """

    step: int
    learning_rate: float
    norms: tuple[float, ...]
    weight_norms: tuple[float, ...]
    update_ratios: tuple[float, ...]
    zero_fractions: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class WeightSummary(Record):
    """A variable at the end of an epoch.

    Attributes:
        path: of the variable.
        mean, std, minimum, maximum: of its entries.
        zero_fraction: share of entries that are exactly 0.
    """

    path: str
    mean: float
    std: float
    minimum: float
    maximum: float
    zero_fraction: float


@dataclasses.dataclass(frozen=True)
class TrainingEpoch(Record):
    """One epoch.

    Attributes:
        epoch: counted from 0.
        step: updates at its end.
        logs: losses and metrics, as the history has them.
        sampled_steps: steps that the numbers below are from.
        gradients: over these steps, by variable; `variance` is that between steps, `noise_scale` is not known.
        update_ratios: mean over these steps, by variable.
        dead_units: for each kernel, the share of output channels whose gradient was 0 in all of them.
        weights: at the end of the epoch, by variable.
        batch_norm_shifts: how far the moving mean of each batch normalization went in this epoch, in standard
            deviations, root mean square over the channels.
    """

    epoch: int
    step: int
    logs: dict[str, float]
    sampled_steps: int
    gradients: tuple[VariableGradient, ...]
    update_ratios: tuple[float, ...]
    dead_units: dict[str, float]
    weights: tuple[WeightSummary, ...]
    batch_norm_shifts: dict[str, float]


@dataclasses.dataclass(frozen=True)
class TrainingAdvice(Record):
    """Something to change, with what it follows from.

    Attributes:
        kind: one of `ADVICE_KINDS`.
        where: path of a variable or layer, or the name of a metric.
        value: what was seen.
        threshold: what it was held against.
        words: both, and what to do.
        multipliers: learning rates by layer that would even the variance out; for `kopt.train.LearningRateMultipliers`.
    """

    kind: str
    where: str
    value: float
    threshold: float
    words: str
    multipliers: LayerMultipliers | None = None

    def __post_init__(self) -> None:
        if self.kind not in ADVICE_KINDS:
            raise ConfigError(f"Unknown kind {self.kind!r}.{nearest(self.kind, ADVICE_KINDS)}")


@dataclasses.dataclass(frozen=True)
class TrainingTrends(Record):
    """A training as it was seen.

    Attributes:
        run: what was looked at.
        samples: single steps, in order.
        epochs: in order.
        advice: what follows from them.
        notes: what to know about the numbers.
    """

    run: TrainingRun
    samples: tuple[TrainingSample, ...]
    epochs: tuple[TrainingEpoch, ...]
    advice: tuple[TrainingAdvice, ...]
    notes: tuple[str, ...] = ()
