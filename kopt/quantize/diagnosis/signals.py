"""Signal and noise of one tensor over all examples: pure functions of arrays, and their sums over batches."""

import dataclasses
import math

import numpy as np

from kopt.quantize.grids import Grid

# Parts of a range in which values are counted: one for each integer of 8 bits.
PARTS = 256
# The share of values that counts as the middle of a distribution.
MIDDLE = 0.999


def decibels(signal: float, noise: float) -> float:
    """Return `10 * log10(signal / noise)` of two sums of squares; infinity for no noise, 0 for nothing at all."""
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def power(x: np.ndarray) -> float:
    """Return the sum of squares."""
    return float(np.sum(np.square(x), dtype=np.float64))


def integers_of(x: np.ndarray, grid: Grid) -> np.ndarray:
    """Return which value of the grid each entry of `x` is rounded to, counted from the lowest as 0."""
    return np.floor((np.clip(x, grid.low, grid.high) - grid.low) / grid.scale + 0.5).astype(np.int64)


def outside(x: np.ndarray, grid: Grid) -> int:
    """Return how many entries are further than half a step outside the grid."""
    return int(np.count_nonzero((x < grid.low - grid.scale / 2) | (x > grid.high + grid.scale / 2)))


def middle_share(counts: np.ndarray) -> float:
    """Return the share of the parts of a range that holds the middle 99.9 % of the values counted in them."""
    total = counts.sum()
    if total == 0:
        return 0.0
    reached = np.cumsum(counts)
    tail = total * (1.0 - MIDDLE) / 2
    first = int(np.searchsorted(reached, tail, side="right"))
    last = int(np.searchsorted(reached, total - tail, side="left"))
    return (last - first + 1) / len(counts)


def spread(widths: np.ndarray) -> float:
    """Return the largest over the smallest of the widths that are not 0, a tenth of them left out; 1 for none.

    Of many channels a few are always almost dead, and nobody misses them.
    """
    found = np.sort(widths[widths > 0])
    return float(found[-1] / found[len(found) // 10]) if found.size else 1.0


@dataclasses.dataclass(eq=False)
class Signal:
    """What is known of one tensor.

    Attributes:
        grid: that it is rounded to.
        power: sum of squares of the float values.
        noise: sums of squares of errors by their name.
        counts: of values in equal parts of the range.
        outside: how many values lie outside it.
        size: how many values there are.
        lowest, highest: by channel, along the last axis.
    """

    grid: Grid
    power: float = 0.0
    outside: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        self.noise: dict[str, float] = {}
        self.counts = np.zeros(PARTS, np.int64)
        self.lowest: np.ndarray | None = None
        self.highest: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Take up the float values of a batch and the error of rounding them."""
        integers = integers_of(values, self.grid)
        rounded = (self.grid.low + integers * self.grid.scale).astype(np.float32)
        steps = round((self.grid.high - self.grid.low) / self.grid.scale) + 1
        self.power += power(values)
        self.add_noise("rounding", values, rounded)
        self.counts += np.bincount((integers * PARTS // steps).ravel(), minlength=PARTS)
        self.outside += outside(values, self.grid)
        self.size += values.size
        flat = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
        low, high = flat.min(0), flat.max(0)
        self.lowest = low if self.lowest is None else np.minimum(self.lowest, low)
        self.highest = high if self.highest is None else np.maximum(self.highest, high)

    def add_noise(self, name: str, values: np.ndarray, disturbed: np.ndarray) -> None:
        """Take up the error of a batch under a name."""
        self.noise[name] = self.noise.get(name, 0.0) + power(disturbed - values)

    def decibels(self, name: str) -> float:
        """Return the signal-to-quantization-noise ratio for the noise of a name."""
        return decibels(self.power, self.noise[name])

    @property
    def dead(self) -> int:
        """How many channels give one number for all examples."""
        return int(np.count_nonzero(self._highest == self._lowest))

    @property
    def spread(self) -> float:
        """Largest over smallest magnitude of a channel, see `spread`; dead ones left out."""
        alive = self._highest != self._lowest
        return spread(np.maximum(np.abs(self._lowest), np.abs(self._highest))[alive])

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self._lowest)

    @property
    def _lowest(self) -> np.ndarray:
        return np.zeros(0) if self.lowest is None else self.lowest

    @property
    def _highest(self) -> np.ndarray:
        return np.zeros(0) if self.highest is None else self.highest
