"""A finite `tf.data.Dataset` read whole into arrays."""

from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import DataError
from kopt.data.splits import Split


def collect(dataset: Any, *, name: str = "data") -> Split:
    """Read every batch of a labelled data set into memory, e.g. to judge several files on the same examples.

    Args:
        dataset: batched and finite, of `(x, y)`; `x` and `y` are tensors, or dicts or tuples of tensors.
        name: how error messages call it.

    Returns:
        The examples in the order in which the data set gave them.

    Raises:
        DataError: not a data set of `(x, y)`, infinite, empty, or of examples that do not join.

    Example:
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=100)
        >>> kopt.data.collect(train).x.shape
        (512, 8, 8, 1)
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise DataError(
            f"`{name}` is (x, y) arrays, a `kopt.data.Split` or a batched `tf.data.Dataset` of (x, y). Received: "
            f"{type(dataset).__module__}.{type(dataset).__qualname__}."
        )
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise DataError(
            f"`{name}` must yield pairs (x, y). Received elements of {spec}. Add labels with `Dataset.zip`."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"`{name}` is infinite. Bound it with `.take(steps)`.")
    batches = list(dataset.as_numpy_iterator())
    if not batches:
        raise DataError(f"`{name}` is empty: there must be at least one batch.")
    try:
        x, y = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    except ValueError as error:
        raise DataError(
            f"`{name}` must yield batches of examples of one shape. Received elements of {spec}, which do not join "
            f"({error}). Batch the data set, e.g. `.batch(32)`, and bring all examples to one shape."
        ) from error
    return Split(x, y)
