"""Means over examples and standard errors of paired differences, gathered batch by batch."""

import math

import numpy as np


class WeightedMean:
    """The weighted mean of one number an example, and its standard error.

    The error is that of a ratio of sums: `sqrt(n / (n - 1) * sum(w^2 (d - m)^2)) / sum(w)`; with equal weights it is
    the standard deviation over the square root of `n`.
    """

    def __init__(self) -> None:
        self.count = 0
        self._weights = self._sum = 0.0
        self._squares = np.zeros(3)

    def add(self, values: np.ndarray, weights: np.ndarray) -> None:
        """Take up a batch, both of shape `(examples,)`."""
        values, weights = values.astype(np.float64), weights.astype(np.float64)
        self.count += int(np.count_nonzero(weights))
        self._weights += float(weights.sum())
        # An example of weight 0 does not count, whatever its value.
        values = np.where(weights > 0, values, 0.0)
        self._sum += float(weights @ values)
        self._squares += [weights**2 @ values**2, weights**2 @ values, weights @ weights]

    @property
    def mean(self) -> float:
        """The mean; NaN without examples."""
        return self._sum / self._weights if self._weights else math.nan

    @property
    def error(self) -> float:
        """Its standard error; NaN below two examples."""
        if self.count < 2 or not math.isfinite(self.mean):
            return math.nan
        mean = self.mean
        square = float(self._squares @ [1.0, -2.0 * mean, mean**2])
        return math.sqrt(max(square, 0.0) * self.count / (self.count - 1)) / self._weights
