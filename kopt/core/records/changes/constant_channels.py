"""Which channels were constant, and what became of them: frozen, serialisable."""

import dataclasses

from kopt.core.records.changes.footprint import Footprints
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class ConstantChannels(Record):
    """Channels of layers that depend on each other.

    Attributes:
        layers: paths of the layers that make them.
        before: channels of each of these layers.
        constant: how many of them had a value that did not change over the data.
        removed: how many of these are gone.
        zeros: how many of the removed were zero.
        skipped: why constant channels were kept, one reason for each kind; `()` if all are gone.
    """

    layers: tuple[str, ...]
    before: int
    constant: int
    removed: int
    zeros: int
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ConstantChannelsReport(Record):
    """A model before and after its constant channels were removed.

    Attributes:
        model: name.
        tolerance: largest standard deviation that counts as constant.
        examples: that were looked at.
        groups: with constant channels, in the order of the layers.
        absorbed: layers and normalizations whose offsets took in what the removed channels gave.
        parameters_before, parameters_after: of the whole model.
        macs_before, macs_after: multiply-accumulates for one example.
        measured: the model before and after as exported files; `None` until `kopt.prune.measured` adds it.
    """

    model: str
    tolerance: float
    examples: int
    groups: tuple[ConstantChannels, ...]
    absorbed: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    measured: Footprints | None = None

    @property
    def removed(self) -> int:
        """Channels that are gone, one a set of channels that depend on each other."""
        return sum(group.removed for group in self.groups)
