"""Labelled examples in batches, read as often as needed."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import DataError


class Batch(NamedTuple):
    """Tensors of some examples.

    Attributes:
        x: as the model takes them.
        y: as the loss takes them.
        weight: of shape `(examples,)`, all 1 where none were given.
    """

    x: Any
    y: Any
    weight: np.ndarray

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.weight)

    def rows(self, start: int, stop: int) -> "Batch":
        """Return some of the examples."""
        return Batch(*keras.tree.map_structure(lambda part: part[start:stop], (self.x, self.y, self.weight)))


class Examples:
    """Arrays or a data set as batches.

    Attributes:
        batch: the first one.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, a `kopt.data.Split`, or a batched `tf.data.Dataset`.
        batch_size: of arrays; a data set has its own.
    """

    def __init__(self, data: Any, batch_size: int):
        if hasattr(data, "x") and hasattr(data, "y"):
            data = (data.x, data.y)
        self._dataset = data if isinstance(data, tf.data.Dataset) else None
        self._arrays = None if self._dataset is not None else _arrays(data)
        self._batch_size = batch_size
        if self._dataset is not None and self._dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise DataError("The data set repeats without end. Cut it, e.g. `dataset.take(100)`.")
        first = next(iter(self), None)
        if first is None or not first.size:
            raise DataError("There are no examples. Pass at least one.")
        self.batch = first

    def __iter__(self) -> Iterator[Batch]:
        if self._dataset is not None:
            for element in self._dataset:
                yield _batch(element)
        elif self._arrays is not None:
            count = len(keras.tree.flatten(self._arrays[0])[0])
            for start in range(0, count, self._batch_size):
                rows = slice(start, start + self._batch_size)
                yield _batch(keras.tree.map_structure(lambda array, rows=rows: array[rows], self._arrays))

    def count_batches(self) -> int:
        """Return the number of batches; a data set that does not tell is read for it."""
        if self._arrays is not None:
            return -(-len(keras.tree.flatten(self._arrays[0])[0]) // self._batch_size)
        known = int(self._dataset.cardinality())  # type: ignore[union-attr]
        return known if known >= 0 else sum(1 for _ in self)

    def specs(self) -> tuple[Any, Any]:
        """Return what `x` and `y` of any batch look like; the number of examples is left open."""
        if self._dataset is not None:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(self._dataset.element_spec)
            return keras.tree.map_structure(_open_spec, x), keras.tree.map_structure(_open_spec, y)
        x, y, _ = self.batch
        return keras.tree.map_structure(_open_spec, x), keras.tree.map_structure(_open_spec, y)

    def taken(self, examples: int) -> Iterator[Batch]:
        """Yield batches of the first `examples` examples."""
        left = examples
        for batch in self:
            if left <= 0:
                return
            yield batch if batch.size <= left else batch.rows(0, left)
            left -= batch.size


def _arrays(data: Any) -> tuple[Any, ...]:
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        kind = f"{type(data).__module__}.{type(data).__qualname__}"
        raise DataError(
            f"`data` must be `(x, y)` or `(x, y, sample_weight)` of arrays, or a batched tf.data.Dataset of such; "
            f"labels are needed to compute a loss. Received: {kind}."
        )
    parts = tuple(keras.tree.map_structure(_array, part) for part in data if part is not None)
    if len(parts) < 2:
        raise DataError("There are no labels; they are needed to compute a loss. Pass `(x, y)`.")
    sizes = sorted({len(leaf) for leaf in keras.tree.flatten(parts)})
    if len(sizes) > 1:
        raise DataError(f"Inputs, labels and weights must have the same number of examples. Received: {sizes}.")
    return parts


def _array(value: Any) -> Any:
    array = value if isinstance(value, tf.Tensor) else np.asarray(value)
    if not array.ndim:
        raise DataError(f"Inputs and labels are arrays with the examples first. Received: {value!r}.")
    return array


def _batch(element: Any) -> Batch:
    x, y, weight = keras.utils.unpack_x_y_sample_weight(element)
    if y is None:
        raise DataError("Batches have no labels; they are needed to compute a loss. Give `(x, y)`.")
    x, y = keras.tree.map_structure(tf.convert_to_tensor, (x, y))
    count = int(keras.tree.flatten(x)[0].shape[0])
    if weight is None:
        return Batch(x, y, np.ones(count, np.float32))
    weight = np.asarray(weight, np.float32).reshape(count, -1)
    if weight.shape[1] != 1:
        raise DataError(f"`sample_weight` must have one weight an example. Received {weight.shape[1]} an example.")
    if (weight < 0).any() or not np.isfinite(weight).all():
        raise DataError("`sample_weight` must be finite and not negative.")
    return Batch(x, y, weight[:, 0])


def _open_spec(leaf: Any) -> tf.TensorSpec:
    return tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype)
