"""Which layers can take how much: what pruning, quantization and the search read."""

import dataclasses
import math

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class LayerAllowance(Record):
    """How much one layer can take.

    Attributes:
        layer: its path.
        type: its class.
        parameters: weights in its kernels.
        bits: of the integers that its kernels can be stored in; `None`: keep them in floating point.
        sparsity: fraction of its weights that can be set to zero; 0: leave it dense.
        bits_drop: measured drop of the metric with `bits`, this layer alone; 0 without.
        sparsity_drop: the same with `sparsity`.
    """

    layer: str
    type: str
    parameters: int
    bits: int | None
    sparsity: float
    bits_drop: float = 0.0
    sparsity_drop: float = 0.0

    def __post_init__(self) -> None:
        if self.bits is not None and not 2 <= self.bits <= 16:
            raise ConfigError(f"`bits` must be None or from 2 to 16. Received: {self.bits!r}.")
        if not 0.0 <= self.sparsity < 1.0:
            raise ConfigError(f"`sparsity` must be in [0, 1). Received: {self.sparsity!r}.")


@dataclasses.dataclass(frozen=True)
class JointMeasurement(Record):
    """A plan applied to all layers together.

    Attributes:
        what: `"bits"`, `"sparsity"`, or `"bits and sparsity"` (pruned, then quantized).
        drop: of the metric; positive is worse.
        error: standard error of that; `None` for a metric that is no mean over examples.
        loss_change: of the mean loss.
        sum_of_drops: what the drops of the layers, measured alone, add up to.
        relaxed: layers that were given less than their own drop allowed, because together it was too much.
    """

    what: str
    drop: float
    error: float | None
    loss_change: float
    sum_of_drops: float
    relaxed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SensitivityPlan(Record):
    """Which layers can take how much.

    Attributes:
        model: name.
        fingerprint: of the model that it was made for.
        metric: that `max_drop` is a drop of.
        metric_value: of the model as it is.
        max_drop: budget for the bits of all layers, and again for the sparsity of all layers.
        layers: in order of execution.
        joint: what all layers together do, as far as it was measured; empty for a plan that was not verified.
        examples: that drops were measured on.
        notes: what to know before the plan is used.
    """

    model: str
    fingerprint: str
    metric: str
    metric_value: float
    max_drop: float
    layers: tuple[LayerAllowance, ...]
    joint: tuple[JointMeasurement, ...]
    examples: int
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> dict[str, int | None]:
        """Bits by the path of the layer; `None` is floating point."""
        return {layer.layer: layer.bits for layer in self.layers}

    @property
    def sparsity(self) -> dict[str, float]:
        """Sparsity by the path of the layer."""
        return {layer.layer: layer.sparsity for layer in self.layers}

    @property
    def is_verified(self) -> bool:
        """Whether all layers were measured together."""
        return bool(self.joint)

    @property
    def mean_bits(self) -> float:
        """Bits a weight on average, with 32 for floating point."""
        return self._mean([float(layer.bits or 32) for layer in self.layers])

    @property
    def mean_sparsity(self) -> float:
        """Fraction of all weights that are zero."""
        return self._mean([layer.sparsity for layer in self.layers])

    def _mean(self, values: list[float]) -> float:
        weights = [layer.parameters for layer in self.layers]
        total = sum(weights)
        return sum(w * v for w, v in zip(weights, values, strict=True)) / total if total else math.nan
