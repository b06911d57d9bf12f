"""What pruning of channels did to a model: frozen, serialisable."""

import dataclasses

from kopt.core.records.changes.footprint import Footprints
from kopt.core.serialization import Record

# Criteria that look at examples, beside the weights.
NEED_DATA = ("taylor", "gradient", "fisher", "activation")


@dataclasses.dataclass(frozen=True)
class PrunedGroup(Record):
    """Channels of layers that can only shrink together.

    Attributes:
        layers: paths of the layers that make the channels.
        kind: `"channels"`, `"units"` of recurrent layers, or `"heads"` of attention.
        before, after: how many of them each of the layers has in this group; the one with fewest, where they differ.
        divisor: what `after` is a multiple of.
        frozen: why nothing was removed; `""` if it could be.
        remark: what else changes with the width, e.g. a normalization over all channels; `""` if nothing does.
        saving: what the model loses with one of them, all others in place: multiply-accumulates, parameters or
            milliseconds, as the report's `per` says; `None` if importance was not divided by it.
    """

    layers: tuple[str, ...]
    kind: str
    before: int
    after: int
    divisor: int
    frozen: str = ""
    remark: str = ""
    saving: float | None = None


@dataclasses.dataclass(frozen=True)
class LatencyProbe(Record):
    """A smaller model that was exported and timed on the way to a target, in turns with the model as it was.

    Attributes:
        macs, parameters: of the smaller model.
        latency_ms: of a call with one example, in the quickest turn; a turn is the median of 10 ms of calls.
        reference_ms: of the model as it was, in the same way.
    """

    macs: int
    parameters: int
    latency_ms: float
    reference_ms: float

    @property
    def share(self) -> float:
        """Share of the latency that is left: what the search goes by."""
        return self.latency_ms / self.reference_ms


@dataclasses.dataclass(frozen=True)
class ChannelPruningReport(Record):
    """A model before and after its channels were pruned.

    Attributes:
        model: name.
        goal: what was asked for, e.g. `"keep=0.5"`.
        criterion: how channels were compared.
        scope: `"layer"` or `"global"`.
        groups: in the order of the layers, those that stay among them.
        parameters_before, parameters_after: of the whole model.
        macs_before, macs_after: multiply-accumulates for one example, of the layers whose count is known.
        notes: what the reader should know.
        per: what importance was divided by: `"macs"`, `"params"` or `"latency"` that removing a channel saves; `""` for
            nothing.
        probes: what was measured on the way to a target of latency, in order.
        measured: both models as exported files; `None` until `kopt.prune.measured` adds it.
    """

    model: str
    goal: str
    criterion: str
    scope: str
    groups: tuple[PrunedGroup, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    notes: tuple[str, ...] = ()
    per: str = ""
    probes: tuple[LatencyProbe, ...] = ()
    measured: Footprints | None = None

    @property
    def frozen(self) -> tuple[PrunedGroup, ...]:
        """The groups that nothing could be removed of."""
        return tuple(group for group in self.groups if group.frozen)

    @property
    def macs_kept(self) -> float:
        """Share of the multiply-accumulates that is left."""
        return self.macs_after / self.macs_before if self.macs_before else 1.0

    @property
    def parameters_kept(self) -> float:
        """Share of the parameters that is left."""
        return self.parameters_after / self.parameters_before if self.parameters_before else 1.0
