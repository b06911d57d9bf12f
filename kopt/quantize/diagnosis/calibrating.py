"""Ranges as the converter's default finds them: the smallest and the largest value of the float model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kopt.quantize.diagnosis.tracing import RoundedTrace
from kopt.quantize.few_examples import widened
from kopt.quantize.ranges import Quantizer

Rows = Sequence[np.ndarray]


class Batches:
    """Examples in batches of a size."""

    def __init__(self, arrays: Rows, size: int):
        self.arrays, self.size = list(arrays), size

    @property
    def examples(self) -> int:
        """How many there are."""
        return len(self.arrays[0])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        for begin in range(0, self.examples, self.size):
            yield [array[begin : begin + self.size] for array in self.arrays]


def find_extremes(trace: RoundedTrace, batches: Batches) -> np.ndarray:
    """Return the smallest and the largest value of every example at every operator, of the model without rounding.

    Returns:
        Array of shape `(operators, examples, 2)`.
    """
    outputs = [one.taken for one in trace.operators]
    function = trace.function(trace.inputs, outputs)
    found = [[_extremes(np.asarray(value)) for value in function(*batch)] for batch in batches]
    return np.concatenate(found, axis=1)


def set_ranges(trace: RoundedTrace, extremes: np.ndarray) -> None:
    """Give every quantizer the range of what was seen at its sites."""
    for one, values in zip(trace.operators, extremes, strict=True):
        quantizer, site = one.operator.quantizer, one.operator.site
        if isinstance(quantizer, Quantizer) and site >= 0:
            ranges, seen = np.array(quantizer.ranges), np.array(quantizer.seen)
            ranges[site], seen[site] = (values[:, 0].min(), values[:, 1].max()), -len(values)
            quantizer.ranges.assign(ranges)
            quantizer.seen.assign(seen)


def growth(extremes: np.ndarray) -> float:
    """Return by what share ranges widened from the first half of the examples to all, see `widened`."""
    return widened(*(_widths(extremes[:, :end]) for end in (max(extremes.shape[1] // 2, 1), None)))


def _widths(extremes: Any) -> np.ndarray:
    return np.maximum(extremes[..., 1].max(1), 0.0) - np.minimum(extremes[..., 0].min(1), 0.0)


def _extremes(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    return np.stack([flat.min(1), flat.max(1)], axis=1)
