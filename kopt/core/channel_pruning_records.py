"""What pruning of channels did to a model: frozen, serialisable."""

import dataclasses

from kopt.core.serialization import Record


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
    """

    layers: tuple[str, ...]
    kind: str
    before: int
    after: int
    divisor: int
    frozen: str = ""
    remark: str = ""


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
