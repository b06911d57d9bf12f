"""How two sets of parameters differ: entry by entry, or by their statistics where one is a baseline."""

import dataclasses
import math

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record

MATCHES = ("name", "order")


@dataclasses.dataclass(frozen=True)
class VariableChange(Record):
    """How one variable of `b` differs from the same one of `a`, over the entries that are finite in both.

    Attributes:
        path: in `a`, or in the model if `a` is a file and `b` is none.
        path_b: in `b`; the same unless variables were matched by their order.
        norm_a, norm_b, change_norm: L2 norms of `a`, `b` and `b - a`.
        cosine: of the angle between `a` and `b`; `None` if one of them is all zero.
        max_abs: largest magnitude of `b - a`.
        changed: entries whose values are not equal; NaN equals NaN.
        nonfinite_a, nonfinite_b: entries that are NaN or infinite.
    """

    path: str
    path_b: str
    shape: tuple[int, ...]
    dtype_a: str
    dtype_b: str
    norm_a: float
    norm_b: float
    change_norm: float
    cosine: float | None
    max_abs: float
    changed: int
    nonfinite_a: int
    nonfinite_b: int

    @property
    def parameters(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def relative_change(self) -> float:
        """Norm of the change over that of `a`; infinite if `a` is all zero and `b` is not."""
        return _ratio(self.change_norm, self.norm_a)

    @property
    def fraction_changed(self) -> float:
        """Fraction of the entries that are not equal."""
        return self.changed / self.parameters if self.parameters else 0.0


@dataclasses.dataclass(frozen=True)
class ShapeDifference(Record):
    """A variable of both whose shapes differ, so that its values cannot be compared."""

    path: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ParameterComparison(Record):
    """How the parameters of `b` differ from those of `a`.

    Attributes:
        a, b: names of the models or files.
        matched_by: `"name"`: variables of the same path belong together; `"order"`: those at the same place, because
            the names differ and all shapes agree.
        changes: one for every variable of the same shape in both, changed or not.
        reshaped: variables of both with another shape.
        only_in_a, only_in_b: paths of the others.
    """

    a: str
    b: str
    matched_by: str
    changes: tuple[VariableChange, ...]
    reshaped: tuple[ShapeDifference, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.matched_by not in MATCHES:
            raise ConfigError(f"`matched_by` must be one of {', '.join(MATCHES)}. Received: {self.matched_by!r}.")

    @property
    def identical(self) -> bool:
        """Whether both have the same variables with the same dtypes and values."""
        same = all(change.changed == 0 and change.dtype_a == change.dtype_b for change in self.changes)
        return same and not (self.reshaped or self.only_in_a or self.only_in_b)

    @property
    def changed(self) -> tuple[VariableChange, ...]:
        """The variables of which at least one entry differs."""
        return tuple(change for change in self.changes if change.changed)

    @property
    def parameters(self) -> int:
        """Number of entries that were compared."""
        return sum(change.parameters for change in self.changes)

    @property
    def fraction_changed(self) -> float:
        """Fraction of the compared entries that are not equal."""
        return sum(change.changed for change in self.changes) / max(self.parameters, 1)

    @property
    def relative_change(self) -> float:
        """Norm of the change of all compared entries over that of `a`."""
        change = math.hypot(*(change.change_norm for change in self.changes))
        return _ratio(change, math.hypot(*(change.norm_a for change in self.changes)))


@dataclasses.dataclass(frozen=True)
class StatisticsChange(Record):
    """How the distribution of one variable changed. A new order of the same entries, or another sign, is not seen.

    Attributes:
        mean_shift: change of the mean, in standard deviations of `a`, or in the magnitude of its entries if they are
            all equal; infinite if `a` is all zero.
        std_ratio, l2_ratio: of `b` over `a`; 1 for 0 over 0, infinite for something over 0.
        percentile_shift: largest change of a percentile, in the same unit.
        percentile: where that is.
        zero_fraction_a, zero_fraction_b: exact zeros.
        dead_a, dead_b: dead output channels; `None` where they are not known.
        rank_a, rank_b: effective rank; `None` where it is not known.
        nonfinite_a, nonfinite_b: NaN and infinite entries among those that were read.
        mean_error: standard error of `mean_shift` in its unit, if a sample was read; else 0. The two samples count as
            independent: with the same seed and name they hold the same entries, and the error is less.
    """

    path: str
    parameters: int
    mean_shift: float
    std_ratio: float
    l2_ratio: float
    percentile_shift: float
    percentile: str
    zero_fraction_a: float
    zero_fraction_b: float
    dead_a: int | None
    dead_b: int | None
    rank_a: float | None
    rank_b: float | None
    nonfinite_a: int
    nonfinite_b: int
    mean_error: float


@dataclasses.dataclass(frozen=True)
class StatisticsComparison(Record):
    """How the statistics of `b` differ from those of `a`, where one of the two is a baseline profile.

    Attributes:
        a, b: names of the models.
        matched_by: as in `ParameterComparison`.
        changes: one for every variable of the same shape of which both have statistics.
        without_statistics: paths of variables in both of which one has only counts.
        reshaped, only_in_a, only_in_b: as in `ParameterComparison`.
    """

    a: str
    b: str
    matched_by: str
    changes: tuple[StatisticsChange, ...]
    without_statistics: tuple[str, ...]
    reshaped: tuple[ShapeDifference, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.matched_by not in MATCHES:
            raise ConfigError(f"`matched_by` must be one of {', '.join(MATCHES)}. Received: {self.matched_by!r}.")


def _ratio(part: float, whole: float) -> float:
    if whole:
        return part / whole
    return math.inf if part else 0.0
