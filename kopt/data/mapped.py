"""Arrays that lie in files, as tensors over the same memory: nothing is copied, the system reads pages as needed."""

import ctypes
import mmap
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import DataError

# TensorFlow's kernels abort the process on tensors that do not begin at a multiple of this.
_ALIGNMENT = 64


def is_mapped(array: Any) -> bool:
    """Tell whether the values of `array` lie in a memory-mapped file."""
    return isinstance(array, np.ndarray) and _mapping(array) is not None


def over_mapped(array: np.ndarray[Any, Any]) -> tuple[Any, int]:
    """Return a tensor over the memory of a mapped array, and the row of it at which the array begins.

    Where the array begins at an address that TensorFlow cannot take, e.g. after `mapped[3:]`, the tensor begins some
    rows before it, still inside the mapping. Nothing is read. TensorFlow never writes there: the tensor is an input.

    Args:
        array: C order, native byte order, at least one row.

    Raises:
        DataError: the layout would need a copy of the whole array in memory.
    """
    if not array.flags.c_contiguous or not array.dtype.isnative:
        raise _needs_copy(array, "is not in C order with the byte order of this machine")
    root = _mapping(array)
    assert root is not None  # for the type checker: the caller asked `is_mapped`
    row_bytes = array.nbytes // len(array)
    address = array.ctypes.data
    before = next(
        (rows for rows in range(_ALIGNMENT) if (address - rows * row_bytes) % _ALIGNMENT == 0),
        None,
    )
    if before is None or address - before * row_bytes < root.ctypes.data:
        raise _needs_copy(array, f"begins at an address that is no multiple of {_ALIGNMENT} bytes")
    # DLPack refuses memory that is marked read-only, so the same memory is described anew, unmarked.
    memory = (ctypes.c_char * (array.nbytes + before * row_bytes)).from_address(address - before * row_bytes)
    memory.keep_alive = array  # type: ignore[attr-defined]
    buffer: Any = memory
    rows = np.frombuffer(buffer, array.dtype).reshape(len(array) + before, *array.shape[1:])
    return tf.experimental.dlpack.from_dlpack(rows.__dlpack__()), before


def _mapping(array: Any) -> np.ndarray[Any, Any] | None:
    """Return the outermost array over the mapping that `array` is a view of, or `None` if there is no mapping."""
    while isinstance(array, np.ndarray):
        if isinstance(array.base, mmap.mmap):
            return array
        array = array.base
    return None


def _needs_copy(array: np.ndarray[Any, Any], why: str) -> DataError:
    return DataError(
        f"The memory-mapped array of shape {array.shape} and type {array.dtype.str} {why}, so it cannot be used where "
        f"it lies. Write it once more with `np.save(path, array)` and open that with `np.load(path, mmap_mode='r')`, "
        f"or read it into memory: `np.array(array, order='C')`."
    )
