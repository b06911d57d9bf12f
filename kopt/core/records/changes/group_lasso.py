"""A penalty on whole channels, group by group: frozen, serialisable."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class PenalizedGroup(Record):
    """Channels of layers that depend on each other, under one penalty.

    Attributes:
        layers: paths of the layers that make the channels.
        units: sets of channels that go together or not at all.
        weights_per_unit: that make one of them, in all layers.
        penalty: that the group adds to the loss now.
        small: units whose weights have a norm below a hundredth of the largest of the group.
        left: why the group has no penalty; `""` if it has one.
    """

    layers: tuple[str, ...]
    units: int
    weights_per_unit: int
    penalty: float
    small: int
    left: str = ""


@dataclasses.dataclass(frozen=True)
class GroupLassoReport(Record):
    """The penalty of a model.

    Attributes:
        model: name.
        strength: factor of the norms of channels.
        scale_strength: factor of the magnitudes of the scales of batch normalizations.
        groups: in the order of the layers, those without penalty among them.
        scale_penalty: that the scales add to the loss now.
    """

    model: str
    strength: float
    scale_strength: float
    groups: tuple[PenalizedGroup, ...]
    scale_penalty: float

    @property
    def penalty(self) -> float:
        """What is added to the loss now."""
        return self.scale_penalty + sum(group.penalty for group in self.groups)
