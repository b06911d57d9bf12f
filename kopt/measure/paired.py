"""Statistics of paired values: pure functions of arrays.

`differences` are always `b - a` on the same example, one number a pair.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used

from kopt.report.parts.statistics import paired_interval

# With fewer pairs a bootstrap resamples too few values; all signs of the differences can be gone through instead.
FEW = 20
# With fewer examples that only one of two models gets right, 95 % bootstrap intervals of their accuracies leave out
# the truth in up to 14 % of all cases (simulated), because the few can all be on one side by chance.
FEW_DISCORDANT = 20
_BLOCK = 1 << 22  # Entries that are resampled at once.
_MOST_VALUES = 64


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def bca_interval(differences: np.ndarray, level: float, resamples: int, seed: int) -> Interval:
    """Return the bias-corrected and accelerated bootstrap interval of the mean.

    Args:
        differences: shape (n,), at least two of them different.
        level: e.g. 0.95.
        resamples: how often n values are drawn with replacement.
        seed: of the draws.

    Source: B. Efron, "Better bootstrap confidence intervals", JASA 82 (1987). The acceleration of a mean has a closed
    form, because leaving one value out moves the mean by a known amount.
    """
    means = np.sort(_resampled_means(differences, resamples, np.random.default_rng(seed)))
    mean = differences.mean()
    centered = differences - mean
    below = (np.searchsorted(means, mean, "left") + np.searchsorted(means, mean, "right")) / (2 * resamples)
    bias = scipy.special.ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    acceleration = (centered**3).sum() / (6 * (centered**2).sum() ** 1.5)
    ends = bias + scipy.special.ndtri([(1 - level) / 2, (1 + level) / 2])
    shares = scipy.special.ndtr(bias + ends / (1 - acceleration * ends))
    low, high = np.quantile(means, shares)
    return Interval(float(low), float(high))


def t_interval(differences: np.ndarray, level: float) -> Interval:
    """Return the interval of the mean by Student's t distribution, for few pairs."""
    half = scipy.stats.t.ppf((1 + level) / 2, len(differences) - 1) * standard_error(differences)
    return Interval(float(differences.mean() - half), float(differences.mean() + half))


def fractions_interval(only_a: int, only_b: int, pairs: int, level: float) -> Interval:
    """Return the interval of `b - a`, fractions of right answers, that stays sound where few answers differ.

    Args:
        only_a: examples that only `a` gets right.
        only_b: examples that only `b` gets right.
        pairs: all examples.
        level: e.g. 0.95.

    Source: see `kopt.report.parts.statistics.paired_interval`.
    """
    z = float(scipy.special.ndtri((1 + level) / 2))
    low, high = paired_interval((only_b - only_a) / pairs, (only_a + only_b) / pairs, pairs, z=z)
    return Interval(max(low, -1.0), min(high, 1.0))


def jackknife_interval(value: float, left_out: np.ndarray, level: float) -> Interval:
    """Return the interval of a number that is no mean over examples, such as an AUC, or of a difference of two.

    The examples are divided into groups at random, and the number is worked out without each group in turn: how much
    it moves tells how much it would move with other examples.

    Args:
        value: of all examples.
        left_out: of all but one group, shape (groups,), at least two groups of equal size.
        level: e.g. 0.95.

    Source: P. S. Kott, "The delete-a-group jackknife", J. Official Statistics 17 (2001): variance
    `(g - 1) / g * sum((left_out - mean) ** 2)` and Student's t with g - 1 degrees of freedom.
    """
    groups = len(left_out)
    error = math.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum())
    half = float(scipy.stats.t.ppf((1 + level) / 2, groups - 1)) * error
    return Interval(value - half, value + half)


def median_interval(values: np.ndarray, level: float) -> Interval:
    """Return an interval of the median between two order statistics, which holds for any distribution.

    The number of values below the median is binomial. At few values the interval is the whole range, whose level is
    then lower than asked for: `1 - 2 ** (1 - n)`.
    """
    ordered = np.sort(values)
    place = int(scipy.stats.binom.ppf((1 - level) / 2, len(values), 0.5))
    low = max(place - 1, 0)
    return Interval(float(ordered[low]), float(ordered[len(values) - 1 - low]))


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the exact two-sided p-value of no difference: the share of all 2^n signs whose mean is as far from 0.

    Source: R. A. Fisher, "The Design of Experiments", 1935, section 21.

    Args:
        differences: shape (n,), n below `FEW`.
    """
    sums = np.zeros(1)
    for size in np.abs(differences):
        sums = np.concatenate([sums - size, sums + size])
    reached = abs(differences.sum())
    return float(np.mean(np.abs(sums) >= reached * (1 - 1e-12)))


def t_test_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of the paired t test."""
    error = standard_error(differences)
    if error == 0.0:
        return 1.0 if differences.mean() == 0.0 else 0.0
    return float(2 * scipy.stats.t.sf(abs(differences.mean()) / error, len(differences) - 1))


def sign_test_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a median of 0: how often the signs would be so uneven. Zeros do not count."""
    up, down = int((differences > 0).sum()), int((differences < 0).sum())
    return float(scipy.stats.binomtest(up, up + down, 0.5).pvalue) if up + down else 1.0


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Return the mid-p value of McNemar's test on the examples that only one of two models gets right.

    If the models were equally good, each such example would be one of `a` or of `b` by a throw of a coin. The exact
    test is conservative, because it counts the observed split in full; the mid-p value counts half of it.

    Source: Fagerland, Lydersen, Laake, "The McNemar test for binary matched-pairs data", BMC Med. Res. Methodol. 13
    (2013).
    """
    total = only_a + only_b
    if only_a == only_b:
        return 1.0
    few = min(only_a, only_b)
    exact = 2 * scipy.stats.binom.cdf(few, total, 0.5)
    return float(exact - scipy.stats.binom.pmf(few, total, 0.5))


def error_of(interval: Interval, level: float) -> float:
    """Return the standard error of which a normal interval would be so wide."""
    return float((interval.high - interval.low) / (2 * scipy.special.ndtri((1 + level) / 2)))


def standard_error(differences: np.ndarray) -> float:
    """Return that of the mean."""
    return float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _resampled_means(values: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _MOST_VALUES:  # Right and wrong answers differ by -1, 0 or 1: only how often is drawn.
        drawn = generator.multinomial(len(values), counts / len(values), size=resamples)
        return drawn @ distinct / len(values)
    rows = max(1, _BLOCK // len(values))
    parts = [
        values[generator.integers(0, len(values), (min(rows, resamples - start), len(values)))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(parts)
