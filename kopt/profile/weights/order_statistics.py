"""Exact percentiles of arrays of any size in bounded memory, by counting the leading bits of their entries.

Bits of a number can be arranged so that they order like the number: of a float those of the magnitude after the sign,
all turned over for negative ones. Counting how often each value of the first 16 bits occurs tells in which of 65,536
ranges an entry of a given rank lies; one more pass counts the next 16 bits within those ranges. A float32 needs two
passes, a float16 one. This is the selection by distributive partitioning of Knuth's digital sorting (The Art of
Computer Programming, volume 3, 5.2.5), most significant digit first.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from kopt.core.blocks import flat_blocks, is_float

_DIGIT = 16
_DIGITS = 1 << _DIGIT
# Up to this many entries sorting a copy is quicker than the tables of counts.
_SORTED = 1 << 20


def exact_percentiles(values: np.ndarray, percentiles: Sequence[float], count: int) -> list[float]:
    """Return percentiles of the finite entries of `values`, with linear interpolation like `numpy.percentile`.

    Args:
        values: contiguous, of any real dtype.
        percentiles: in [0, 100].
        count: finite entries in `values`.
    """
    if not count:
        return [math.nan] * len(percentiles)
    places = [percentile / 100 * (count - 1) for percentile in percentiles]
    lower = [math.floor(place) for place in places]
    ranks = sorted({rank for low in lower for rank in (low, min(low + 1, count - 1))})
    entries = _sorted_entries if values.size <= _SORTED else _counted_entries
    found = dict(zip(ranks, entries(values, ranks), strict=True))
    return [
        _interpolated(found[low], found[min(low + 1, count - 1)], place - low)
        for low, place in zip(lower, places, strict=True)
    ]


def _interpolated(low: float, high: float, part: float) -> float:
    return low if low == high else low * (1 - part) + high * part


def _sorted_entries(values: np.ndarray, ranks: Sequence[int]) -> list[float]:
    """Return the entries at `ranks` (from 0, ascending) among the finite entries, by sorting them."""
    entries = values.reshape(-1).astype(np.float64)
    entries = np.sort(entries[np.isfinite(entries)])
    return [float(entries[rank]) for rank in ranks]


def _counted_entries(values: np.ndarray, ranks: Sequence[int]) -> list[float]:
    """Return the same by counting."""
    bits = 8 * _counted_dtype(values).itemsize
    counts = np.zeros(_DIGITS, np.int64)
    for keys in _keys(values):
        counts += np.bincount(keys >> keys.dtype.type(bits - _DIGIT), minlength=_DIGITS)
    first, rests = _descend(counts[None], np.zeros(len(ranks), np.intp), np.array(ranks))
    prefixes = first.astype(np.uint64)
    wanted = np.zeros(_DIGITS, bool)
    wanted[first] = True
    for shift in range(bits - 2 * _DIGIT, -1, -_DIGIT):
        distinct, slots = np.unique(prefixes, return_inverse=True)
        counts = _counts_below(values, distinct, wanted, bits, shift)
        digits, rests = _descend(counts, slots, rests)
        prefixes = (prefixes << np.uint64(_DIGIT)) | digits.astype(np.uint64)
    return [float(entry) for entry in _entries(prefixes, _counted_dtype(values))]


def _counts_below(values: np.ndarray, prefixes: np.ndarray, wanted: np.ndarray, bits: int, shift: int) -> np.ndarray:
    """Count the digit at `shift` of the entries that begin with each of the sorted `prefixes`."""
    counts = np.zeros(len(prefixes) * _DIGITS, np.int64)
    for keys in _keys(values):
        # Most entries are not near any percentile, and one look at a table drops them.
        near = keys[wanted[keys >> keys.dtype.type(bits - _DIGIT)]].astype(np.uint64)
        above = near >> np.uint64(shift + _DIGIT)
        slots = np.searchsorted(prefixes, above)
        hit = prefixes[np.minimum(slots, len(prefixes) - 1)] == above
        digits = (near[hit] >> np.uint64(shift)) & np.uint64(_DIGITS - 1)
        np.add.at(counts, slots[hit] * _DIGITS + digits.astype(np.intp), 1)
    return counts.reshape(len(prefixes), _DIGITS)


def _descend(counts: np.ndarray, slots: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each rank, the digit under which its entry stands and its rank among the entries there."""
    sums = np.cumsum(counts, axis=1)
    digits = np.array([np.searchsorted(sums[slot], rank, "right") for slot, rank in zip(slots, ranks, strict=True)])
    return digits, ranks - (sums[slots, digits] - counts[slots, digits])


def _counted_dtype(values: np.ndarray) -> np.dtype:
    """Return the dtype whose bits are counted: a one-byte dtype becomes the two-byte one that holds all its values."""
    if values.dtype.itemsize > 1:
        return values.dtype
    return np.dtype(np.float16 if is_float(values.dtype) else np.int16)


def _keys(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield blocks of unsigned integers that order like the finite entries."""
    dtype = _counted_dtype(values)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    sign = unsigned.type(1 << (8 * dtype.itemsize - 1))
    for part in flat_blocks(values):
        block = part.astype(dtype, copy=False)
        if is_float(dtype):
            finite = np.isfinite(block)
            block = block if finite.all() else block[finite]
            keys = block.view(unsigned)
            yield np.where(keys & sign, ~keys, keys | sign)
        else:
            keys = block.view(unsigned)
            yield keys ^ sign if dtype.kind == "i" else keys


def _entries(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the numbers whose keys these are."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    sign = unsigned.type(1 << (8 * dtype.itemsize - 1))
    keys = keys.astype(unsigned)
    if is_float(dtype):
        keys = np.where(keys & sign, keys ^ sign, ~keys)
    elif dtype.kind == "i":
        keys = keys ^ sign
    return keys.view(dtype).astype(np.float64)
