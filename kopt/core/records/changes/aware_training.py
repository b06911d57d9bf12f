"""What quantization-aware training does to a model: frozen, serialisable."""

import dataclasses

from kopt.core.records.actions import LayerAction
from kopt.core.serialization import Record
from kopt.core.settings import choice, number, whole

RANGE_KINDS = ("ema", "percentile", "learned")


@dataclasses.dataclass(frozen=True)
class RangeRule(Record):
    """How the range of an activation is found.

    Attributes:
        kind: `"ema"`: moving average of the smallest and largest value of a batch; `"percentile"`: moving average of
            percentiles; `"learned"`: trained with the weights (LSQ), from calibrated ranges on.
        momentum: of the moving average, in [0, 1): the share of the old value that stays.
        percentile: of `"percentile"`, in (50, 100].
        start: batches of training that only set the range, before anything is rounded to it in training.
        freeze: batches of training after which the range stays; `None`: never.
    """

    kind: str = "ema"
    momentum: float = 0.99
    percentile: float = 99.99
    start: int = 0
    freeze: int | None = None

    def __post_init__(self) -> None:
        choice("ranges", self.kind, RANGE_KINDS)
        number("momentum", self.momentum, least=0.0, most=1.0)
        number("percentile", self.percentile, least=50.0, most=100.0, open_below=True)
        whole("start", self.start, least=0)
        if self.freeze is not None:
            whole("freeze", self.freeze)


@dataclasses.dataclass(frozen=True)
class QuantizedKernel(Record):
    """A kernel on a grid of integers.

    Attributes:
        layer: path.
        type: class of the layer.
        bits: of a weight.
        folded: path of the BatchNormalization that goes into the kernel; empty if there is none.
        zeros: share of weights that are zero and stay so.
        values: most different values that a codebook leaves; 0 if there is none.
    """

    layer: str
    type: str
    bits: int
    folded: str = ""
    zeros: float = 0.0
    values: int = 0


@dataclasses.dataclass(frozen=True)
class KeptWeights(Record):
    """Weights on no grid, such as those of a table, with zeros or a codebook that training leaves.

    Attributes:
        layer: path.
        variable: its name in the layer.
        zeros: share of weights that are zero and stay so.
        values: most different values that a codebook leaves; 0 if there is none.
    """

    layer: str
    variable: str
    zeros: float = 0.0
    values: int = 0


@dataclasses.dataclass(frozen=True)
class Quantization(Record):
    """What `kopt.quantize.aware` did.

    Attributes:
        model: its name.
        scheme: numeric scheme that training imitates.
        kernels: that are rounded, in the order of the model.
        ranges: activations that are rounded, by the name of the quantizer.
        left: layers that compute in float, or of which only inputs and outputs are rounded, with the reason.
        kept: weights that are not rounded, and of which zeros or codebooks stay.
    """

    model: str
    scheme: str
    kernels: tuple[QuantizedKernel, ...]
    ranges: tuple[str, ...]
    left: tuple[LayerAction, ...] = ()
    kept: tuple[KeptWeights, ...] = ()
