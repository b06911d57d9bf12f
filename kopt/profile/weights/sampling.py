"""A random part of the entries of a variable, and the standard errors of what is estimated from it."""

import math
from collections.abc import Sequence

import numpy as np

from kopt.core.records.profiles.parameters import StandardErrors
from kopt.profile.weights.moments import Moments


def sample_places(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` different places in `range(size)`, ascending; every set of places is equally likely.

    Places are drawn until enough different ones are there, which needs memory for the sample only, not for the
    population; `count` must be at most half of `size`, else it would take long.
    """
    places = rng.integers(size, size=count)
    while True:
        _, first = np.unique(places, return_index=True)
        if first.size >= count:
            return np.sort(places[np.sort(first)[:count]])
        places = np.concatenate([places[np.sort(first)], rng.integers(size, size=2 * (count - first.size))])


def standard_errors(
    sample: Moments, near_zeros: int, ordered: np.ndarray, percentiles: Sequence[float], size: int
) -> StandardErrors:
    """Return the standard errors of statistics of a simple random sample without replacement.

    With n entries of N read, the error of a mean of anything is its standard deviation times
    `sqrt((N - n) / ((N - 1) n))`. The norms and the standard deviation are functions of means (of `|x|`, `x^2` and
    `(x - mean)^2`), so their errors follow by the derivative. A fraction p has the deviation `sqrt(p (1 - p))`, with
    one hit and one miss added to the counts, so that none in the sample does not mean none for sure. A percentile's
    error is half the distance of the sample percentiles one error of its rank above and below.

    Args:
        sample: moments of the entries that were read.
        near_zeros: how many of those are near zero.
        ordered: those that are finite, ascending.
        percentiles: in [0, 100].
        size: of the whole variable.

    Source: Cochran 1977, Sampling Techniques, (2.20) and 3.2; for percentiles: Woodruff 1952, Confidence Intervals for
    Medians and Other Position Measures, JASA 47.
    """
    n = sample.count
    factor = math.sqrt(max(size - n, 0) / (max(size - 1, 1) * n)) if n else math.nan
    scale = size * n / max(n + sample.nans + sample.infinities, 1)  # Finite entries of the whole, as estimated.
    variance = sample.second / n if n else math.nan
    square, fourth = sample.mean_square, sample.mean_fourth_power
    l2 = math.sqrt(scale * square)
    spread = math.sqrt(max(sample.fourth / n - variance**2, 0.0)) if n else math.nan
    return StandardErrors(
        mean=factor * math.sqrt(variance),
        std=factor * spread / (2 * math.sqrt(variance)) if variance else 0.0,
        l1=scale * factor * math.sqrt(max(square - (sample.absolute / n) ** 2, 0.0)) if n else math.nan,
        l2=scale * factor * math.sqrt(max(fourth - square**2, 0.0)) / (2 * l2) if l2 else 0.0,
        zero_fraction=factor * _deviation(sample.zeros, n),
        near_zero_fraction=factor * _deviation(near_zeros, n),
        percentiles={f"{q:g}": _percentile_error(ordered, q / 100, factor) for q in percentiles},
    )


def _deviation(hits: int, count: int) -> float:
    share = (hits + 1) / (count + 2)
    return math.sqrt(share * (1 - share))


def _percentile_error(ordered: np.ndarray, fraction: float, factor: float) -> float:
    if not ordered.size:
        return math.nan
    distance = factor * math.sqrt(fraction * (1 - fraction))
    low, high = np.quantile(ordered, (max(fraction - distance, 0.0), min(fraction + distance, 1.0)))
    return float(high - low) / 2
