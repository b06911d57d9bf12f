"""Count, mean, spread, norms and extremes of any number of entries, block by block."""

import dataclasses
import functools
import math
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over the finite entries of a set from which its statistics follow.

    Attributes:
        count: finite entries.
        mean: of those.
        second, third, fourth: sums of powers of the deviations from the mean.
        absolute: sum of magnitudes.
        minimum, maximum: infinite for an empty set, so that merging needs no special case.
        zeros, nans, infinities: counts.
    """

    count: int = 0
    mean: float = 0.0
    second: float = 0.0
    third: float = 0.0
    fourth: float = 0.0
    absolute: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    zeros: int = 0
    nans: int = 0
    infinities: int = 0

    @property
    def mean_square(self) -> float:
        """Mean of the squares."""
        return self.second / self.count + self.mean**2 if self.count else math.nan

    @property
    def mean_fourth_power(self) -> float:
        """Mean of the fourth powers."""
        if not self.count:
            return math.nan
        m, n = self.mean, self.count
        return self.fourth / n + 4 * m * self.third / n + 6 * m**2 * self.second / n + m**4


def moments_of(block: np.ndarray) -> Moments:
    """Return the moments of one block, in float64 whatever its dtype."""
    values = block.astype(np.float64).reshape(-1)
    nans = infinities = 0
    if not math.isfinite(float(values.sum())):  # A sum is finite only if every entry is.
        finite = np.isfinite(values)
        nans = int(np.isnan(values).sum())
        infinities = values.size - nans - int(finite.sum())
        values = values[finite]
    if not values.size:
        return Moments(nans=nans, infinities=infinities)
    minimum, maximum = float(values.min()), float(values.max())
    zeros = values.size - int(np.count_nonzero(values))
    absolute = float(np.abs(values).sum())
    mean = float(values.mean())
    values -= mean
    squares = values * values
    return Moments(
        count=values.size,
        mean=mean,
        second=float(squares.sum()),
        # Not `@`, which hands blocks of this size to a pool of threads and waits for them.
        third=float(np.einsum("i,i", squares, values)),
        fourth=float(np.einsum("i,i", squares, squares)),
        absolute=absolute,
        minimum=minimum,
        maximum=maximum,
        zeros=zeros,
        nans=nans,
        infinities=infinities,
    )


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of two sets together.

    Source: Chan, Golub and LeVeque 1983, Algorithms for Computing the Sample Variance; for the third and fourth:
    Pébay 2008, Formulas for Robust, One-Pass Parallel Computation of Covariances and Arbitrary-Order Statistical
    Moments, SAND2008-6212, (3.1).
    """
    nans, infinities = a.nans + b.nans, a.infinities + b.infinities
    if not a.count or not b.count:
        return dataclasses.replace(a if a.count else b, nans=nans, infinities=infinities)
    n = a.count + b.count
    delta = b.mean - a.mean
    share_a, share_b = a.count / n, b.count / n
    pairs = a.count * share_b
    second = a.second + b.second + delta**2 * pairs
    third = a.third + b.third + delta**3 * pairs * (share_a - share_b)
    third += 3 * delta * (share_a * b.second - share_b * a.second)
    fourth = a.fourth + b.fourth + delta**4 * pairs * (share_a**2 - share_a * share_b + share_b**2)
    fourth += 6 * delta**2 * (share_a**2 * b.second + share_b**2 * a.second)
    fourth += 4 * delta * (share_a * b.third - share_b * a.third)
    return Moments(
        count=n,
        mean=a.mean + delta * share_b,
        second=second,
        third=third,
        fourth=fourth,
        absolute=a.absolute + b.absolute,
        minimum=min(a.minimum, b.minimum),
        maximum=max(a.maximum, b.maximum),
        zeros=a.zeros + b.zeros,
        nans=nans,
        infinities=infinities,
    )


def streamed_moments(blocks: Iterable[np.ndarray]) -> Moments:
    """Return the moments of all blocks together."""
    return functools.reduce(merge, map(moments_of, blocks), Moments())
