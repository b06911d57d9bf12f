"""Sizes that the pipelines over files have in common: batches, and the window of a shuffle."""

from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, DataError

_WINDOW_BYTES = 256 << 20


def shuffle_window(count: int, example_bytes: int, *, in_memory: bool) -> int:
    """Return how many examples a shuffle buffer holds: what fits into 256 MB.

    All of them behind a cache in memory, because the buffer then holds the cache's own tensors.
    """
    return count if in_memory else min(count, max(1, _WINDOW_BYTES // max(1, example_bytes)))


def check_batch_size(batch_size: Any) -> None:
    """Refuse what is no whole number of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ConfigError(f"`batch_size` must be a whole number of at least 1. Received: {batch_size!r}.")


def check_fills_a_batch(count: int, batch_size: int, drop_remainder: bool) -> None:
    """Refuse to drop a remainder that is all there is."""
    if drop_remainder and count < batch_size:
        raise DataError(
            f"{count} examples do not fill one batch of {batch_size} and `drop_remainder` drops the rest. Use "
            f"`batch_size` <= {count} or `drop_remainder=False`."
        )


def batches_of(count: int, batch_size: int, drop_remainder: bool) -> int:
    """Return the number of batches in an epoch."""
    return count // batch_size if drop_remainder else -(-count // batch_size)
