"""What gradients hand to other stages: frozen, serialisable."""

import dataclasses

from kopt.core.errors import ConfigError, nearest
from kopt.core.serialization import Record

VERDICT_KINDS = ("vanishing", "exploding", "zero gradient", "not connected", "frozen", "dead units", "saturated")


@dataclasses.dataclass(frozen=True)
class GradientThresholds(Record):
    """Where a verdict begins.

    Attributes:
        vanishing: a weight whose gradient's root mean square is below this share of the largest one nearer the output.
            A factor of 1000 between layers is more than a common learning rate can serve.
        exploding: a gradient whose norm is above so many times the norm of its weight: even at a learning rate of 0.001
            one step of SGD would replace the weight. (Untrained networks with batch normalization reach 30.)
        dead: share of the units of a ReLU that are zero for every example seen.
        saturated: share of the outputs of a sigmoid or tanh within `saturation_width` of their limits.
        saturation_width: as a share of the range between the limits; there the slope of a sigmoid is below 0.01.
    """

    vanishing: float = 1e-3
    exploding: float = 1000.0
    dead: float = 0.25
    saturated: float = 0.5
    saturation_width: float = 0.01

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"`{field.name}` must be a positive number. Received: {value!r}.")


@dataclasses.dataclass(frozen=True)
class VariableGradient(Record):
    """The gradients of one variable over several batches.

    Attributes:
        path: of the variable, e.g. `"backbone/conv/kernel"`.
        layer: path of the layer that holds it.
        layer_type: its class.
        shape: of the variable.
        trainable: whether training changes it.
        connected: whether the loss depends on it; the numbers below are 0 or `None` otherwise.
        norm: mean over the batches of the L2 norm.
        rms: root mean square of all entries over all batches.
        mean: of all entries over all batches.
        variance: between batches, mean over the entries.
        zero_fraction: share of entries that are exactly 0, mean over the batches.
        weight_norm: L2 norm of the variable.
        ratio: `norm / weight_norm`; `None` if the variable is 0.
        cosine: how far the gradients of two batches agree: their mean inner product over their mean square, 1 if they
            are equal, 0 if they are noise. `None` for a gradient of 0.
        noise_scale: batch size, in examples, at which noise and gradient are equally large; `None` where the noise
            drowns the gradient, so that it cannot be estimated.
    """

    path: str
    layer: str
    layer_type: str
    shape: tuple[int, ...]
    trainable: bool
    connected: bool
    norm: float
    rms: float
    mean: float
    variance: float
    zero_fraction: float
    weight_norm: float
    ratio: float | None
    cosine: float | None
    noise_scale: float | None


@dataclasses.dataclass(frozen=True)
class ActivationStatistics(Record):
    """The outputs of one activation over the examples seen.

    Attributes:
        layer: path of the layer that applies it.
        activation: `"relu"`, `"relu6"`, `"sigmoid"` or `"tanh"`.
        units: entries of the channel axis.
        dead_units: units that were 0 for every example; `None` for activations that do not end at 0.
        zero_fraction: share of outputs that are 0.
        saturated_fraction: share of outputs near a limit; `None` for a plain ReLU.
    """

    layer: str
    activation: str
    units: int
    dead_units: int | None
    zero_fraction: float
    saturated_fraction: float | None


@dataclasses.dataclass(frozen=True)
class Verdict(Record):
    """Something that keeps a layer from learning.

    Attributes:
        kind: one of `VERDICT_KINDS`.
        where: path of a variable or a layer.
        value: what was measured.
        threshold: what it was held against; `None` where there is nothing to compare.
        words: value, threshold and what helps, in a sentence.
    """

    kind: str
    where: str
    value: float
    threshold: float | None
    words: str

    def __post_init__(self) -> None:
        if self.kind not in VERDICT_KINDS:
            raise ConfigError(f"Unknown kind {self.kind!r}.{nearest(self.kind, VERDICT_KINDS)}")


@dataclasses.dataclass(frozen=True)
class GradientProfile(Record):
    """The gradients of a model over several batches, and what is wrong with them.

    Attributes:
        model: name.
        batches, examples: that were seen.
        batch_examples: in one batch.
        loss: mean over the batches.
        norm: mean over the batches of the L2 norm of all gradients together.
        noise_scale: of all gradients together; see `VariableGradient`.
        cosine: of all gradients together.
        variables: in the order of the model, from the input on.
        activations: in the order in which they are applied.
        verdicts: in the order of the model.
        thresholds: that the verdicts were made with.
        training: whether layers behaved as in training.
        notes: what to know about the numbers.
    """

    model: str
    batches: int
    examples: int
    batch_examples: int
    loss: float
    norm: float
    noise_scale: float | None
    cosine: float | None
    variables: tuple[VariableGradient, ...]
    activations: tuple[ActivationStatistics, ...]
    verdicts: tuple[Verdict, ...]
    thresholds: GradientThresholds
    training: bool
    notes: tuple[str, ...] = ()
