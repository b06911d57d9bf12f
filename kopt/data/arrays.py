"""Arrays in memory to a `tf.data` pipeline."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    batch_size: int,
    shuffle: bool = False,
    augment: Callable[..., Any] | None = None,
    cache: bool | str | os.PathLike[str] | None = None,
    drop_remainder: bool = False,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Return batches of arrays as a parallel, prefetched data set for `fit`, `evaluate` or a custom loop.

    Whole batches are gathered from the arrays inside the TensorFlow runtime, so that no Python runs while training.
    The arrays are copied into tensors once; a memory-mapped array is read into memory by that.

    Args:
        x: array, or a dict, tuple or list of arrays, one an input, all of the same length.
        y: targets in the same forms, or `None`.
        batch_size: examples in a batch, at least 1.
        shuffle: reorder all examples, anew every epoch.
        augment: maps a batch `(x, y)` to a batch `(x, y)` (`x` to `x` without targets), traced once and run in
            parallel. Stateful random operations in it do not repeat under `seed`.
        cache: `True` keeps the batches that `augment` made in memory, a path keeps them in files there. For a
            `augment` that is not random; not together with `shuffle`.
        drop_remainder: leave out a last batch that is not full, so that every batch has the same static shape.
        seed: makes the order the same in every run; epochs still differ from each other.

    Returns:
        `tf.data.Dataset` of `(x, y)`, or of `x` without targets; a tuple of inputs without targets comes as `(x,)`,
        because Keras reads a pair as inputs and targets.

    Raises:
        DataError: no examples, arrays of different lengths or of objects, or fewer than one full batch.
        ConfigError: an impossible `batch_size`, or `cache` together with `shuffle`.
    """
    _check_batch_size(batch_size)
    if cache and shuffle:
        raise ConfigError(
            "`cache` keeps finished batches, so `shuffle` would give the same order every epoch. Use one of the two."
        )
    elements = _elements(x, y)
    length = _length(elements)
    if drop_remainder and length < batch_size:
        raise DataError(
            f"{length} examples do not fill one batch of {batch_size} and `drop_remainder` drops the rest. "
            f"Use `batch_size` <= {length} or `drop_remainder=False`."
        )
    with tf.device("/cpu:0"):  # A data set larger than the accelerator's memory must still fit.
        tensors = tf.nest.map_structure(tf.constant, elements)
    dataset = tf.data.Dataset.range(length)
    if shuffle:
        dataset = dataset.shuffle(length, seed=seed, reshuffle_each_iteration=True)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    dataset = dataset.map(lambda rows: _rows(tensors, rows), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if augment is not None:
        dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if cache:
        dataset = dataset.cache("" if cache is True else os.fspath(cache))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _rows(tensors: Any, rows: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), tensors)


def _elements(x: Any, y: Any) -> Any:
    if y is not None:
        return _as_sequence(x), _as_sequence(y)
    return (_as_sequence(x),) if isinstance(x, (tuple, list)) else x


def _as_sequence(value: Any) -> Any:
    # tf.data turns a list into one stacked tensor; a tuple stays several.
    return tuple(value) if isinstance(value, list) else value


def _check_batch_size(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ConfigError(f"`batch_size` must be a whole number of at least 1. Received: {batch_size!r}.")


def _length(elements: Any) -> int:
    leaves = tf.nest.flatten(elements)
    for leaf in leaves:
        if not isinstance(leaf, (np.ndarray, tf.Tensor)) or len(leaf.shape) == 0:
            raise DataError(
                f"`x` and `y` must be arrays with examples along the first axis. Received: {type(leaf).__module__}."
                f"{type(leaf).__qualname__} {str(leaf)[:40]!r}. Convert it, e.g. `np.asarray(values)`."
            )
        if isinstance(leaf, np.ndarray) and leaf.dtype == object:
            raise DataError(
                f"An array of Python objects of shape {leaf.shape} cannot become a tensor. Bring all rows to one "
                f"shape and one numeric type, e.g. `np.stack(rows).astype('float32')`."
            )
    lengths = sorted({int(leaf.shape[0]) for leaf in leaves})
    if not lengths or lengths == [0]:
        raise DataError("There are no examples. Pass arrays with at least one row.")
    if len(lengths) > 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise DataError(
            f"All arrays must have the same number of examples. Received shapes {shapes}. "
            f"Check that inputs and targets come from the same rows."
        )
    return lengths[0]
