"""What a restructured model became, and what was left as it was: frozen, serialisable."""

import dataclasses

from kopt.core.records import LayerAction
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
