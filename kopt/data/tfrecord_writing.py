"""A data set or arrays to TFRecord shards with a manifest."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, OutputError, OutputExistsError, nearest
from kopt.core.files import atomic_path, check_output, sha256
from kopt.core.progress import Progress, Silent
from kopt.core.records.training.data import FeatureSchema, Shard, TFRecordManifest
from kopt.data.splits import Array
from kopt.data.tfrecord_files import MANIFEST
from kopt.data.tfrecord_framing import COMPRESSIONS
from kopt.data.tfrecord_schema import feature_name, feature_schema, leaves, serialize
from kopt.report.progress import make_progress

_BLOCK = 256  # examples that leave the pipeline at a time
_BLOCK_BYTES = 16 << 20
_TURN = 64
_STEPS = 20  # of the progress display
_MOST_SHARDS = 512  # files open at the same time; systems allow 1,024 by default


def write_tfrecords(
    dataset: Any,
    directory: str | os.PathLike[str],
    *,
    shards: int,
    compression: str | None = None,
    batched: bool = False,
    name: str = "data",
    overwrite: bool = False,
    progress: Progress | str | None = "auto",
) -> TFRecordManifest:
    """Write examples to `shards` TFRecord files in a new directory, with a manifest that `from_tfrecords` reads.

    Use it once for data that is slow to prepare, or to feed several workers. Examples go to the shards in turn, one
    to 64 at a time.
    The directory gets its name when all is written and flushed: a process that is killed half way leaves a hidden
    directory `.<name>...kopt-tmp` and nothing that looks finished.

    int64, float32 and text are stored in the lists of `tf.train.Feature`, so that other readers can use them, under the
    names "x", "y", "sample_weight" or the keys of dicts (`"x/image"` for a dict in a tuple); other types as their
    bytes. `from_tfrecords` gives back the same values, dtypes, shapes and structure.

    Args:
        dataset: `tf.data.Dataset` of single examples `(x, y)`, or of dicts or single arrays; or arrays in such a
            structure, with examples along the first axis. All examples must have the same shapes.
        directory: must not exist, unless `overwrite`.
        shards: number of files, 1 to 512; at most one an example.
        compression: `None`, `"GZIP"` or `"ZLIB"`.
        batched: whether the elements of the data set are batches, as all builders of `kopt.data` give them; they are
            taken apart.
        name: of the files, `<name>-00000-of-00008.tfrecord`.
        overwrite: replace `directory`.
        progress: `"auto"` shows a bar on a terminal and lines elsewhere, `None` nothing.

    Returns:
        What was written: files with counts and SHA-256, features, compression.

    Raises:
        DataError: no examples, no end of them, fewer than `shards`, ragged or sparse tensors, or examples of different
            shapes.
        ConfigError: an impossible setting.
        OutputExistsError: `directory` exists, or is to be replaced and holds anything but records.
        OutputError: it cannot be written.

    Example:
        >>> written = kopt.data.write_tfrecords((x_train, y_train), "train", shards=4, progress=None)
        >>> [shard.records for shard in written.shards], written.features[0].shape
        ([128, 128, 128, 128], (8, 8, 1))
    """
    _check_settings(shards, compression, name)
    reporter = _reporter(progress)
    directory = check_output(directory, overwrite=overwrite)
    _require_records_alone(directory)
    source, batched = _source(dataset, batched)
    if int(source.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError("The data set never ends. Take a part, e.g. `dataset.take(1000)`, or leave out `repeat()`.")
    with atomic_path(directory, overwrite=overwrite) as staged:
        staged.mkdir()
        files = [staged / f"{name}-{number:05d}-of-{shards:05d}.tfrecord" for number in range(shards)]
        blocks = _reported(_blocks(source, batched), int(source.cardinality()), reporter)
        counts, schemas, turn = _write(blocks, files, compression or "", int(source.cardinality()))
        written = tuple(
            Shard(file.name, count, file.stat().st_size, sha256(file))
            for file, count in zip(files, counts, strict=True)
        )
        manifest = TFRecordManifest(written, schemas, compression or "", turn)
        (staged / MANIFEST).write_text(manifest.to_json() + "\n")
    return manifest


def _require_records_alone(directory: Path) -> None:
    """Refuse to replace a directory with anything in it that was not written here."""
    strangers = (
        []
        if not directory.is_dir()
        else [child.name for child in directory.iterdir() if child.name != MANIFEST and child.suffix != ".tfrecord"]
    )
    if strangers:
        raise OutputExistsError(
            f"{directory} holds more than records: {', '.join(sorted(strangers)[:3])}. It would be removed with "
            f"them. Choose another directory."
        )


def _check_settings(shards: Any, compression: Any, name: Any) -> None:
    if isinstance(shards, bool) or not isinstance(shards, (int, np.integer)) or not 1 <= shards <= _MOST_SHARDS:
        raise ConfigError(f"`shards` must be a whole number from 1 to {_MOST_SHARDS}. Received: {shards!r}.")
    if compression not in (*COMPRESSIONS, None):
        hint = nearest(str(compression).upper(), ("GZIP", "ZLIB"))
        raise ConfigError(f"`compression` must be None, 'GZIP' or 'ZLIB'.{hint} Received: {compression!r}.")
    if not isinstance(name, str) or not name or Path(name).name != name or name[0] == ".":
        raise ConfigError(f"`name` must be the beginning of a file name. Received: {name!r}.")


def _reporter(progress: Progress | str | None) -> Progress:
    if progress is None:
        return Silent()
    if progress == "auto":
        return make_progress()
    if isinstance(progress, str):
        raise ConfigError(f"`progress` is 'auto', None or has start, step and finish. Received: {progress!r}.")
    return progress


def _source(dataset: Any, batched: bool) -> tuple[tf.data.Dataset, bool]:
    """Return a data set, and whether its elements are batches."""
    if isinstance(dataset, tf.data.Dataset):
        specs = [spec for _, spec in leaves(dataset.element_spec)]
        for spec in specs:
            _check_spec(spec, batched)
        if batched:
            return dataset, True
        if all(spec.shape.is_fully_defined() for spec in specs):
            return dataset.batch(_block(specs)), True
        if all(spec.shape.rank and spec.shape[0] is None for spec in specs):
            raise DataError(
                f"The elements {dataset.element_spec} look like batches, because their first dimension is open. Pass "
                f"`batched=True`, or state the shapes of single examples with `tf.ensure_shape` in a `map`."
            )
        return dataset, False
    arrays = [(path, np.asarray(part)) for path, part in leaves(dataset)]
    for path, array in arrays:
        _check_array(path, array)
    lengths = {feature_name(path): len(array) for path, array in arrays}
    if not lengths or len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise DataError(f"All arrays must have the same number of examples, at least one. Received: {lengths}.")
    source = tf.data.Dataset.from_tensor_slices(_as_tuples(dataset))
    return source.batch(_block(tf.nest.flatten(source.element_spec))), True


def _check_spec(spec: Any, batched: bool) -> None:
    if not isinstance(spec, tf.TensorSpec) or spec.dtype in (tf.variant, tf.resource):
        raise DataError(
            f"An element holds a {type(spec).__name__}: {spec}. Only dense tensors of one shape come back as they "
            f"were. Make it dense, e.g. `ragged.to_tensor()` or `tf.sparse.to_dense(sparse)` in a `map`."
        )
    if batched and spec.shape.rank == 0:
        raise DataError(f"`batched=True`, but {spec} has no batch axis. Leave `batched` out for single examples.")


def _check_array(path: tuple[str | int, ...], array: Array) -> None:
    is_text = array.dtype == object and array.size and all(isinstance(value, (str, bytes)) for value in array.flat)
    if array.ndim == 0 or (array.dtype == object and not is_text):
        raise DataError(
            f"{feature_name(path)!r} has dtype {array.dtype} and shape {array.shape}; arrays with examples along the "
            f"first axis, all of one shape and type, can be written. Bring ragged rows to one length. A tuple or list "
            f"is read as (x, y): give a single array as `np.asarray(values)`."
        )


def _as_tuples(value: Any) -> Any:
    # tf.data turns a list into one stacked tensor; a tuple stays several.
    if isinstance(value, Mapping):
        return {key: _as_tuples(part) for key, part in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, (tuple, list)) else value


def _block(specs: Sequence[Any]) -> int:
    size = sum(math.prod(spec.shape.as_list()) * max(spec.dtype.size, 1) for spec in specs)
    return max(1, min(_BLOCK, _BLOCK_BYTES // max(1, size)))


def _blocks(source: tf.data.Dataset, batched: bool) -> Iterator[list[tuple[tuple[str | int, ...], Array]]]:
    """Yield arrays with their paths, examples along the first axis."""
    for element in source.as_numpy_iterator():
        parts = [(path, np.asarray(part)) for path, part in leaves(element)]
        yield parts if batched else [(path, part[None]) for path, part in parts]


def _reported(blocks: Iterator[Any], count: int, progress: Progress) -> Iterator[Any]:
    """Yield the blocks; tell `progress` at most `_STEPS` times where it stands, once if `count` is not known."""
    steps = max(1, min(_STEPS, count))
    progress.start(steps)
    begun = 0
    try:
        for number, block in enumerate(blocks):
            if begun < steps and number >= begun * max(count, 1) / steps:
                begun += 1
                progress.step("write examples")
            yield block
    finally:
        progress.finish()


def _write(
    blocks: Iterator[Any], files: list[Path], compression: str, block_count: int
) -> tuple[list[int], tuple[FeatureSchema, ...], int]:
    """Write examples in turn; return the number in each file, how they are stored, and how many make a turn."""
    counts, total, turn = [0] * len(files), 0, 1
    schemas: tuple[FeatureSchema, ...] = ()
    with _writers(files, compression) as writers:
        for block in blocks:
            if not schemas:
                schemas, turn = _schemas(block), _turn(block_count * len(block[0][1]), len(files))
            _check_block(block, schemas, total)
            records = [serialize(row, schemas) for row in zip(*(part for _, part in block), strict=True)]
            with _as_output_error(files[0].parent):
                for position, record in enumerate(records, total):
                    shard = position // turn % len(writers)
                    writers[shard].write(record)
                    counts[shard] += 1
            total += len(records)
    if 0 in counts:
        raise DataError(
            f"{total} example(s) do not fill {len(files)} shards. "
            + (f"Use `shards` <= {total}." if total else "The data set is empty.")
        )
    return counts, schemas, turn


def _turn(examples: int, shards: int) -> int:
    """Return how many examples follow each other in a shard: many are quicker to read, but leave shards uneven."""
    return max(1, min(_TURN, examples // (16 * shards)))


@contextlib.contextmanager
def _writers(files: list[Path], compression: str) -> Iterator[list[Any]]:
    with _as_output_error(files[0].parent):
        writers = [tf.io.TFRecordWriter(str(file), compression) for file in files]
    try:
        yield writers
    finally:
        with _as_output_error(files[0].parent):
            for writer in writers:
                writer.close()


@contextlib.contextmanager
def _as_output_error(directory: Path) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise OutputError(
            f"Cannot write {directory}: {error.message}. Choose a place that you may write to and that has room."
        ) from error


def _schemas(block: Any) -> tuple[FeatureSchema, ...]:
    schemas = tuple(
        feature_schema(path, tf.string if part.dtype.kind in "OSU" else part.dtype, part.shape[1:])
        for path, part in block
    )
    names = [schema.name for schema in schemas]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"Two arrays would have the name {twice[0]!r} in the files. Rename a key.")
    return schemas


def _check_block(block: Any, schemas: tuple[FeatureSchema, ...], first: int) -> None:
    for (_, part), schema in zip(block, schemas, strict=True):
        if part.shape[1:] != schema.shape:
            raise DataError(
                f"{schema.name!r} has shape {part.shape[1:]} in example {first}, but {schema.shape} in the first. "
                f"Examples of different shapes do not come back as they were: pad or resize them to one shape. If the "
                f"elements are batches, pass `batched=True`."
            )
