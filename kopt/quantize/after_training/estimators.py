"""From what calibration saw of a tensor to the ends of its range: functions of arrays.

A range that holds every value has a coarse step if one value is far out; a narrower one clips that value and rounds the
others better. The estimators differ in where they put the balance.
"""

from collections.abc import Callable, Mapping

import numpy as np

from kopt.quantize.after_training.histograms import Histogram, Observation

MOMENTUM = 0.99
PERCENTILE = 99.99
# Shares of the whole range that are tried, the widest first, which is taken among equals.
_SHARES = np.linspace(1.0, 0.05, 96)
Ends = tuple[float, float]


def minmax(seen: Observation, levels: int) -> Ends:
    """Return the smallest and the largest value."""
    return float(seen.lows.min()), float(seen.highs.max())


def moving_average(seen: Observation, levels: int) -> Ends:
    """Return the moving averages of the smallest and largest value of the examples.

    The weight of an example is `MOMENTUM ** (examples after it)`, and weights are brought to a sum of 1, so that the
    first example weighs no more than the others.
    """
    weights = MOMENTUM ** np.arange(len(seen.lows))[::-1]
    return float(np.average(seen.lows, weights=weights)), float(np.average(seen.highs, weights=weights))


def percentile(seen: Observation, levels: int) -> Ends:
    """Return the percentiles `100 - PERCENTILE` and `PERCENTILE` of the values."""
    below = np.concatenate([[0.0], np.cumsum(seen.histogram.counts)]) / seen.histogram.counts.sum()
    outside = 1.0 - PERCENTILE / 100.0
    low, high = np.interp([outside, 1.0 - outside], below, seen.histogram.edges)
    return float(low), float(high)


def mse(seen: Observation, levels: int) -> Ends:
    """Return the part of the range, both ends shortened by one share, whose grid has the least squared error."""
    low, high = _with_zero(seen.histogram)
    errors = [_squared_error(seen.histogram, share * low, share * high, levels) for share in _SHARES]
    share = _SHARES[int(np.argmin(errors))]
    return float(share * low), float(share * high)


def entropy(seen: Observation, levels: int) -> Ends:
    """Return the part of the range whose grid keeps most of the distribution: least Kullback-Leibler divergence.

    Zeros, of which a ReLU makes many and which every grid holds exactly, count as their neighbours do. Of 16 bits there
    are more steps than the histogram has bins: the range stays whole.

    Source: Migacz, "8-bit Inference with TensorRT", 2017.
    """
    low, high = _with_zero(seen.histogram)
    histogram = _without_zeros(seen.histogram)
    losses = [_divergence(histogram, share * low, share * high, levels) for share in _SHARES]
    share = _SHARES[int(np.argmin(losses))]
    return float(share * low), float(share * high)


ESTIMATORS: Mapping[str, Callable[[Observation, int], Ends]] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def _with_zero(histogram: Histogram) -> Ends:
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def _without_zeros(histogram: Histogram) -> Histogram:
    """Return the histogram with as many values in the bin of 0 as in the fuller one beside it."""
    counts, width = histogram.counts.copy(), (histogram.high - histogram.low) / len(histogram.counts)
    at = int(np.clip(-histogram.low // width, 0, len(counts) - 1))
    beside = [counts[number] for number in (at - 1, at + 1) if 0 <= number < len(counts)]
    if histogram.low <= 0 <= histogram.high:
        counts[at] = min(counts[at], max(beside))
    return Histogram(histogram.low, histogram.high, counts)


def _squared_error(histogram: Histogram, low: float, high: float, levels: int) -> float:
    """Return the sum of squared errors of the bins' middles on the grid from `low` to `high`."""
    step = max((high - low) / (levels - 1), np.finfo(np.float32).tiny)
    zero = np.rint(-low / step)
    integers = np.clip(np.rint(histogram.centers / step) + zero, 0, levels - 1)
    return float(histogram.counts @ np.square((integers - zero) * step - histogram.centers))


def _divergence(histogram: Histogram, low: float, high: float, levels: int) -> float:
    """Return how much of the distribution is lost between `low` and `high` in `levels` steps, in nats.

    Values outside are counted at the ends of the first distribution and are missing in the second, which has the mean
    of a step wherever the first has values. Fewer bins than steps cannot tell what the steps lose: infinite.
    """
    inside = (histogram.centers >= low) & (histogram.centers <= high)
    kept = histogram.counts[inside]
    if len(kept) < levels or kept.sum() == 0:
        return np.inf
    true = kept.copy()
    true[0] += histogram.counts[histogram.centers < low].sum()
    true[-1] += histogram.counts[histogram.centers > high].sum()
    step = (np.arange(len(kept)) * levels) // len(kept)
    filled = kept > 0
    sums = np.bincount(step, weights=kept)
    coarse = np.where(filled, sums[step] / np.maximum(np.bincount(step, weights=filled), 1.0)[step], 0.0)
    true, coarse = true / true.sum(), coarse / coarse.sum()
    both = (true > 0) & (coarse > 0)
    # A value whose step lies empty in the second costs as if one in a million were there.
    lost = true[(true > 0) & (coarse == 0)]
    return float(np.sum(true[both] * np.log(true[both] / coarse[both])) + np.sum(lost * np.log(lost / 1e-6)))
