"""Shards on disk with what a teacher gives for each example, found by the bytes of the example."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, LoadError
from kopt.core.files import atomic_path, atomic_write, remove_leftovers
from kopt.core.records.changes.distillation import CacheManifest

MANIFEST = "teacher.json"
KEYS = "keys"
_SHARDS = "shard-*.npz"


def keys_of(x: Any) -> tf.Tensor:
    """Return an int64 key for each example of a batch: 64-bit FarmHash of its bytes, over all inputs.

    Equal examples have equal keys, wherever they come in an epoch. Of n different ones two share a key with a
    probability of about n^2 / 4e19: 3e-8 for a million.
    """
    parts = [_fingerprints(leaf) for leaf in tf.nest.flatten(x)]
    whole = parts[0] if len(parts) == 1 else _fingerprints(tf.concat(parts, axis=-1))
    return tf.bitcast(whole, tf.int64)


def holds_cache(path: Any) -> bool:
    """Return whether this is the path of a directory with a cache."""
    return isinstance(path, (str, os.PathLike)) and (Path(path) / MANIFEST).is_file()


class Shards:
    """The files of one cache. Each is whole or absent, so that a run that was killed goes on after the last of them.

    Attributes:
        directory: that holds them.
        manifest: what they were made of.
    """

    def __init__(self, directory: Path, manifest: CacheManifest):
        """Take a directory whose manifest is written."""
        self.directory, self.manifest = directory, manifest

    @classmethod
    def open(cls, directory: Path) -> "Shards":
        """Open what is there.

        Raises:
            LoadError: there is no cache of a teacher.
        """
        path = directory / MANIFEST
        if not path.is_file():
            raise LoadError(f"{directory} holds no cache of a teacher. Make one with `kopt.distill.cache_teacher`.")
        return cls(directory, CacheManifest.from_json(path.read_text()))

    @classmethod
    def begin(cls, directory: Path, manifest: CacheManifest) -> "Shards":
        """Make a cache, or go on with one that was made of the same.

        Raises:
            ConfigError: the directory holds a cache that was made of something else.
            OutputError: the directory cannot be written.
        """
        if (directory / MANIFEST).is_file():
            shards = cls.open(directory)
            _require_same(directory, shards.manifest, manifest)
            remove_leftovers(directory)
            return shards
        atomic_write(directory / MANIFEST, manifest.to_json())
        return cls(directory, manifest)

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        """Write one more file."""
        numbers = [int(path.stem.rpartition("-")[2]) for path in self._paths]  # one that was damaged may be gone
        path = self.directory / f"shard-{max(numbers, default=-1) + 1:05d}.npz"
        with atomic_path(path) as staged, open(staged, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def keys(self) -> set[int]:
        """Return the keys that are there."""
        return {int(key) for path in self._paths for key in _read(path, [KEYS])[KEYS]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything in memory, in the order of the keys.

        Raises:
            LoadError: a file is damaged, or nothing is there.
        """
        parts = [_read(path) for path in self._paths]
        if not parts:
            raise LoadError(f"The cache {self.directory} holds no example yet. Run `kopt.distill.cache_teacher` on it.")
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(whole[KEYS])
        return {name: values[order] for name, values in whole.items()}

    @property
    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob(_SHARDS))


def _fingerprints(leaf: Any) -> tf.Tensor:
    return tf.raw_ops.Fingerprint(data=leaf, method="farmhash64")


def _read(path: Path, names: list[str] | None = None) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise LoadError(f"{path} is damaged ({error}). Remove it, and cache the teacher again.") from error


def _require_same(directory: Path, found: CacheManifest, wanted: CacheManifest) -> None:
    ours, theirs = wanted.to_dict(), found.to_dict()
    other = [key for key in ours if ours[key] != theirs[key] and key != "teacher"]
    if other:
        described = "; ".join(f"{key}: {theirs[key]!r} there, {ours[key]!r} here" for key in other)
        raise ConfigError(
            f"The cache {directory} was made of something else ({described}). Choose another directory, or remove it."
        )
