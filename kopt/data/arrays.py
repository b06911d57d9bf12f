"""Arrays, in memory or memory-mapped, to a `tf.data` pipeline."""

import hashlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.data.augmentation import Augmentation, apply_augment
from kopt.data.caching import apply_cache, function_fingerprint, remember_cache
from kopt.data.mapped import is_mapped, over_mapped
from kopt.data.seeds import epoch_seeds, permuted
from kopt.data.sharding import check_seed, sharded_by


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    batch_size: int,
    shuffle: bool = False,
    augment: Augmentation | Callable[..., Any] | None = None,
    cache: bool | str | os.PathLike[str] | None = None,
    drop_remainder: bool = False,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Return batches of arrays as a parallel, prefetched data set for `fit`, `evaluate` or a custom loop.

    Whole batches are gathered from the arrays inside the TensorFlow runtime, so that no Python runs while training.
    Arrays in memory are copied into tensors once. A memory-mapped array (`np.load(path, mmap_mode="r")`) is used where
    it lies and may be larger than memory: the system reads the pages of a batch when it is made and drops them when
    memory is short. Shuffled rows are then read in random order, which is slow on a spinning disk. Mapped text is
    copied as if it were in memory.

    `shuffle` costs no memory: row numbers go through a random permutation that is computed, not stored. Its order
    comes from `(seed, epoch)`, that of augmentation from `(seed, epoch, batch)`; an epoch is one iteration over the
    data set. `tf.train.Checkpoint(iterator=iter(dataset))` saves the position in a few KB, and a restored iterator
    goes on with the same batches and the same epochs after them.

    Args:
        x: array, of numbers or text, or a dict, tuple or list of arrays, one an input, all of the same length.
        y: targets in the same forms, or `None`.
        batch_size: examples in a batch, at least 1.
        shuffle: reorder all examples, anew every epoch.
        augment: a `kopt.data.Augmentation`, or any function that maps a batch `(x, y)` to a batch `(x, y)` (`x` to `x`
            without targets), traced once and run in parallel. Stateful random operations in a function of your own do
            not repeat under `seed`.
        cache: keeps the batches, as `kopt.data.plan_cache` takes it: `True` in memory, a directory on disk, `"auto"` by
            what fits. What your own function made is kept too, so it must not be random; an `Augmentation` is drawn
            after the cache. Not together with `shuffle`.
        drop_remainder: leave out a last batch that is not full, so that every batch has the same static shape.
        seed: makes the order the same in every run (with the same `tf.random.set_seed`, where that is called); epochs
            still differ from each other.

    Returns:
        `tf.data.Dataset` of `(x, y)`, or of `x` without targets; a tuple of inputs without targets comes as `(x,)`,
        because Keras reads a pair as inputs and targets. Under `tf.distribute` every worker takes its share of one
        common order.

    Raises:
        DataError: no examples, arrays of different lengths or of objects other than text, fewer than one full batch,
            or a mapped array in a layout that cannot be used where it lies.
        ConfigError: an impossible `batch_size`, `cache` together with `shuffle`, or `shuffle` without a `seed` where
            `TF_CONFIG` names several workers.

    Example:
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=100, shuffle=True, seed=0)
        >>> [len(y) for x, y in train]
        [100, 100, 100, 100, 100, 12]
        >>> history = model.fit(train, epochs=2, shuffle=False, verbose=0)  # the data set shuffles
    """
    _check_batch_size(batch_size)
    check_seed(seed, draws=shuffle or isinstance(augment, Augmentation))
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
    dataset = _row_numbers(length, batch_size, drop_remainder, seed if shuffle else None, shuffle)
    dataset = dataset.map(_gatherer(elements), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    own_function = None if isinstance(augment, Augmentation) else augment
    dataset = apply_augment(dataset, own_function, seed)
    size = sum(_bytes(leaf) for leaf in tf.nest.flatten(elements)) if own_function is None else None
    dataset, plan = apply_cache(
        dataset, cache, fingerprint=lambda: _fingerprint(elements, batch_size, own_function), size_bytes=size
    )
    if isinstance(augment, Augmentation):
        dataset = apply_augment(dataset, augment, seed)
    return remember_cache(sharded_by(dataset.prefetch(tf.data.AUTOTUNE)), plan)


def _row_numbers(
    length: int, batch_size: int, drop_remainder: bool, seed: int | None, shuffle: bool
) -> tf.data.Dataset:
    rows = tf.data.Dataset.range(length).batch(batch_size, drop_remainder=drop_remainder)
    if not shuffle:
        return rows

    def one_epoch(pair: Any) -> tf.data.Dataset:
        return rows.map(lambda index: permuted(index, pair, length))

    batches = int(rows.cardinality())
    return epoch_seeds(seed).flat_map(one_epoch).apply(tf.data.experimental.assert_cardinality(batches))


def _gatherer(elements: Any) -> Callable[[Any], Any]:
    """Return a function from row numbers to a batch that holds the arrays without showing them to the optimizer.

    `tf.data` rewrites a pipeline's graph at the start of every epoch and makes a zero-filled stand-in of the full size
    for each tensor that a function captured: as much memory again, and 0.3 s a gigabyte. Inside one scalar variant
    there is nothing to stand in for.
    """
    leaves = tf.nest.flatten(elements)
    with tf.device("/cpu:0"):  # A data set larger than the accelerator's memory must still fit.
        # Tensors of text do not hold it in one piece, as files do.
        in_place = [is_mapped(leaf) and leaf.dtype.kind not in "SU" for leaf in leaves]
        pairs = [
            over_mapped(leaf) if lies else (tf.constant(leaf), 0) for leaf, lies in zip(leaves, in_place, strict=True)
        ]
        held = tf.raw_ops.CompositeTensorVariantFromComponents(components=[tensor for tensor, _ in pairs], metadata="")
    firsts = [first for _, first in pairs]
    dtypes = [tensor.dtype for tensor, _ in pairs]
    shapes = [tensor.shape for tensor, _ in pairs]

    def gather(rows: Any) -> Any:
        tensors = tf.raw_ops.CompositeTensorVariantToComponents(encoded=held, metadata="", Tcomponents=dtypes)
        batch = [
            tf.gather(tf.ensure_shape(tensor, shape), rows + first if first else rows)
            for tensor, shape, first in zip(tensors, shapes, firsts, strict=True)
        ]
        return tf.nest.pack_sequence_as(elements, batch)

    return gather


def _bytes(leaf: Any) -> int:
    return int(leaf.nbytes) if isinstance(leaf, np.ndarray) else int(tf.size(leaf)) * int(leaf.dtype.size)


def _fingerprint(elements: Any, batch_size: int, own_function: Callable[..., Any] | None) -> str:
    """Name the content: values of arrays in memory; file, time and place of mapped ones, which are not read for it."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in tf.nest.flatten(elements):
        if is_mapped(leaf):
            digest.update(_file_identity(leaf).encode())
        else:
            array = np.ascontiguousarray(leaf)
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.kind in "OSU" else array.data.cast("B"))
    spec = tf.nest.map_structure(lambda leaf: tf.TensorSpec((None, *leaf.shape[1:]), tf.as_dtype(leaf.dtype)), elements)
    function = "" if own_function is None else function_fingerprint(own_function, spec)
    return f"arrays {digest.hexdigest()} {batch_size} {function}"


def _file_identity(array: Any) -> str:
    owner = array
    while not isinstance(owner, np.memmap) and isinstance(owner.base, np.ndarray):
        owner = owner.base
    place = getattr(owner, "filename", None)
    stat = os.stat(place) if place else None
    # Without a file name (a mapping made by hand) nothing tells the content: the address is of this process alone.
    known = (os.fspath(place), stat.st_size, stat.st_mtime_ns) if place and stat else (os.getpid(), id(owner))
    first = array.ctypes.data - owner.ctypes.data + getattr(owner, "offset", 0)
    return repr((known, first, array.shape, array.dtype.str))


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
        is_object = isinstance(leaf, np.ndarray) and leaf.dtype == object
        if is_object and not all(isinstance(value, (str, bytes)) for value in leaf.flat):
            texts = sum(isinstance(value, (str, bytes)) for value in leaf.flat)
            fix = (
                f"{texts} of its {leaf.size} values are text: fill the others, e.g. with ''."
                if texts
                else "Bring all rows to one shape and one numeric type, e.g. `np.stack(rows).astype('float32')`."
            )
            raise DataError(f"An array of Python objects of shape {leaf.shape} cannot become a tensor. {fix}")
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
