"""TFRecord files to a `tf.data` pipeline."""

import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, nearest
from kopt.core.records.training.data import TFRecordManifest
from kopt.data.augmentation import Augmentation, apply_augment
from kopt.data.caching import CacheRequest, apply_cache, function_fingerprint, remember_cache
from kopt.data.sharding import check_seed, sharded_by
from kopt.data.stages import batches_of, check_batch_size, check_fills_a_batch, shuffle_window
from kopt.data.tfrecord_files import MANIFEST, compression_of, count_records, manifest_of, matching, no_examples
from kopt.data.tfrecord_framing import COMPRESSIONS, damaged_data, first_record, walk
from kopt.data.tfrecord_schema import check_record, parsing_features, restore

CHECKS = ("headers", "full", False)
# Files that are read at the same time; with more files, the next one begins when one ends.
_CYCLE = 64
_BLOCK = 64  # records of a file before the next file's turn, where no manifest says it
_UNCOUNTED = 1 << 62
# A record that stands for a damaged one begins with this. No message of protobuf does: T is the tag of the end of a
# group, and none was begun.
_LOST = b"This TFRecord file is damaged: "


def from_tfrecords(
    pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    batch_size: int,
    features: Mapping[str, Any] | None = None,
    parse: Callable[..., Any] | None = None,
    decode: Callable[..., Any] | None = None,
    shuffle: bool | int = False,
    compression: str | None = "auto",
    augment: Augmentation | Callable[..., Any] | None = None,
    cache: CacheRequest = None,
    drop_remainder: bool = False,
    seed: int | None = None,
    check: str | bool = "headers",
) -> tf.data.Dataset:
    """Return batches of the examples in TFRecord files as a parallel, prefetched data set.

    Use it for data that is too large for arrays or that was written once for many trainings. Files are read
    interleaved, some examples of each in turn, and whole batches are parsed at once. The order does not depend on which
    file answers first; files of `write_tfrecords` (up to 64 shards) give the order in which they were written.

    Args:
        pattern: glob pattern, list of files, or a directory that `write_tfrecords` wrote.
        batch_size: examples in a batch, at least 1.
        features: `tf.io` features by name, as for `tf.io.parse_example`. `None` takes types, shapes and structure from
            the `manifest.json` of `write_tfrecords`.
        parse: maps the features of a batch, a dict by name, to a batch `(x, y)`, e.g.
            `lambda f: (f["image"], f["label"])`. Without `features` it is called with the elements that were written,
            `parse(x, y)` for pairs. `None` leaves them as they are.
        decode: the same for one example at a time, run in parallel before batches are made: for what cannot be done to
            a whole batch, such as `kopt.data.decode_image`. Not together with `parse`.
        shuffle: reorder the files, anew every epoch, and the examples in a buffer; a number is the buffer's size in
            examples, `True` makes it 256 MB.
        compression: `"GZIP"`, `"ZLIB"`, `None`, or `"auto"`: by the first bytes of the files.
        augment: a `kopt.data.Augmentation`, or any function that maps a batch to a batch.
        cache: as `kopt.data.plan_cache` takes it: `True` keeps the examples in memory (decoded ones with `decode`, else
            as they are stored), a directory keeps them there, `"auto"` chooses by what fits. Shuffling, `parse` and
            `augment` come after it; `decode` must not be random then.
        drop_remainder: leave out a last batch that is not full, so that every batch has the same static shape.
        seed: makes the order the same in every run (with the same `tf.random.set_seed`, where that is called); epochs
            still differ from each other.
        check: what is looked at before the first step. `"headers"`: where each record begins and ends, at about 1 us a
            record (with a manifest: the sizes of the files; compressed files are unpacked for it, which takes as long
            as reading them). `"full"`: also the checksum of all data, in one pass over it. `False`: nothing; then,
            without a manifest, TensorFlow's own error in the epoch names an offset but no file.

    Returns:
        `tf.data.Dataset` of what `parse` or `decode` return, of the elements that were written, or of dicts. Its
        cardinality is known unless `check=False` without a manifest.

    Raises:
        DataError: no file matches, no examples, a damaged file (with the offset), or a schema that the first record
            does not fit. Damage that `check` did not look for ends the epoch with a `tf.errors.InvalidArgumentError`
            that names file and offset.
        ConfigError: an impossible setting.

    Example:
        >>> written = kopt.data.write_tfrecords((x_train, y_train), "train", shards=2, progress=None)
        >>> train = kopt.data.from_tfrecords("train", batch_size=128, shuffle=True, seed=0)
        >>> train.element_spec[0]
        TensorSpec(shape=(None, 8, 8, 1), dtype=tf.float32, name=None)

        Files of others need their features, and images a decoder:

        >>> features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        >>> def decode(example):
        ...     return kopt.data.decode_image(example["image"]) / 255, example["label"]
        >>> options = {"features": features, "decode": decode}
        >>> kopt.data.from_tfrecords("photos-*.tfrecord", batch_size=128, **options)
        Traceback (most recent call last):
            ...
        kopt.core.errors.DataError: No file matches 'photos-*.tfrecord'. ...
    """
    _check_settings(batch_size, features, parse, decode, shuffle, compression, check)
    check_seed(seed, draws=bool(shuffle) or isinstance(augment, Augmentation))
    files = matching(pattern)
    manifest = manifest_of(files)
    kind = compression_of(files, compression)
    counts = count_records(files, kind, check, manifest)
    total = int(counts.sum()) if counts is not None else tf.data.UNKNOWN_CARDINALITY
    if counts is not None:
        check_fills_a_batch(total, batch_size, drop_remainder)
    own = manifest if features is None else None
    schema = parsing_features(own.features) if own is not None else features
    if schema is None:
        raise DataError(
            f"There is no {MANIFEST} of `write_tfrecords` beside {files[0]}, so pass `features`, e.g. "
            f"features={{'x': tf.io.FixedLenFeature([28, 28], tf.float32), 'y': tf.io.FixedLenFeature([], tf.int64)}}."
        )
    record_bytes = _check_first(files, kind, schema)
    to_features = functools.partial(_features, schema=schema, manifest=own)

    def shuffled(dataset: tf.data.Dataset, *, in_memory: bool) -> tf.data.Dataset:
        if not shuffle:
            return dataset
        count = total if counts is not None else _UNCOUNTED
        window = shuffle_window(count, record_bytes, in_memory=in_memory) if shuffle is True else int(shuffle)
        return dataset.shuffle(window, seed=seed, reshuffle_each_iteration=True)

    block = manifest.block if manifest is not None else _BLOCK
    records = _records(files, counts, kind, block, shuffle=bool(shuffle), seed=seed)
    kept, plan = apply_cache(
        _decoded(records, to_features, decode),
        cache,
        fingerprint=lambda: _fingerprint(files, records, to_features, decode, shuffle, seed),
    )
    if plan.place != "none":
        dataset = shuffled(kept, in_memory=plan.place == "memory").batch(batch_size, drop_remainder=drop_remainder)
    elif shuffle or decode is not None:
        # A buffer of records takes less memory than one of what they decode to.
        dataset = _decoded(shuffled(records, in_memory=False), to_features, decode)
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    else:
        dataset = _records(files, counts, kind, block, vectors=True)
        dataset = dataset.rebatch(batch_size, drop_remainder=drop_remainder)
    if decode is None:
        dataset = _mapped(dataset, to_features)
        dataset = dataset if parse is None else _mapped(dataset, parse)
    dataset = apply_augment(dataset, augment, seed)
    if counts is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches_of(total, batch_size, drop_remainder)))
    return remember_cache(sharded_by(dataset.prefetch(tf.data.AUTOTUNE)), plan)


