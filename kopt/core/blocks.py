"""Large arrays in pieces, so that what is worked out of them needs memory for one piece only."""

from collections.abc import Iterator
from typing import Any

import numpy as np

# Entries. In float64 a piece fits the second-level cache, which makes several passes over it cheap.
BLOCK = 1 << 16


def flat_blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the entries of `values`, which is contiguous, as flat views of `BLOCK` entries, the last one shorter."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype has NaN, also one of `ml_dtypes` such as `bfloat16`, whose kind is `"V"`."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def is_number(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype is real: boolean, integer or floating, also one of `ml_dtypes`."""
    return dtype.kind in "biuf" or (dtype.kind == "V" and ("float" in dtype.name or "int" in dtype.name))
