"""The statistics of one variable, from all its entries or from a sample."""

import math

import numpy as np

from kopt.core.blocks import flat_blocks, is_float
from kopt.core.records.profiles.parameters import Histogram, ParameterSettings, StandardErrors, ValueStatistics
from kopt.profile.weights.moments import Moments, streamed_moments
from kopt.profile.weights.order_statistics import exact_percentiles
from kopt.profile.weights.sampling import sample_places, standard_errors


def full_statistics(values: np.ndarray, settings: ParameterSettings) -> ValueStatistics:
    """Return the statistics of all entries, in three passes (four for float64) that hold one block each.

    Moments and percentiles are exact up to rounding, at any size.
    """
    return _statistics(values, settings, values.size)


def sampled_statistics(values: np.ndarray, settings: ParameterSettings, rng: np.random.Generator) -> ValueStatistics:
    """Return the statistics of a random sample of `settings.sample` entries, with standard errors.

    A variable with at most twice as many entries is read in full.
    """
    if settings.sample is None or values.size <= 2 * settings.sample:
        return full_statistics(values, settings)
    part = values.reshape(-1)[sample_places(values.size, settings.sample, rng)]
    return _statistics(part, settings, values.size)


def _statistics(values: np.ndarray, settings: ParameterSettings, size: int) -> ValueStatistics:
    """Return the statistics of a variable of `size` entries of which `values` were read."""
    moments = streamed_moments(flat_blocks(values))
    near_zeros, histogram = _near_zeros_and_histogram(values, moments, settings)
    if moments.count:
        minimum, maximum = moments.minimum, moments.maximum
        std = math.sqrt(moments.second / moments.count * _correction(moments.count, size, values.size))
    else:
        minimum = maximum = std = math.nan
    return ValueStatistics(
        read=values.size,
        mean=moments.mean if moments.count else math.nan,
        std=std,
        skewness=_standardized(moments.third, moments, 3),
        excess_kurtosis=_standardized(moments.fourth, moments, 4) - 3,
        minimum=minimum,
        maximum=maximum,
        l1=moments.absolute * size / max(values.size, 1),
        l2=math.sqrt(moments.count * moments.mean_square * size / values.size) if moments.count else 0.0,
        zeros=moments.zeros,
        near_zeros=near_zeros,
        nans=moments.nans,
        infinities=moments.infinities,
        percentiles=dict(
            zip(
                (f"{q:g}" for q in settings.percentiles),
                exact_percentiles(values, settings.percentiles, moments.count),
                strict=True,
            )
        ),
        histogram=histogram,
        errors=None if size == values.size else _errors(values, moments, near_zeros, settings, size),
    )


def _correction(count: int, size: int, read: int) -> float:
    """Return what makes the variance of a sample an unbiased estimate of that of the whole (which divides by N)."""
    return 1.0 if read == size or count < 2 else count / (count - 1) * (size - 1) / size


def _standardized(power_sum: float, moments: Moments, power: int) -> float:
    if not moments.count or not moments.second:
        return math.nan
    return power_sum / moments.count / (moments.second / moments.count) ** (power / 2)


def _near_zeros_and_histogram(
    values: np.ndarray, moments: Moments, settings: ParameterSettings
) -> tuple[int, Histogram]:
    if not moments.count:
        return 0, Histogram((), ())
    threshold = settings.near_zero * math.sqrt(moments.mean_square)
    edges = histogram_edges(moments.minimum, moments.maximum, settings.bins)
    near_zeros, counts = 0, np.zeros(len(edges) - 1, np.int64)
    for part in flat_blocks(values):
        block = part.astype(np.float64)
        if is_float(values.dtype) and (moments.nans or moments.infinities):
            block = block[np.isfinite(block)]
        near_zeros += int(np.count_nonzero(np.abs(block) <= threshold))
        counts += np.histogram(block, bins=len(counts), range=(edges[0], edges[-1]))[0]
    return near_zeros, Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def histogram_edges(minimum: float, maximum: float, bins: int) -> np.ndarray:
    """Return the edges of `bins` equal bins, or of a single one where the numbers between are too few to tell apart."""
    if minimum == maximum:
        margin = max(0.5, abs(minimum) * 1e-6)
        return np.array([minimum - margin, minimum + margin])
    edges = np.linspace(minimum, maximum, bins + 1)
    return edges if (np.diff(edges) > 0).all() else np.array([minimum, maximum])


def _errors(
    values: np.ndarray, moments: Moments, near_zeros: int, settings: ParameterSettings, size: int
) -> StandardErrors:
    ordered = np.sort(values.astype(np.float64))
    ordered = ordered[np.isfinite(ordered)]
    return standard_errors(moments, near_zeros, ordered, settings.percentiles, size)
