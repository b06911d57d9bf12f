"""What is looked at: a model with a bounded part of its data, read once."""

import dataclasses
import functools
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import DataError
from kopt.data.splits import Split
from kopt.train.labelled_batches import labelled_dataset

MOST_EXAMPLES = 2048
_MOST_BYTES = 256 << 20
_MOST_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model and its data.

    Attributes:
        model: built.
        train: arrays `x`, `(x, y)` or `(x, y, sample_weight)`, a batched `tf.data.Dataset` of such, or `None`.
        validation: likewise.
        history: what was seen of a training, or `None`.
        batch_size: of arrays.
        memory_limit_bytes: of the device; `None` asks the system.
        depth: how long single looks may take.
    """

    model: keras.Model
    train: Any
    validation: Any
    history: Any
    batch_size: int
    memory_limit_bytes: int | None
    depth: str

    @property
    def dataset(self) -> tf.data.Dataset | None:
        """The training data if it is an input pipeline."""
        return self.train if isinstance(self.train, tf.data.Dataset) else None

    @property
    def batches(self) -> tuple[tuple[Any, ...], ...]:
        """The first batches of training data, of arrays batches of rows from all over them; NumPy arrays.

        What reading them raises is raised again, without reading.
        """
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    @functools.cached_property
    def _outcome(self) -> tuple[tuple[Any, ...], ...] | Exception:
        try:
            return _read(self.train, self.batch_size)
        except Exception as error:  # noqa: BLE001 - whatever a pipeline of the user's raises, each look says it
            return error

    @functools.cached_property
    def has_labels(self) -> bool:
        """Whether the training data has targets."""
        return self.train is not None and len(self.batches[0]) > 1

    @functools.cached_property
    def examples(self) -> tuple[Any, ...]:
        """Those of `batches` that have the shape of the first, as `(x, y)` or `(x,)` of arrays, no more than read."""
        return _joined(self.batches)

    @property
    def inputs(self) -> Any:
        """The inputs of `examples`; several without names as a list, since a tuple means inputs and targets."""
        x = self.examples[0]
        return list(x) if isinstance(x, tuple) else x

    @functools.cached_property
    def judged(self) -> tuple[Any, ...]:
        """Examples of the validation data, as `examples`."""
        return _joined(_read(self.validation, self.batch_size))


def given_data(data: Any, name: str) -> Any:
    """Return data in one of the forms of `Subject.train`.

    Raises:
        DataError: nothing in it, or something that is no data.
    """
    if isinstance(data, Split):
        return data.x, data.y
    if isinstance(data, tuple):
        given = next((place for place in range(len(data), 0, -1) if data[place - 1] is not None), 0)
        return data[:given]
    if data is None or isinstance(data, tf.data.Dataset):
        return data
    if isinstance(data, (np.ndarray, tf.Tensor, dict)):
        return (data,)
    if isinstance(data, list):
        return (tuple(data),)  # which tf.data does not take for the rows of one array
    raise DataError(
        f"`{name}` must be arrays, (x, y), a kopt.data.Split or a batched tf.data.Dataset. Received: "
        f"{type(data).__module__}.{type(data).__qualname__}."
    )


def _read(data: Any, batch_size: int) -> tuple[tuple[Any, ...], ...]:
    dataset = data if isinstance(data, tf.data.Dataset) else _some_rows(data, batch_size)
    found: list[tuple[Any, ...]] = []
    examples, size, begin = 0, 0, time.monotonic()
    for batch in dataset:
        parts = tuple(batch) if isinstance(batch, tuple) else (batch,)
        found.append(tf.nest.map_structure(_array, parts))
        leaves = [leaf for leaf in tf.nest.flatten(found[-1]) if isinstance(leaf, np.ndarray)]
        if not leaves or not leaves[0].ndim:
            raise DataError("The data set gives single examples, not batches. Batch it, e.g. `dataset.batch(32)`.")
        examples, size = examples + len(leaves[0]), size + sum(leaf.nbytes for leaf in leaves)
        is_late = time.monotonic() - begin > _MOST_SECONDS and len(found) > 1
        if examples >= MOST_EXAMPLES or size >= _MOST_BYTES or is_late:
            break
    if not found:
        raise DataError("The data is empty: there is nothing to look at. Check its source and filters.")
    return tuple(found)


def _some_rows(arrays: tuple[Any, ...], batch_size: int) -> tf.data.Dataset:
    """Return batches of rows from all over the arrays, so that sorted classes all come."""
    lengths = {len(leaf) for leaf in tf.nest.flatten(arrays)}
    if len(lengths) != 1:
        raise DataError(f"Inputs and targets must have as many examples. Received: {sorted(lengths)}.")
    [length] = lengths
    rows = np.linspace(0, length - 1, min(length, MOST_EXAMPLES)).round().astype(int)
    # A stride that the order of the classes repeats with would meet one class alone.
    rows = np.random.default_rng(0).permutation(rows)
    some = tf.nest.map_structure(lambda leaf: np.asarray(leaf)[rows], arrays)
    if len(some) == 1:
        return tf.data.Dataset.from_tensor_slices(some).batch(batch_size)
    return labelled_dataset(some, batch_size)


def _joined(batches: tuple[tuple[Any, ...], ...]) -> tuple[Any, ...]:
    shapes = [_inner_shapes(batch) for batch in batches]
    alike = [batch for batch, shape in zip(batches, shapes, strict=True) if shape == shapes[0]]
    return tf.nest.map_structure(lambda *leaves: np.concatenate(leaves), *alike)


def _inner_shapes(batch: tuple[Any, ...]) -> list[tuple[int, ...]]:
    return [np.shape(leaf)[1:] for leaf in tf.nest.flatten(batch)]


def _array(leaf: Any) -> Any:
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return leaf
    return leaf.numpy()
