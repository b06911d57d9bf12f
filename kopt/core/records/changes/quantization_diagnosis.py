"""Where an integer file loses its accuracy: frozen, serialisable."""

import dataclasses
import math

from kopt.core.errors import ConfigError, nearest
from kopt.core.records.actions import LayerAction
from kopt.core.serialization import Record

FINDINGS = (
    "spread output",
    "spread kernel",
    "outside",
    "saturated",
    "unused range",
    "dead channels",
    "most of the error",
    "everywhere",
)


@dataclasses.dataclass(frozen=True)
class KernelRange(Record):
    """How a kernel fills its grids, one for each output channel.

    Attributes:
        weights: how many, with the normalization behind them folded in.
        bits: of a weight.
        spread: largest over smallest width of an output channel; channels of zeros, and the smallest tenth, left out.
        input_spread: likewise of an input channel, which share the grids; 1 for a depthwise kernel, which has one input
            channel for each grid.
        lost: share of weights that are not 0 and are rounded to 0.
        outside: biases that 32 bits cannot hold in steps of input times weight, and weights that are no finite number.
    """

    weights: int
    bits: int
    spread: float
    input_spread: float
    lost: float
    outside: int = 0


@dataclasses.dataclass(frozen=True)
class LayerDiagnosis(Record):
    """What rounding does at one integer operator: a layer with the activation and normalization that are part of it.

    Decibels are `10 * log10(sum of squares of the float values / sum of squares of the error)`: 20 dB is an error of a
    tenth, 40 dB of a hundredth.

    Attributes:
        layer: path of the layer.
        type: its class.
        parts: paths of all layers that the operator computes.
        grid: name of what rounds its output.
        sqnr_db: of its output with all layers up to here rounded: the error that has accumulated.
        alone_db: of its output with this layer alone rounded: the error that it injects.
        kernel_db: likewise, its weights alone; `None` if it has none.
        rounding_db: likewise, its output alone.
        output_db: of the model's output with this layer alone rounded.
        low, high: ends of the range of its output.
        range_use: share of the range that the middle 99.9 % of the values fill.
        saturated: share of values outside the range; 0 for one that TFLite fixes, as that of a softmax.
        channels: of the output, along the last axis.
        dead_channels: that give one number for all examples.
        output_spread: largest over smallest magnitude of a channel, which share the range; dead ones, and the smallest
            tenth, left out.
        kernel: of the layer.
    """

    layer: str
    type: str
    parts: tuple[str, ...]
    grid: str
    sqnr_db: float
    alone_db: float
    kernel_db: float | None
    rounding_db: float
    output_db: float
    low: float
    high: float
    range_use: float
    saturated: float
    channels: int
    dead_channels: int
    output_spread: float
    kernel: KernelRange | None = None


@dataclasses.dataclass(frozen=True)
class ExampleError(Record):
    """An example on which the rounded model differs most from the float model.

    Attributes:
        row: its number in the arrays that were given; in the order of reading for a data set.
        error: root mean square of the difference of the outputs over that of the float outputs of all examples.
        answer: largest entry of the first output of the float model; `None` for outputs with a single entry.
        rounded_answer: that of the rounded model.
    """

    row: int
    error: float
    answer: int | None
    rounded_answer: int | None

    @property
    def is_flipped(self) -> bool:
        """Whether the answer is another."""
        return self.answer != self.rounded_answer


@dataclasses.dataclass(frozen=True)
class Finding(Record):
    """A verdict about a layer.

    Attributes:
        kind: one of `FINDINGS`.
        layer: path.
        value: what was measured.
        threshold: what it was held against.
        words: both, with what helps, in a sentence.
    """

    kind: str
    layer: str
    value: float
    threshold: float
    words: str

    def __post_init__(self) -> None:
        if self.kind not in FINDINGS:
            raise ConfigError(f"Unknown kind {self.kind!r}.{nearest(self.kind, FINDINGS)}")


@dataclasses.dataclass(frozen=True)
class QuantizationDiagnosis(Record):
    """Why a model loses accuracy in integers, layer by layer.

    Attributes:
        model: name.
        scheme: numeric scheme.
        examples: that it was measured on.
        output_db: signal-to-quantization-noise ratio of the outputs, all layers rounded.
        agreement: share of examples with the same answer, the largest entry of the first output that has several;
            `None` if none has.
        flips: how many have another.
        layers: in order of execution, the inputs first.
        worst: examples with the largest errors, largest first.
        findings: what is wrong, the gravest layer first.
        left: layers that compute in float, with the reason.
        seconds: that it took.
        notes: what to know before the numbers are used.
    """

    model: str
    scheme: str
    examples: int
    output_db: float
    agreement: float | None
    flips: int
    layers: tuple[LayerDiagnosis, ...]
    worst: tuple[ExampleError, ...]
    findings: tuple[Finding, ...]
    left: tuple[LayerAction, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def layer(self, path: str) -> LayerDiagnosis:
        """Return the diagnosis of a layer, by its path or that of a part of it.

        Raises:
            ConfigError: there is none.
        """
        found = next((one for one in self.layers if path == one.layer or path in one.parts), None)
        if found is None:
            known = [part for one in self.layers for part in one.parts]
            raise ConfigError(f"No layer {path!r} was diagnosed.{nearest(path, known)}")
        return found


def noise_share(decibels: float) -> float:
    """Return the power of the noise as a share of that of the signal; 0 for no noise at all."""
    return 0.0 if decibels == math.inf else 10.0 ** (-decibels / 10.0)
