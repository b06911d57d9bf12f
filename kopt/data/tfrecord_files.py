"""TFRecord files on disk: which there are, how they are compressed, how many records each holds, which is damaged."""

import concurrent.futures
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, DataError, nearest
from kopt.core.records.training.data import TFRecordManifest
from kopt.data.tfrecord_framing import damaged_data, detect_compression, walk

MANIFEST = "manifest.json"


def check_tfrecords(
    pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    compression: str | None = "auto",
    full: bool = False,
) -> dict[str, int]:
    """Return the number of records in each file, after a look at where every record begins and ends.

    Use it before a long training, or to find the damaged file when an epoch failed.

    Args:
        pattern: glob pattern, list of files, or a directory.
        compression: `"GZIP"`, `"ZLIB"`, `None`, or `"auto"`: by the first bytes of the files.
        full: also compare the checksum of all data, in one pass over it.

    Raises:
        DataError: no file matches, or a damaged file, with the offset of the record.

    Example:
        >>> written = kopt.data.write_tfrecords((x_train, y_train), "train", shards=2, progress=None)
        >>> kopt.data.check_tfrecords("train", full=True)
        {'train/data-00000-of-00002.tfrecord': 256, 'train/data-00001-of-00002.tfrecord': 256}
    """
    files = matching(pattern)
    kind = compression_of(files, compression)
    counts = count_records(files, kind, "full" if full else "headers", None)
    assert counts is not None  # for the type checker: nothing was left out
    return {str(file): int(count) for file, count in zip(files, counts, strict=True)}


def matching(pattern: Any) -> list[Path]:
    """Return the files that a glob pattern, a directory or a list stands for, sorted by name unless it is a list.

    Raises:
        DataError: there is none; the message shows what there is.
    """
    if not isinstance(pattern, (str, os.PathLike)):
        files = [Path(name) for name in pattern]
        missing = [file for file in files if not file.is_file()]
        if missing or not files:
            raise DataError(f"{missing[0] if missing else 'The empty list'} is no file. Pass TFRecord files.")
        return files
    text = os.fspath(pattern)
    if Path(text).is_dir():
        text = str(Path(glob.escape(text)) / "*.tfrecord")
    files = [Path(name) for name in sorted(glob.glob(text, recursive=True)) if Path(name).is_file()]
    if not files:
        beside = sorted(entry.name for entry in Path(text).parent.glob("*") if entry.is_file())
        shown = f" There: {', '.join(beside[:5])}{', ...' if len(beside) > 5 else ''}." if beside else ""
        raise DataError(f"No file matches {text!r}.{nearest(Path(text).name, beside)}{shown}")
    return files


def manifest_of(files: list[Path]) -> TFRecordManifest | None:
    """Return the manifest beside the files, if it is about all of them."""
    path = files[0].parent / MANIFEST
    if not path.is_file() or any(file.parent != files[0].parent for file in files):
        return None
    try:
        manifest = TFRecordManifest.from_json(path.read_text())
    except (ConfigError, UnicodeDecodeError):
        return None  # Another program's file of that name.
    known = {shard.file for shard in manifest.shards}
    return manifest if all(file.name in known for file in files) else None


def compression_of(files: list[Path], compression: str | None) -> str:
    """Return how all files are compressed, as TensorFlow spells it: `""`, `"GZIP"` or `"ZLIB"`.

    Raises:
        DataError: `compression` is `"auto"` and the files differ.
    """
    if compression != "auto":
        return compression or ""
    found = {file: detect_compression(file) for file in files if file.stat().st_size}
    kinds = sorted(set(found.values()))
    if len(kinds) > 1:
        first, other = (next(file for file in found if found[file] == kind) for kind in kinds[:2])
        raise DataError(
            f"{first} is {found[first] or 'not'} compressed, {other} is {found[other] or 'not'}. Read them as two data "
            f"sets, e.g. `first.concatenate(second)`."
        )
    return kinds[0] if kinds else ""


def count_records(files: list[Path], kind: str, check: Any, manifest: TFRecordManifest | None) -> Any:
    """Return the records in each file as int64, or `None` if nobody knows; refuse a damaged file."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        if check == "full":
            list(pool.map(lambda file: _refuse(file, walk(file, kind).damage or damaged_data(file, kind)), files))
        if manifest is not None:
            shards = {shard.file: shard for shard in manifest.shards}
            for file in files:
                if file.stat().st_size != shards[file.name].size_bytes:
                    found = walk(file, kind).damage or "but all its records are whole"
                    _refuse(
                        file,
                        f"{found}; {MANIFEST} says {shards[file.name].size_bytes} bytes, it has {file.stat().st_size}",
                    )
            counts = [shards[file.name].records for file in files]
        elif check:
            counts = list(pool.map(lambda file: _whole_records(file, kind), files))
        else:
            return None
    if not sum(counts):
        raise no_examples(files)
    return np.asarray(counts, np.int64)


def _whole_records(file: Path, kind: str) -> int:
    framing = walk(file, kind)
    _refuse(file, framing.damage)
    return len(framing.lengths)


def _refuse(file: Path, damage: str) -> None:
    if damage:
        raise DataError(
            f"{file} is damaged: {damage}. Write or copy it anew; `kopt.data.check_tfrecords` looks at files alone."
        )


def no_examples(files: list[Path]) -> DataError:
    """Return the error for files without any record."""
    return DataError(f"There are no examples in {files[0]}{' and the other files' if len(files) > 1 else ''}.")