def _check_settings(
    batch_size: Any, features: Any, parse: Any, decode: Any, shuffle: Any, compression: Any, check: Any
) -> None:
    check_batch_size(batch_size)
    if parse is not None and decode is not None:
        raise ConfigError("`parse` works on batches and `decode` on single examples. Pass one of the two.")
    if not isinstance(shuffle, bool) and (not isinstance(shuffle, (int, np.integer)) or shuffle < 1):
        raise ConfigError(f"`shuffle` must be True, False or the size of a buffer, at least 1. Received: {shuffle!r}.")
    if compression not in (*COMPRESSIONS, None, "auto"):
        hint = nearest(str(compression).upper(), ("GZIP", "ZLIB"))
        raise ConfigError(f"`compression` must be 'GZIP', 'ZLIB', None or 'auto'.{hint} Received: {compression!r}.")
    if not any(check is known or check == known for known in CHECKS) or check is True:
        raise ConfigError(f"`check` must be 'headers', 'full' or False. Received: {check!r}.")
    if features is not None and (not isinstance(features, Mapping) or not features):
        raise ConfigError(
            f"`features` must be a dict of tf.io features by name, e.g. {{'y': tf.io.FixedLenFeature([], tf.int64)}}. "
            f"Received: {type(features).__module__}.{type(features).__qualname__}."
        )


