"""A small, balanced choice of examples to measure activation ranges on."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import DataError, NonFiniteError, nearest
from kopt.core.records.artifacts import TensorInfo
from kopt.core.settings import whole
from kopt.data.row_keys import row_keys
from kopt.data.splits import Array, DataSplits, Split, class_ids
from kopt.data.validation import as_model_inputs, fits, reshaping_hint

_READ_FACTOR = 10
_READ_AT_LEAST = 1000
_LOOKED_THROUGH = 100_000


def calibration(
    source: Any,
    *,
    samples: int = 100,
    seed: int = 0,
    inputs: tuple[TensorInfo, ...] | None = None,
    name: str = "calibration",
) -> Any:
    """Choose examples for calibration, the same number of each class where labels tell the classes apart.

    Use it to make the representative data that integer quantization needs.

    Args:
        source: inputs `x` (array, or dict or list of arrays for several inputs), a tuple `(x, y)`, a `Split`,
            `DataSplits` (its training part), or a `tf.data.Dataset` of `x` or `(x, y)`, batched or not. Of a data set
            the first `max(10 * samples, 1000)` examples are looked at, so it may be infinite; shuffle it if it is
            sorted by class. No more than `samples` of them are held at a time.
        samples: how many examples; all of them if there are fewer.
        seed: of the choice.
        inputs: what the model accepts. The result is checked against it. Without it, a data set is taken as batched,
            the way `fit` takes it, unless its labels are scalars.
        name: the argument of yours that `source` was, for messages.

    Returns:
        With `inputs`, a dict of arrays by input name in the model's types; otherwise arrays structured as `x`.
        Labelled arrays come in rounds of one example a class, so that the first rows are balanced too.

    Raises:
        ConfigError: `samples` is not a whole number of at least 1, or `seed` of at least 0.
        DataError: no examples, or examples that do not fit `inputs`.
        NonFiniteError: NaN or infinity in the chosen examples, if `inputs` is given.

    Example:
        >>> images = kopt.data.calibration((x_train, y_train), samples=20)  # two of each digit
        >>> images.shape
        (20, 8, 8, 1)
    """
    whole("samples", samples)
    whole("seed", seed, least=0)
    if isinstance(source, DataSplits):
        source = source.train
    if isinstance(source, Split):
        source = (source.x, source.y)
    generator = np.random.default_rng(seed)
    reader = _Reader(f"`{name}`", inputs)
    read = reader.from_dataset if isinstance(source, tf.data.Dataset) else reader.from_arrays
    chosen, rows = read(source, samples, generator)
    return chosen if inputs is None else as_model_inputs(chosen, inputs, name=reader.name, rows=rows)


def holds(dataset: tf.data.Dataset, examples: Mapping[str, Array], inputs: tuple[TensorInfo, ...]) -> bool:
    """Return whether a data set still has all of these examples, bit for bit.

    It is read until they are found, and no further than 100,000 examples.

    Args:
        dataset: as `calibration` takes it.
        examples: arrays by input name, as `calibration` returned them.
        inputs: what the model accepts.
    """
    missing = set(row_keys([examples[info.name] for info in inputs]))
    reader = _Reader("`dataset`", inputs)
    left = _LOOKED_THROUGH
    for x, labels in reader.batches(dataset.take(left)):
        with contextlib.suppress(DataError, NonFiniteError):  # None of `examples` is among what does not fit.
            arrays = as_model_inputs(x, inputs, name=reader.name)
            missing.difference_update(row_keys([arrays[info.name] for info in inputs]))
        left -= len(labels)
        if not missing or left <= 0:
            break
    return not missing


def balanced_rows(labels: Array, samples: int, generator: np.random.Generator) -> Array:
    """Return up to `samples` row numbers, in rounds that take one random row of every class that has rows left."""
    order = generator.permutation(len(labels))
    shuffled = labels[order]
    classes, numbered = np.unique(shuffled, return_inverse=True)
    by_class = np.argsort(numbered, kind="stable")
    sizes = np.bincount(numbered)
    rounds = np.empty(len(labels), np.int64)
    rounds[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    turns = generator.permutation(len(classes))[numbered]
    return order[np.lexsort((turns, rounds))[:samples]]


class Reservoir:
    """Holds a class-balanced random choice from a stream of unknown length.

    When it is full, an example of a class that is behind replaces a random one of the largest class; any other
    replaces one of its own class with the probability that keeps the choice inside the class uniform
    (class-balancing reservoir sampling: Chrysakis and Moens, ICML 2020).
    """

    def __init__(self, capacity: int, generator: np.random.Generator):
        self._capacity = capacity
        self._generator = generator
        self._held: dict[int, list[Any]] = {}
        self._seen: dict[int, int] = {}
        self._count = 0

    def offer(self, label: int, read: Callable[[], Any]) -> None:
        """Consider one example of class `label`; `read` is called only if the example is kept."""
        held = self._held.setdefault(label, [])
        self._seen[label] = self._seen.get(label, 0) + 1
        if self._count < self._capacity:
            held.append(read())
            self._count += 1
            return
        largest = max(self._held.values(), key=len)
        if len(held) < len(largest) - 1:
            largest.pop(int(self._generator.integers(len(largest))))
            held.append(read())
        elif self._generator.random() < len(held) / self._seen[label]:
            held[int(self._generator.integers(len(held)))] = read()

    def examples(self) -> list[Any]:
        """Return what is held, class by class."""
        return [example for held in self._held.values() for example in held]


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads examples for a model with these inputs; messages call them by `name`."""

    name: str
    inputs: tuple[TensorInfo, ...] | None

    def from_arrays(self, source: Any, samples: int, generator: np.random.Generator) -> tuple[Any, Array]:
        """Return the chosen examples, and the row of each."""
        x, y = self._unpack(source)
        leaves = tf.nest.flatten(x)
        if not leaves or not all(isinstance(leaf, (np.ndarray, tf.Tensor)) and len(leaf.shape) for leaf in leaves):
            raise DataError(
                f"{self.name} is chosen from arrays, a tuple (x, y), a `Split`, `DataSplits` or a `tf.data.Dataset`. "
                f"Received: {type(source).__module__}.{type(source).__qualname__} {str(source)[:60]!r}."
            )
        y = np.asarray(y) if isinstance(y, (list, tf.Tensor)) else y
        lengths = {len(leaf) for leaf in (*leaves, *([] if y is None else tf.nest.flatten(y)))}
        if len(lengths) > 1:
            raise DataError(
                f"{self.name} has inputs and labels of different lengths: {sorted(lengths)}. Pass the same rows."
            )
        (length,) = lengths
        if length == 0:
            raise DataError(f"{self.name} is empty: there must be at least one example.")
        rows = balanced_rows(_classes(y, length), samples, generator)
        return tf.nest.map_structure(lambda leaf: np.asarray(leaf)[rows], x), rows

    def from_dataset(self, dataset: tf.data.Dataset, samples: int, generator: np.random.Generator) -> tuple[Any, Array]:
        """Return the chosen examples, and no rows: of a data set that is shuffled they say nothing."""
        reservoir = Reservoir(samples, generator)
        limit = max(_READ_FACTOR * samples, _READ_AT_LEAST)
        # `take` keeps TensorFlow, which reads ahead, from producing examples that nobody looks at.
        for x, labels in self.batches(dataset.take(limit)):
            for row, label in enumerate(labels[:limit]):
                reservoir.offer(int(label), functools.partial(_copy_row, x, row))
            limit -= len(labels)
            if limit <= 0:
                break
        examples = reservoir.examples()
        if not examples:
            raise DataError(f"{self.name} is empty: the data set yields no examples.")
        try:
            return tf.nest.map_structure(lambda *rows: np.stack(rows), *examples), np.zeros(0, np.int64)
        except ValueError as error:
            raise DataError(
                f"{self.name} yields examples of different shapes ({error}). Bring them to one shape."
            ) from error

    def batches(self, dataset: tf.data.Dataset) -> Iterator[tuple[Any, Array]]:
        """Yield (batch of inputs as arrays, one class number an example)."""
        for element in dataset:
            x, y = self._unpack(tf.nest.map_structure(self._as_numpy, element))
            if not self._is_batched(x, y):
                x, y = tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[None], (x, y))
            rows = len(tf.nest.flatten(x)[0])
            if isinstance(y, np.ndarray) and len(y) != rows:
                raise DataError(
                    f"{self.name} yields {rows} rows of inputs with labels of shape {y.shape}. Batch the data set, "
                    f"e.g. `ds.batch(32)`, or pass `inputs` so that single examples are recognized."
                )
            yield x, _classes(y, rows)

    def _as_numpy(self, value: Any) -> Array:
        if not isinstance(value, tf.Tensor):
            raise DataError(
                f"{self.name} yields {type(value).__module__}.{type(value).__qualname__}; dense tensors are needed. "
                f"Convert it in a map, e.g. `x.to_tensor()` for ragged and `tf.sparse.to_dense(x)` for sparse ones."
            )
        return np.asarray(value)

    def _unpack(self, element: Any) -> tuple[Any, Any]:
        """Return inputs and targets of what Keras would accept as one element: x, (x,), (x, y) or (x, y, weights)."""
        if not isinstance(element, tuple):
            return element, None
        if not 1 <= len(element) <= 3:
            raise DataError(
                f"{self.name} has a tuple of {len(element)}; (x, y) is understood. "
                f"Give several inputs as a dict by name."
            )
        return element[0], element[1] if len(element) > 1 else None

    def _is_batched(self, x: Any, y: Any) -> bool:
        leaves = tf.nest.flatten(x)
        if self.inputs is None:
            scalars = [leaf for leaf in (*leaves, *tf.nest.flatten(y)) if leaf is not None and leaf.ndim == 0]
            return not scalars
        info = self.inputs[0]
        if isinstance(x, Mapping) and info.name not in x:
            raise DataError(
                f"{self.name} lacks the model input {info.name!r}.{nearest(info.name, x)} It yields {list(x)}."
            )
        array = x[info.name] if isinstance(x, Mapping) else leaves[0]
        if fits(array.shape[1:], info.shape[1:]) and array.ndim == len(info.shape):
            return True
        if fits(array.shape, info.shape[1:]):
            return False
        raise DataError(
            f"{self.name} yields {array.dtype.name} arrays of shape {array.shape}; the model input {info.name!r} needs "
            f"{info.dtype} {info.shape}. {_dataset_hint(array.shape, info.shape)}"
        )


def _copy_row(x: Any, row: int) -> Any:
    return tf.nest.map_structure(lambda leaf: np.array(leaf[row], leaf.dtype), x)  # of text a row may be no array


def _classes(y: Any, length: int) -> Array:
    ids = class_ids(y) if isinstance(y, np.ndarray) else None
    return np.zeros(length, np.int64) if ids is None else ids


def _dataset_hint(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> str:
    return reshaping_hint(shape if len(shape) >= len(wanted) - 1 else (1, *shape), wanted)
