"""How values were distributed when a model was judged, and how far later ones are from that: frozen, serialisable."""

import dataclasses

from kopt.core.serialization import Record
from kopt.core.settings import choice

DRIFT_STATES = ("same", "watch", "drifted")


@dataclasses.dataclass(frozen=True)
class FeatureProfile(Record):
    """The distribution of one feature.

    Attributes:
        name: of the feature.
        count: finite values.
        nonfinite: NaN and infinite values.
        edges: inner edges of the bins, ascending; a value on an edge belongs to the bin above.
        counts: values by bin, one more than edges.
        quantiles: order statistics at even steps, from the smallest value to the largest.
    """

    name: str
    count: int
    nonfinite: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    quantiles: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class DriftProfile(Record):
    """The distributions that later values are held against."""

    features: tuple[FeatureProfile, ...]


@dataclasses.dataclass(frozen=True)
class FeatureDrift(Record):
    """How far one feature is from its profile.

    Attributes:
        name: of the feature.
        psi: population stability index, in nats.
        psi_noise: what it comes to on average although nothing changed, from the numbers of values alone.
        ks: largest distance of the two distribution functions, in [0, 1].
        p_value: of a `ks` as large although nothing changed; where no value is finite, of so many of those.
        nonfinite_share, nonfinite_share_before: NaN and infinite values as a share of all.
        status: `"same"`, `"watch"` or `"drifted"`.
    """

    name: str
    psi: float
    psi_noise: float
    ks: float
    p_value: float
    nonfinite_share: float
    nonfinite_share_before: float
    status: str

    def __post_init__(self) -> None:
        choice("status", self.status, DRIFT_STATES)


@dataclasses.dataclass(frozen=True)
class DriftReport(Record):
    """Every feature against its profile.

    Attributes:
        examples: that were looked at.
        level: chance of a false alarm over all features together.
    """

    examples: int
    level: float
    features: tuple[FeatureDrift, ...]

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """The features that have drifted."""
        return tuple(feature for feature in self.features if feature.status == "drifted")
