"""What a model costs, by layer: frozen, serialisable."""

import dataclasses
import math

from kopt.core.errors import ConfigError
from kopt.core.records.training.finders import MemoryEstimate
from kopt.core.serialization import Record

BOUNDS = ("compute", "memory")


@dataclasses.dataclass(frozen=True)
class LayerCost(Record):
    """Cost of one call of a layer, for one example.

    Attributes:
        name: path, e.g. `"backbone/conv"`; `" (call 2)"` follows for later calls of a shared layer.
        type: class name.
        output_shape: of the first output, batch axis first.
        parameters: of the variables that no earlier call has.
        macs: multiply-accumulates; `None` where they are not known.
        flops: floating-point operations: two for a multiply-accumulate and one for every other operation on an entry,
            see `kopt.profile.cost.elementwise`; `None` where they are not known.
        weight_bytes: of the variables that `parameters` counts, in the types they are kept in.
        input_bytes: of what it takes, with the rows that an embedding looks up; `None` where a size is open.
        activation_bytes: of the outputs, in the type they are in; `None` where a size is open.
        reason: why something is not known; empty if all is.
        read_weight_bytes: of all variables that the call reads, also those that an earlier call has; 0 where they
            count as input: the rows that an embedding looks up, and what Python code of the user reads.
        groups: in which a convolution works.
    """

    name: str
    type: str
    output_shape: tuple[int | None, ...]
    parameters: int
    macs: int | None
    flops: int | None = None
    weight_bytes: int = 0
    input_bytes: int | None = None
    activation_bytes: int | None = None
    reason: str = ""
    read_weight_bytes: int = 0
    groups: int = 1

    @property
    def path(self) -> str:
        """The name without the counts of calls, by which the layer is found in the model."""
        return "/".join(part.partition(" (call ")[0] for part in self.name.split("/"))


@dataclasses.dataclass(frozen=True)
class ModelProfile(Record):
    """Per-layer cost of a model for one example.

    Attributes:
        model: name.
        layers: in the order of the calls.
        parameters: each variable once.
        trainable_parameters: of them, what training changes.
        peak_activation_bytes: most that inputs, outputs and what is still needed of them take at one moment of a
            forward pass, for one example; `None` where a size is open or the model has no graph.
        peak_layer: call at which that is.
        training: memory of a training step, with gradients and optimizer; `None` if it was not asked for.
    """

    model: str
    layers: tuple[LayerCost, ...]
    parameters: int
    trainable_parameters: int
    peak_activation_bytes: int | None = None
    peak_layer: str = ""
    training: MemoryEstimate | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layers whose formula is known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations of the layers whose formula is known."""
        return sum(layer.flops or 0 for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as they are kept in memory."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def unknown(self) -> tuple[LayerCost, ...]:
        """The layers that the totals leave out."""
        return tuple(layer for layer in self.layers if layer.macs is None)


@dataclasses.dataclass(frozen=True)
class MachinePeaks(Record):
    """What a machine can do at best, as measured.

    Attributes:
        flops_per_s: floating-point operations a second, of a matrix product.
        bytes_per_s: bytes read and written a second, of a sum of arrays that no cache holds.
        dtype: that was computed in.
        device: `"CPU:0"` or `"GPU:0"`.
        method: how it was measured.
    """

    flops_per_s: float
    bytes_per_s: float
    dtype: str = "float32"
    device: str = "CPU:0"
    method: str = "given"

    def __post_init__(self) -> None:
        if not self.flops_per_s > 0 or not self.bytes_per_s > 0:
            raise ConfigError(
                f"Peaks must be above 0. Received: {self.flops_per_s!r} operations and {self.bytes_per_s!r} bytes a "
                f"second."
            )

    @property
    def ridge(self) -> float:
        """Operations a byte at which computing takes as long as moving."""
        return self.flops_per_s / self.bytes_per_s


@dataclasses.dataclass(frozen=True)
class LayerIntensity(Record):
    """How much a layer computes for each byte it moves.

    Attributes:
        name: see `LayerCost`.
        type: class name.
        flops: of one batch.
        moved_bytes: weights, inputs and outputs of one batch, each once.
        bound: `"compute"` or `"memory"`: what takes longer at the machine's peaks.
        least_ms: the longer of the two times.
    """

    name: str
    type: str
    flops: int
    moved_bytes: int
    bound: str
    least_ms: float

    def __post_init__(self) -> None:
        if self.bound not in BOUNDS:
            raise ConfigError(f"`bound` must be one of {', '.join(BOUNDS)}. Received: {self.bound!r}.")

    @property
    def intensity(self) -> float:
        """Floating-point operations a byte; 0 where numbers are only moved."""
        return self.flops / self.moved_bytes if self.moved_bytes else math.inf


@dataclasses.dataclass(frozen=True)
class RooflineProfile(Record):
    """The layers of a model against what a machine can do.

    Attributes:
        model: name.
        batch_size: examples in a batch.
        peaks: of the machine.
        layers: that compute or move something, in the order of the calls.
        left_out: layers of unknown cost, with the reason.
    """

    model: str
    batch_size: int
    peaks: MachinePeaks
    layers: tuple[LayerIntensity, ...]
    left_out: dict[str, str]

    @property
    def least_ms(self) -> float:
        """Time of a forward pass if every layer reached the peaks."""
        return sum(layer.least_ms for layer in self.layers)

    def share(self, bound: str) -> float:
        """Return the share of `least_ms` in layers with this bound."""
        total = self.least_ms
        return sum(layer.least_ms for layer in self.layers if layer.bound == bound) / total if total else 0.0
