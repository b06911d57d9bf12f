"""Elements that fail in a parallel map: found by the gap that they leave, then refused by name or left out and counted.

An operation of TensorFlow that fails says what, not in which file, and ends the epoch. So a map over files runs under
`ignore_errors`, every element carries its position in the epoch, and a look at the positions of each batch shows what
is missing. A sound file costs nothing that is worth measuring; only a gap looks names up.
"""

import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.core.records.training.data import SkippedFiles
from kopt.data.seeds import epoch_seeds, permuted

# (whether all rows are there, int64 rows that are not and one more, so that it is never empty) -> a tensor; called in
# the graph for every batch.
Report = Callable[[Any, Any], Any]
_SHOWN = 5
_recorders: "weakref.WeakKeyDictionary[Any, Recorder]" = weakref.WeakKeyDictionary()


def numbered(count: int, *, shuffle: bool, seed: int | None) -> tf.data.Dataset:
    """Return (position, epoch seed) for each of `count` rows: int64 of shape () and (2,). See `row_at`."""
    seeds = epoch_seeds(seed) if shuffle else tf.data.Dataset.from_tensors(tf.zeros([2], tf.int64))
    return seeds.flat_map(
        lambda pair: tf.data.Dataset.zip(tf.data.Dataset.range(count), tf.data.Dataset.from_tensors(pair).repeat())
    )


def row_at(position: Any, epoch_seed: Any, count: int, *, shuffle: bool) -> Any:
    """Return the row that stands at `position` of an epoch, int64."""
    return permuted(position, epoch_seed, count) if shuffle else position


def batch_whole(
    elements: tf.data.Dataset, count: int, batch_size: int, *, shuffle: bool, drop_remainder: bool, report: Report
) -> tf.data.Dataset:
    """Return full batches of the elements that did not fail, and report the rows of those that did.

    Args:
        elements: (position, epoch seed, *payload) from a deterministic map over `numbered`; may raise.
        count: rows in an epoch.
        batch_size: elements in a batch.
        shuffle: as in `numbered`.
        drop_remainder: leave out a last batch that is not full.
        report: learns of each batch whether rows are missing before its last one; what it raises ends the epoch.
    """
    batches = elements.ignore_errors().batch(batch_size)
    # An epoch may end with a gap. This last batch of position `count` and of no payload shows it.
    nothing = [tf.zeros([0, *spec.shape[1:]], spec.dtype) for spec in batches.element_spec[2:]]
    end = tf.data.Dataset.from_tensors((tf.constant([count], tf.int64), tf.zeros([1, 2], tf.int64), *nothing))

    def look(state: Any, batch: Any) -> Any:
        positions, seeds, *payload = batch
        expected, epoch_seed = state
        following = positions[-1] + 1
        is_end = following > count
        epoch_seed = tf.where(is_end, epoch_seed, seeds[0])

        span = tf.range(expected, following, dtype=tf.int64)
        missing = tf.boolean_mask(span, tf.reduce_all(span[:, None] != positions, axis=1))
        rows = row_at(tf.concat([missing, [0]], 0), epoch_seed, count, shuffle=shuffle)
        done = report(tf.size(missing) == 0, rows)
        with tf.control_dependencies([done]):
            kept = ~is_end & (tf.size(positions) == batch_size if drop_remainder else True)
            return (following, epoch_seed), (kept, *payload)

    start = (tf.zeros((), tf.int64), tf.zeros([2], tf.int64))
    looked = batches.concatenate(end).scan(start, look).filter(lambda kept, *_: kept)
    length = batch_size if drop_remainder else None

    def strip(_: Any, *payload: Any) -> Any:
        parts = tuple(tf.ensure_shape(part, [length, *part.shape[1:]]) for part in payload)
        return parts if len(parts) > 1 else parts[0]

    return looked.map(strip)


def refuse(names: Any, remedy: str) -> Report:
    """Return a report that ends the epoch with the first name of a gap.

    Args:
        names: string tensor, one a row.
        remedy: what is wrong and what to do, after the name.
    """

    def report(whole: Any, rows: Any) -> Any:
        # The operation itself: `tf.debugging.Assert` adds branches, which cost 40 ms at the start of every epoch.
        failed = tf.raw_ops.Assert(condition=whole, data=[tf.strings.join([names[rows[0]], remedy], separator=" ")])
        with tf.control_dependencies([failed]):
            return tf.identity(whole)

    return report


class Recorder:
    """Keeps what was left out, and warns about it: once a file.

    Args:
        names: one a row.
        examine: returns what is wrong with a file, in words.
    """

    def __init__(self, names: list[str], examine: Callable[[Path], str]):
        self._names, self._examine = names, examine
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def report(self, whole: Any, rows: Any) -> Any:
        """Record a gap, from within the graph."""
        return tf.cond(whole, lambda: whole, lambda: tf.numpy_function(self._record, [rows[:-1]], tf.bool))

    def result(self) -> SkippedFiles:
        """Return what was left out so far."""
        with self._lock:
            return SkippedFiles(dict(self._reasons))

    def _record(self, rows: Any) -> Any:
        if len(rows) == len(self._names):
            raise DataError(f"None of the {len(rows)} files can be read. The first: {self._examine(self._path(0))}")
        fresh = {}
        for row in rows:
            name = self._names[int(row)]
            if name not in self._reasons:
                fresh[name] = self._examine(self._path(int(row)))
        with self._lock:
            self._reasons.update(fresh)
            total = len(self._reasons)
        if fresh:
            shown = "; ".join(list(fresh.values())[:_SHOWN]) + ("; ..." if len(fresh) > _SHOWN else "")
            warnings.warn(f"{len(fresh)} file(s) skipped, {total} so far: {shown}", RuntimeWarning, stacklevel=2)
        return np.True_

    def _path(self, row: int) -> Path:
        return Path(self._names[row])


def remember(dataset: tf.data.Dataset, recorder: Recorder) -> None:
    """Make what `recorder` records available to `skipped_files(dataset)`."""
    _recorders[dataset] = recorder


def skipped_files(dataset: tf.data.Dataset) -> SkippedFiles:
    """Return the files that `from_images(..., corrupt="skip")` has left out so far, with what was wrong with each.

    Use it after an epoch: files are found to be damaged when they are read, not before.

    Args:
        dataset: what `from_images` returned, not what was made from it by `map`, `take` and so on.

    Returns:
        `SkippedFiles` with `count`, `names` and `reasons`; empty if nothing was skipped.

    Raises:
        ConfigError: the data set does not skip files.

    Example:
        >>> import warnings
        >>> tf.io.write_file("images/seven/damaged.png", b"no image")
        >>> train = kopt.data.from_images("images", image_size=(8, 8), batch_size=4, corrupt="skip")
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # each damaged file is warned of, too
        ...     sum(len(y) for x, y in train)
        12
        >>> kopt.data.skipped_files(train).names
        ('images/seven/damaged.png',)
    """
    if dataset not in _recorders:
        raise ConfigError(
            "This data set keeps no list of skipped files. Pass the very object that "
            '`from_images(..., corrupt="skip")` returned, before any `map`, `take` or `prefetch` of your own.'
        )
    return _recorders[dataset].result()
