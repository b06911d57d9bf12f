"""What a restructured model became, and what was left as it was: frozen, serialisable."""

import dataclasses

from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.footprint import Footprints
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class RestructuredLayer(Record):
    """A layer and what stands in its place.

    Attributes:
        name: path, e.g. `"backbone/conv"`.
        type: class name.
        detail: what was done, e.g. `"Conv2D 1x1, 3x3, 1x1 of ranks 12 and 20"`.
        parameters_before, parameters_after: of the layer and of what replaced it.
        macs_before, macs_after: multiply-accumulates of one example; `None` where a size is open.
        error: relative Frobenius distance of the new weights from the old ones, as a fraction of 1; 0 if exact up to
            rounding.
    """

    name: str
    type: str
    detail: str
    parameters_before: int
    parameters_after: int
    macs_before: int | None
    macs_after: int | None
    error: float = 0.0


@dataclasses.dataclass(frozen=True)
class RestructureReport(Record):
    """What a transform did to a model, and what it left with the reason.

    Attributes:
        transform: name of the function.
        model: name.
        applied: in the order of the model.
        left: layers that it looked at and did not treat.
        parameters_before, parameters_after: of the whole model.
        macs_before, macs_after: multiply-accumulates of one example of the whole model, without the layers of which
            they are not known.
        unknown: layers of the new model of which they are not known.
        measured: the model before and after as exported files; `None` until `kopt.prune.measured` adds it.
    """

    transform: str
    model: str
    applied: tuple[RestructuredLayer, ...]
    left: tuple[LayerAction, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    unknown: int = 0
    measured: Footprints | None = None

    @property
    def parameter_ratio(self) -> float:
        """Parameters after as a fraction of those before."""
        return self.parameters_after / self.parameters_before if self.parameters_before else 1.0

    @property
    def mac_ratio(self) -> float:
        """Multiply-accumulates after as a fraction of those before."""
        return self.macs_after / self.macs_before if self.macs_before else 1.0

    @property
    def worst(self) -> RestructuredLayer | None:
        """The layer whose weights changed most."""
        return max(self.applied, key=lambda layer: layer.error, default=None)


@dataclasses.dataclass(frozen=True)
class LayerVariance(Record):
    """How large the weights and the output of a layer are before and after.

    Attributes:
        name: path.
        type: class name.
        rule: what was drawn, e.g. `"he_normal"`, `"zeros"` or `"reset"` for a normalization.
        weight_std_before, weight_std_after: standard deviation of the kernel, of the last one where there are two;
            of the scales (gamma) of a normalization; 0 where it has none.
        output_std_before, output_std_after: standard deviation of all entries of the output of the first call.
    """

    name: str
    type: str
    rule: str
    weight_std_before: float
    weight_std_after: float
    output_std_before: float
    output_std_after: float


@dataclasses.dataclass(frozen=True)
class ReinitializationReport(Record):
    """What was drawn anew, and how the signal goes through the layers before and after.

    Attributes:
        model: name.
        initializer: name.
        seed: of the draws.
        examples: on which outputs were computed.
        data: `"given"` or `"noise"`.
        layers: that were drawn anew, in the order of the model.
        left: layers with weights that were not, with the reason.
    """

    model: str
    initializer: str
    seed: int
    examples: int
    data: str
    layers: tuple[LayerVariance, ...]
    left: tuple[LayerAction, ...]

    @property
    def spread_before(self) -> float:
        """Largest standard deviation of an output over the smallest one, before; those of 0 are left out."""
        return _spread([layer.output_std_before for layer in self.layers])

    @property
    def spread_after(self) -> float:
        """The same after: near 1 the signal neither fades nor explodes."""
        return _spread([layer.output_std_after for layer in self.layers])


@dataclasses.dataclass(frozen=True)
class ScalingReport(Record):
    """What compound scaling made of a builder's model.

    Attributes:
        model: name.
        phi: compound coefficient, `None` if the factors were given.
        width, depth: factors of channels and of repeated layers.
        resolution: factor of the side of the input.
        pixels: side of the input that the builder was given.
        parameters_before, parameters_after: of the model at factors of 1 and of the scaled one.
        macs_before, macs_after: multiply-accumulates of one example.
    """

    model: str
    phi: float | None
    width: float
    depth: float
    resolution: float
    pixels: int
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int

    @property
    def expected_ratio(self) -> float:
        """Factor of multiply-accumulates of a network of convolutions: `depth * width**2 * resolution**2`."""
        return self.depth * self.width**2 * self.resolution**2

    @property
    def mac_ratio(self) -> float:
        """Factor of multiply-accumulates that was counted."""
        return self.macs_after / self.macs_before if self.macs_before else 1.0


def _spread(deviations: list[float]) -> float:
    positive = [deviation for deviation in deviations if deviation > 0]
    return max(positive) / min(positive) if positive else 1.0
