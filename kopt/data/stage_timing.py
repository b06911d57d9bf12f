"""How long a `tf.data` pipeline, or the first part of one, takes to make an element."""

import dataclasses
import functools
import statistics
import time
from typing import Any

import tensorflow as tf

from kopt.core.errors import DataError
from kopt.data.internals import inputs_of, kind_of, setting_of

# They pass elements on as they are; what they cost is not theirs.
UNTIMED = ("options", "assert_cardinality", "prefetch", "zip")
_MANY_TO_ONE = ("batch", "padded_batch")
# Above these, one element more or less says nothing about the elements at the end.
_OPAQUE = ("flat_map", "interleave", "unbatch", "window", "group_by_window", "concatenate", "directedinterleave")
_WARM_UP_SHARE = 0.3
_STRETCHES = 7
_LEAST_MS = 1e-3  # less than drawing an element costs cannot be told


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The pipeline up to one stage.

    Attributes:
        dataset: ends with the stage.
        multiplicity: how many of its elements go into one of the whole pipeline.
    """

    dataset: Any
    multiplicity: int

    @property
    def kind(self) -> str:
        """The last stage, as `tf.data` spells it."""
        return kind_of(self.dataset)


@dataclasses.dataclass(frozen=True)
class Pace:
    """Milliseconds an element, and until the first one."""

    element_ms: float
    start_ms: float


def prefixes(dataset: tf.data.Dataset) -> list[Prefix]:
    """Return the pipeline up to each of its stages, from the source on.

    Where several data sets meet, the one with more stages is followed. A stage that makes many elements of one
    (interleave, flat_map) counts as the source.
    """
    found, node, multiplicity = [], dataset, 1
    while True:
        found.append(Prefix(node, multiplicity))
        sources = inputs_of(node)
        if not sources or kind_of(node) in _OPAQUE:
            return found[::-1]
        if kind_of(node) in _MANY_TO_ONE:
            multiplicity *= setting_of(node) or 1
        node = max(sources, key=_depth)


def pace(dataset: tf.data.Dataset, seconds: float, *, group: int = 1) -> Pace:
    """Measure a data set alone, iterated over and over for about `seconds`.

    Elements are drawn inside the TensorFlow runtime; what that costs itself is measured and taken off. The result is
    the median over several stretches, so that a pause of the machine does not count.

    Args:
        dataset: what to measure.
        seconds: how long, the first element not counted.
        group: elements that are drawn at once and count as one.

    Raises:
        DataError: the data set is empty.
    """
    begin = time.perf_counter()
    looped = dataset.repeat()
    if group > 1:
        # `shard` passes over the others without leaving the runtime. A source could leave them out altogether;
        # `zip` asks for each.
        looped = tf.data.Dataset.zip((looped,)).shard(group, group - 1)
    iterator = iter(looped)
    if next(iterator, None) is None:
        raise DataError("The data set is empty: there is nothing to measure. Check its source and filters.")
    start_ms = (time.perf_counter() - begin) * 1e3
    drain = _drain()
    drain(iterator, tf.constant(0))  # Traces.
    begin, count = time.perf_counter(), 1
    while time.perf_counter() - begin < _WARM_UP_SHARE * seconds:
        drain(iterator, tf.constant(count))
        count *= 2
    per_element = (time.perf_counter() - begin) / max(1, count - 1)
    left = (1 - _WARM_UP_SHARE) * seconds
    count = max(1, int(left / _STRETCHES / per_element))
    paces: list[float] = []
    end = time.perf_counter() + left
    while not paces or time.perf_counter() < end:
        begin = time.perf_counter()
        drain(iterator, tf.constant(count))
        paces.append((time.perf_counter() - begin) / count * 1e3)
    return Pace(max(_LEAST_MS, statistics.median(paces) - _drain_ms()), start_ms)


def _drain() -> Any:
    def drain(iterator: Any, count: Any) -> None:
        def body(i: Any) -> Any:
            leaves = tf.nest.flatten(iterator.get_next(), expand_composites=True)
            with tf.control_dependencies(leaves):
                return (i + 1,)

        tf.while_loop(lambda i: i < count, body, (tf.constant(0),), parallel_iterations=1)

    return tf.function(drain, autograph=False)


@functools.lru_cache(maxsize=1)
def _drain_ms() -> float:
    """What drawing one element costs by itself."""
    iterator, drain, count = iter(tf.data.Dataset.range(1).repeat()), _drain(), 2000
    drain(iterator, tf.constant(1))
    begin = time.perf_counter()
    drain(iterator, tf.constant(count))
    return (time.perf_counter() - begin) / count * 1e3


def _depth(dataset: tf.data.Dataset) -> int:
    return 1 + max((_depth(source) for source in inputs_of(dataset)), default=0)
