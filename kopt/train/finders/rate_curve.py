"""The losses of a learning-rate range test as pure functions of arrays: smoothing, the end, and what rate they suggest.

`rates` grow by the same factor from step to step, so indices are even steps in `log(rate)`.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Noise alone fell so far in none of 1,000 tests of 100 steps with smoothing 0.8, be it normal or uniform.
_LEAST_FALL = 5.0
# Of a float32 loss, with room for the sums behind it.
_RESOLUTION = 1e-6


def growing_rates(min_rate: float, max_rate: float, steps: int) -> Array:
    """Return `min_rate * (max_rate / min_rate) ** (i / (steps - 1))` for `i` from 0 to `steps - 1`."""
    return np.geomspace(min_rate, max_rate, steps)


def smoothed(losses: Array, smoothing: float) -> Array:
    """Return `sum_j w_ij capped_j / sum_j w_ij` with `w_ij = smoothing ** |i - j|`.

    Unlike a running average it looks both ways, so that it does not move the curve towards higher rates. `capped` are
    the losses, but none above the highest of the first tenth (`start_of`): how far the loss shoots up at the end says
    nothing about the rates before it.
    """
    steps = np.arange(len(losses))
    weights = smoothing ** np.abs(steps[:, None] - steps[None, :]).astype(np.float64)
    capped = np.minimum(losses, start_of(losses).max())
    return weights @ capped / weights.sum(axis=1)


def start_of(losses: Array) -> Array:
    """Return the first tenth of the losses, at least 3, where the rate is too low to change them."""
    return losses[: max(3, len(losses) // 10)]


class Divergence:
    """Says, loss by loss, whether a range test has gone too far.

    `m_i = smoothing * m_(i-1) + (1 - smoothing) * loss_i` from `m_(-1) = 0`, divided by `1 - smoothing ** (i + 1)`, is
    the running average; the test ends where it exceeds its lowest value by `(stop_factor - 1)` times that value. Where
    the lowest value is not positive, its distance from the first loss stands in.
    """

    def __init__(self, smoothing: float, stop_factor: float):
        self._smoothing, self._stop_factor = smoothing, stop_factor
        self._sum, self._weight = 0.0, 0.0
        self._first: float | None = None
        self._lowest = np.inf

    def add(self, loss: float) -> bool:
        """Take the next loss and return whether to stop."""
        self._sum = self._smoothing * self._sum + (1 - self._smoothing) * loss
        self._weight = self._smoothing * self._weight + (1 - self._smoothing)
        average = self._sum / self._weight
        self._first = loss if self._first is None else self._first
        self._lowest = min(self._lowest, average)
        scale = self._lowest if self._lowest > 0 else max(self._first - self._lowest, abs(self._lowest))
        return bool(average > self._lowest + (self._stop_factor - 1) * scale)


def falls(losses: Array, smoothing: float) -> bool:
    """Return whether the loss falls by more than chance.

    It must fall from the mean of its first tenth to the lowest smoothed value by 5 standard errors of that difference.
    The noise of a loss is the standard deviation of the differences between neighbors, up to the lowest point, divided
    by `sqrt(2)`; the mean of `n` losses has an error of noise / sqrt(n), and the smoothed value is a mean of
    `(1 + s)^3 / ((1 - s) (1 + s^2))` of them, `s = smoothing`.
    """
    start = start_of(losses)
    curve = smoothed(losses, smoothing)
    lowest = int(np.argmin(curve))
    if lowest < len(start):
        return False
    noise = np.std(np.diff(losses[: lowest + 1])) / np.sqrt(2)
    averaged = (1 + smoothing) ** 3 / ((1 - smoothing) * (1 + smoothing**2))
    fall = np.mean(start) - curve[lowest]
    error = noise * np.sqrt(1 / len(start) + 1 / averaged)
    return bool(fall > max(_LEAST_FALL * error, _RESOLUTION * abs(np.mean(start))))


def steepest(rates: Array, curve: Array) -> float:
    """Return the rate where the loss falls fastest: the least `d curve / d log(rate)` up to the lowest point.

    Derivatives are central differences, one-sided at the ends (Smith 2017, as read off by fast.ai's "steep").
    """
    end = max(2, int(np.argmin(curve)) + 1)
    return float(rates[np.argmin(np.gradient(curve, np.log(rates))[:end])])


def minimum(rates: Array, curve: Array) -> float:
    """Return a tenth of the rate with the lowest loss: at the lowest point itself training is about to diverge."""
    return float(rates[np.argmin(curve)] / 10)


def valley(rates: Array, curve: Array) -> float:
    """Return the rate in the middle of the longest fall.

    The longest strictly falling subsequence of `curve` has `n` points and ends at index `b`; the suggestion is the rate
    at index `b - n // 2`. Bumps interrupt a subsequence without ending it (fast.ai's "valley").
    """
    lengths = np.ones(len(curve), dtype=np.int64)
    for i in range(1, len(curve)):
        before = lengths[:i][curve[:i] > curve[i]]
        lengths[i] = 1 + (before.max() if before.size else 0)
    end = int(np.argmax(lengths))
    return float(rates[end - int(lengths[end]) // 2])
