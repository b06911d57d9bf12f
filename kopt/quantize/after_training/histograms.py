"""What calibration saw of a tensor: its extremes in every example, and how its values are spread."""

import dataclasses

import numpy as np

BINS = 2048


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of one width.

    Attributes:
        low, high: ends of the first and the last bin.
        counts: of each bin, float64, so that shares of a bin can be counted.
    """

    low: float
    high: float
    counts: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """Ends of the bins, one more than there are bins."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    @property
    def centers(self) -> np.ndarray:
        """Middles of the bins."""
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2


def histogram_of(values: np.ndarray, bins: int = BINS) -> Histogram:
    """Return the histogram of values between the smallest and the largest of them."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    # In float32, bins of values that hardly differ have no width.
    counts, _ = np.histogram(values.astype(np.float64), bins=bins, range=(low, high))
    return Histogram(low, high, counts.astype(np.float64))


def merged(one: Histogram, other: Histogram) -> Histogram:
    """Return the histogram of both, over the range of both; the values of a bin count as spread evenly over it."""
    low, high = min(one.low, other.low), max(one.high, other.high)
    edges = np.linspace(low, high, len(one.counts) + 1)
    counts = sum(np.diff(np.interp(edges, part.edges, _cumulative(part))) for part in (one, other))
    return Histogram(low, high, np.asarray(counts))


def _cumulative(histogram: Histogram) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(histogram.counts)])


@dataclasses.dataclass(frozen=True)
class Observation:
    """What calibration saw of the tensors that share one range.

    Attributes:
        lows, highs: smallest and largest value of every example.
        histogram: of all values.
    """

    lows: np.ndarray
    highs: np.ndarray
    histogram: Histogram


def observation_of(tensor: np.ndarray, most: int) -> Observation:
    """Return what there is to see in a tensor of shape (examples, ...).

    Args:
        tensor: float32.
        most: entries, evenly spaced, that the histogram counts; the extremes are of all.
    """
    rows = tensor.reshape(len(tensor), -1)
    flat = tensor.reshape(-1)
    every = max(flat.size // most, 1)
    return Observation(rows.min(axis=1), rows.max(axis=1), histogram_of(flat[::every]))


def joined(one: Observation, other: Observation, *, same_examples: bool) -> Observation:
    """Return the observation of two tensors.

    Args:
        one: of the first.
        other: of the second.
        same_examples: both are of the same examples, so that an example's extremes are those of the two.
    """
    if same_examples:
        lows, highs = np.minimum(one.lows, other.lows), np.maximum(one.highs, other.highs)
    else:
        lows, highs = np.concatenate([one.lows, other.lows]), np.concatenate([one.highs, other.highs])
    return Observation(lows, highs, merged(one.histogram, other.histogram))
