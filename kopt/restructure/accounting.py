"""What layers cost before and after."""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import keras

from kopt import profile
from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.restructuring import RestructuredLayer, RestructureReport
from kopt.core.records.profiles.cost import ModelProfile
from kopt.report.changes.restructuring import RESTRUCTURING
from kopt.report.look import Shown

# The profile puts this after the name of a shared layer, or of a shared nested model.
_LATER_CALL = re.compile(r" \(call \d+\)")


@dataclasses.dataclass(frozen=True)
class Restructuring(Shown, RestructureReport):
    """What a transform did, with ways to show it."""

    look = RESTRUCTURING


@dataclasses.dataclass(frozen=True)
class Change:
    """What was done to one layer.

    Attributes:
        path: of the layer.
        type: class name.
        detail: what was done.
        names: of the layers in its place, in the same parent.
        error: see `RestructuredLayer`.
    """

    path: str
    type: str
    detail: str
    names: tuple[str, ...]
    error: float = 0.0


class Costs:
    """Parameters and multiply-accumulates of a model's layers by path, all calls together."""

    def __init__(self, costs: ModelProfile):
        self.total = costs
        self._parameters: dict[str, int] = {}
        self._macs: dict[str, int | None] = {}
        for layer in costs.layers:
            path = _LATER_CALL.sub("", layer.name)
            self._parameters[path] = self._parameters.get(path, 0) + layer.parameters
            before = self._macs.get(path, 0)
            self._macs[path] = None if before is None or layer.macs is None else before + layer.macs

    @classmethod
    def of(cls, model: keras.Model) -> "Costs":
        """Count a model."""
        return cls(profile.model(model))

    def parameters(self, paths: Iterable[str]) -> int:
        """Return the parameters of layers."""
        return sum(self._parameters.get(path, 0) for path in paths)

    def macs(self, paths: Iterable[str]) -> int | None:
        """Return the multiply-accumulates of layers, `None` if one is not known."""
        known = [self._macs.get(path, 0) for path in paths]
        return None if any(macs is None for macs in known) else sum(macs or 0 for macs in known)


def make_report(
    transform: str, before: Costs, after: Costs, changes: Iterable[Change], left: Mapping[str, LayerAction]
) -> Restructuring:
    """Return the report of a transform from the costs of both models and what it did."""
    return Restructuring(
        transform=transform,
        model=before.total.model,
        applied=tuple(_row(change, before, after) for change in changes),
        left=tuple(left.values()),
        parameters_before=before.total.parameters,
        parameters_after=after.total.parameters,
        macs_before=before.total.macs,
        macs_after=after.total.macs,
        unknown=len(after.total.unknown),
    )


def _row(change: Change, before: Costs, after: Costs) -> RestructuredLayer:
    parent = change.path[: change.path.rfind("/") + 1]
    new = [f"{parent}{name}" for name in change.names]
    return RestructuredLayer(
        name=change.path,
        type=change.type,
        detail=change.detail,
        parameters_before=before.parameters([change.path]),
        parameters_after=after.parameters(new),
        macs_before=before.macs([change.path]),
        macs_after=after.macs(new),
        error=change.error,
    )
