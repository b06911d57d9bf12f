"""How two arrays of the same shape differ, in pieces, and how two distributions do."""

import dataclasses
import math

import numpy as np

from kopt.core.blocks import flat_blocks, is_float
from kopt.core.records.profiles.parameter_changes import StatisticsChange
from kopt.core.records.profiles.parameters import VariableParameters


@dataclasses.dataclass(frozen=True)
class Difference:
    """Sums over two arrays; see `kopt.core.records.profiles.parameter_changes.VariableChange` for the meaning."""

    norm_a: float
    norm_b: float
    change_norm: float
    cosine: float | None
    max_abs: float
    changed: int
    nonfinite_a: int
    nonfinite_b: int


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Return how `b` differs from `a`, both of the same shape and of any real dtypes.

    Sums are in float64 and over the entries that are finite in both; the memory is that of a few blocks.
    """
    squares_a = squares_b = squares = products = max_abs = 0.0
    changed = nonfinite_a = nonfinite_b = 0
    for part_a, part_b in zip(flat_blocks(a), flat_blocks(b), strict=True):
        block_a, block_b = part_a.astype(np.float64), part_b.astype(np.float64)
        changed += int(np.count_nonzero(block_a != block_b))
        if is_float(a.dtype) or is_float(b.dtype):
            finite_a, finite_b = np.isfinite(block_a), np.isfinite(block_b)
            both = finite_a & finite_b
            if not both.all():
                nonfinite_a += block_a.size - int(finite_a.sum())
                nonfinite_b += block_b.size - int(finite_b.sum())
                changed -= int(np.count_nonzero(np.isnan(block_a) & np.isnan(block_b)))
                block_a, block_b = block_a[both], block_b[both]
        change = block_b - block_a
        squares_a += float(np.einsum("i,i", block_a, block_a))
        squares_b += float(np.einsum("i,i", block_b, block_b))
        products += float(np.einsum("i,i", block_a, block_b))
        squares += float(np.einsum("i,i", change, change))
        max_abs = max(max_abs, float(np.abs(change).max(initial=0.0)))
    norm_a, norm_b = math.sqrt(squares_a), math.sqrt(squares_b)
    cosine = min(1.0, max(-1.0, products / (norm_a * norm_b))) if norm_a and norm_b else None
    return Difference(norm_a, norm_b, math.sqrt(squares), cosine, max_abs, changed, nonfinite_a, nonfinite_b)


def statistics_change(a: VariableParameters, b: VariableParameters) -> StatisticsChange:
    """Return how the statistics of a variable changed; both have some, of the same percentiles."""
    if a.statistics is None or b.statistics is None:
        raise ValueError("Both variables need statistics.")
    before, after = a.statistics, b.statistics
    unit = before.std or abs(before.mean)
    shifts = {name: _over(abs(after.percentiles[name] - value), unit) for name, value in before.percentiles.items()}
    farthest = max(shifts, key=lambda name: shifts[name], default="")
    errors = [one.errors.mean for one in (before, after) if one.errors is not None]
    return StatisticsChange(
        path=a.path,
        parameters=a.parameters,
        mean_shift=_over(after.mean - before.mean, unit),
        std_ratio=_ratio(after.std, before.std),
        l2_ratio=_ratio(after.l2, before.l2),
        percentile_shift=shifts.get(farthest, 0.0),
        percentile=farthest,
        zero_fraction_a=before.zero_fraction,
        zero_fraction_b=after.zero_fraction,
        dead_a=None if a.channels is None else a.channels.dead,
        dead_b=None if b.channels is None else b.channels.dead,
        rank_a=None if a.effective_rank is None else a.effective_rank.value,
        rank_b=None if b.effective_rank is None else b.effective_rank.value,
        nonfinite_a=before.nans + before.infinities,
        nonfinite_b=after.nans + after.infinities,
        mean_error=_over(math.hypot(*errors), unit) if errors else 0.0,
    )


def _over(part: float, whole: float) -> float:
    """Return the quotient of a difference: 0 for 0 over 0."""
    if whole:
        return part / whole
    return math.copysign(math.inf, part) if part else 0.0


def _ratio(after: float, before: float) -> float:
    """Return the quotient of two sizes: 1 for 0 over 0, because nothing changed."""
    return 1.0 if after == before == 0 else _over(after, before)
