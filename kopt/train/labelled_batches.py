"""Batches with targets, for those who look at losses without training."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError


def labelled_batches(data: Any, batch_size: int) -> Iterator[tuple[Any, Any, Any]]:
    """Yield `(x, y, sample_weight)` as tensors; see `labelled_dataset`."""
    return map(keras.utils.unpack_x_y_sample_weight, labelled_dataset(data, batch_size))


def labelled_dataset(data: Any, batch_size: int, *, shuffle_seed: int | None = None) -> tf.data.Dataset:
    """Return batches with targets.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, or a `tf.data.Dataset` of such batches: itself.
        batch_size: of arrays.
        shuffle_seed: shuffles arrays, anew every epoch; `None` leaves their order.

    Raises:
        ConfigError: a tuple of another length.
        DataError: inputs and targets differ in length, or something else is given.
    """
    if isinstance(data, (tuple, list)):
        if len(data) not in (2, 3):
            raise ConfigError(f"`data` is (x, y) or (x, y, sample_weight), or a data set. Received {len(data)} parts.")
        arrays = tuple(map(_arrays, data))
        lengths = {len(array) for array in tf.nest.flatten(arrays)}
        if len(lengths) != 1:
            raise DataError(f"Inputs and targets must have as many examples. Received: {sorted(lengths)}.")
        data = tf.data.Dataset.from_tensor_slices(arrays)
        if shuffle_seed is not None:
            data = data.shuffle(max(lengths), seed=shuffle_seed)
        data = data.batch(batch_size)
    if not isinstance(data, tf.data.Dataset):
        received = f"{type(data).__module__}.{type(data).__qualname__}"
        raise DataError(f"`data` must be (x, y) arrays or a tf.data.Dataset of batches. Received: {received}.")
    return data


def _arrays(part: Any) -> Any:
    """Return arrays in the structure of `part`, with tuples for lists, which TensorFlow would put together to one."""
    if isinstance(part, (list, tuple)) and any(np.ndim(one) for one in part):
        return tuple(map(_arrays, part))
    if isinstance(part, dict):
        return {name: _arrays(one) for name, one in part.items()}
    return _array(part)


def _array(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float64 else array  # As `fit` does.