def _check_first(files: list[Path], kind: str, schema: Mapping[str, Any]) -> int:
    """Hold the first record against the schema, and return its size in bytes."""
    for file in files:
        record = first_record(file, kind)
        if record is not None:
            check_record(record, schema, str(file))
            return len(record)
    raise no_examples(files)


def _records(
    files: list[Path],
    counts: Any,
    kind: str,
    block: int,
    *,
    shuffle: bool = False,
    seed: int | None = None,
    vectors: bool = False,
) -> tf.data.Dataset:
    """Return serialized examples; where the counts are known, a stand-in for each that a damaged file does not give.

    Args:
        files: in the order of their turns.
        counts: records in each, or `None`.
        kind: their compression.
        block: records of a file that make a turn.
        shuffle: reorder the files.
        seed: of that order.
        vectors: give each turn as one vector, which costs less than single records.
    """
    names = tf.constant([str(file) for file in files])
    sources = tf.data.Dataset.from_tensor_slices((names, counts if counts is not None else np.zeros(len(files), int)))
    if shuffle:
        sources = sources.shuffle(len(files), seed=seed, reshuffle_each_iteration=True)

    def one_file(name: Any, count: Any) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(name, kind)
        if counts is not None:
            lost = tf.data.Dataset.from_tensors(name).map(functools.partial(_stand_in, kind=kind)).repeat()
            records = records.ignore_errors().concatenate(lost).take(count)
        return records.batch(block) if vectors else records

    records = sources.interleave(
        one_file,
        cycle_length=min(len(files), _CYCLE),
        block_length=1 if vectors else block,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if counts is None or vectors:
        return records
    return records.apply(tf.data.experimental.assert_cardinality(int(counts.sum())))


def _stand_in(name: Any, *, kind: str) -> Any:
    def look(name: bytes) -> bytes:
        file = Path(os.fsdecode(name))
        damage = walk(file, kind).damage or damaged_data(file, kind) or "it could not be read, but can be now"
        return _LOST + f"{file}: {damage}".encode()

    return tf.ensure_shape(tf.numpy_function(look, [name], tf.string), ())


def _features(records: Any, *, schema: Mapping[str, Any], manifest: TFRecordManifest | None) -> Any:
    """Return the features (or with a manifest the elements) of a vector of records, or of a single one."""
    begins = tf.reshape(tf.strings.substr(records, 0, 1000), [-1])
    lost = tf.equal(tf.strings.substr(begins, 0, len(_LOST)), _LOST)
    # The operation itself: `tf.debugging.Assert` adds branches, which cost 40 ms at the start of every epoch.
    sound = tf.raw_ops.Assert(condition=~tf.reduce_any(lost), data=[tf.boolean_mask(begins, lost)], summarize=1)
    with tf.control_dependencies([sound]):
        records = tf.identity(records)
    parser = tf.io.parse_single_example if records.shape.rank == 0 else tf.io.parse_example
    parsed = parser(records, dict(schema))
    return parsed if manifest is None else restore(parsed, manifest.features)


def _decoded(records: tf.data.Dataset, to_features: Callable[..., Any], decode: Any) -> tf.data.Dataset:
    return records if decode is None else _mapped(records, _decoder(to_features, decode))


def _decoder(to_features: Callable[..., Any], decode: Callable[..., Any]) -> Callable[..., Any]:
    def decoder(record: Any) -> Any:
        element = to_features(record)
        return decode(*element) if isinstance(element, tuple) else decode(element)

    return decoder


def _mapped(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _fingerprint(
    files: list[Path], records: tf.data.Dataset, to_features: Callable[..., Any], decode: Any, *order: Any
) -> str:
    stats = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    function = "" if decode is None else function_fingerprint(_decoder(to_features, decode), records.element_spec)
    return hashlib.blake2b(repr((stats, function, order)).encode(), digest_size=16).hexdigest()
