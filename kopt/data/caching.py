"""Keeping what a pipeline made, in memory or on disk by what fits, and never taking one data set's for another's.

`tf.data` marks a cache file that is being filled with a lock file, which a killed process leaves behind: every later
run then fails. Here each process fills a directory of its own below the data's key and holds a file lock on it,
which the system drops when the process ends in whatever way. A later run uses a directory whose cache is complete and
clears away the incomplete ones that nobody holds.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, OutputError, nearest
from kopt.core.files import writing_to
from kopt.core.records.training.data import CachePlan
from kopt.data.room import available_memory_bytes, free_disk_bytes
from kopt.data.sharding import workers
from kopt.version import __version__

CacheRequest = bool | str | os.PathLike[str] | None

# The rest is for the model, its gradients and the buffers of the pipeline itself.
MEMORY_SHARE = 0.5
DISK_SHARE = 0.8
_SAMPLED_ELEMENTS = 4
_OWNER = "owner.lock"
_FILE = "elements"

_log = logging.getLogger("kopt.data")
_plans: "weakref.WeakKeyDictionary[Any, CachePlan]" = weakref.WeakKeyDictionary()
# Open files hold their locks until the process ends, in whatever way it ends.
_held: list[IO[bytes]] = []


def apply_cache(
    dataset: tf.data.Dataset,
    cache: CacheRequest,
    *,
    fingerprint: str | Callable[[], str],
    size_bytes: int | None = None,
) -> tuple[tf.data.Dataset, CachePlan]:
    """Return `dataset` with the cache that `cache` asks for, and what was chosen and why.

    Builders call it after the last step that is the same in every epoch and before shuffling and augmentation.

    Args:
        dataset: what to keep.
        cache: as `plan_cache` takes it.
        fingerprint: names the content (files with their sizes and times, settings, or a hash of the values). Types,
            shapes and versions are added here. A cache on disk serves equal fingerprints only. A function is called
            when a cache on disk is chosen.
        size_bytes: size of all elements, where the caller knows it better than the types and shapes tell.

    Raises:
        ConfigError: `cache` is something else.
        OutputError: the directory cannot be written.
    """
    plan = plan_cache(dataset, cache, fingerprint=fingerprint, size_bytes=size_bytes)
    if plan.place == "none":
        if cache == "auto":
            _log.warning("The data set is not cached: %s", plan.reason)
        return dataset, plan
    _log.info("The data set is cached %s: %s", _where(plan), plan.reason)
    if plan.place == "memory":
        return dataset.cache(), plan
    assert plan.directory is not None  # for the type checker: `disk` has one
    return dataset.cache(str(_claim(Path(plan.directory)) / _FILE)), plan


def plan_cache(
    dataset: tf.data.Dataset,
    cache: CacheRequest = "auto",
    *,
    fingerprint: str | Callable[[], str] = "",
    size_bytes: int | None = None,
    memory_bytes: Callable[[], int | None] = available_memory_bytes,
    disk_bytes: Callable[[Path], int] = free_disk_bytes,
) -> CachePlan:
    """Decide where the elements of a data set can be kept, without keeping them.

    Args:
        dataset: what to keep. Its size is the number of elements times the size of one; where a dimension is open or
            the elements are text, the first few are read to find out.
        cache: `None` or `False` keeps nothing, `True` or `"memory"` keeps them in memory, a path in files below that
            directory, `"auto"` in memory if they take at most half of what is available (control groups included),
            else on disk below the temporary directory if they take at most 0.8 of what is free, else nowhere.
        fingerprint: see `apply_cache`.
        size_bytes: see `apply_cache`.
        memory_bytes: tells the available memory.
        disk_bytes: tells the free bytes of a directory.

    Returns:
        The decision with its reason and numbers.

    Raises:
        ConfigError: `cache` is something else.

    Example:
        >>> plan = kopt.data.plan_cache(tf.data.Dataset.range(1000).batch(10))
        >>> plan.place, plan.size_bytes  # 1,000 numbers of 8 bytes
        ('memory', 8000)
    """
    if cache is None or cache is False:
        return CachePlan("none", "not asked for.")
    if cache is True or cache == "memory":
        return CachePlan("memory", "asked for.", size_bytes, memory_bytes())
    if cache != "auto":
        directory = _directory(cache)
        directory = directory / _key(dataset, fingerprint)
        return CachePlan("disk", "asked for.", size_bytes, None, disk_bytes(directory), str(directory))
    size = dataset_bytes(dataset) if size_bytes is None else size_bytes
    directory = _default_directory()
    plan = _fitting(size, memory_bytes(), disk_bytes(directory), directory)
    if plan.place != "disk":
        return plan
    return dataclasses.replace(plan, directory=str(directory / _key(dataset, fingerprint)))


def cache_of(dataset: tf.data.Dataset) -> CachePlan | None:
    """Return where a data set that a builder of `kopt.data` made keeps its elements and why.

    `None` for data sets from elsewhere, and after further transformations of one.

    Example:
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=64, cache=True)
        >>> plan = kopt.data.cache_of(train)
        >>> plan.place, plan.size_bytes == x_train.nbytes + y_train.nbytes
        ('memory', True)
    """
    return _plans.get(dataset)


def remember_cache(dataset: tf.data.Dataset, plan: CachePlan) -> tf.data.Dataset:
    """Note `plan` for `cache_of`, on the finished data set that a builder returns."""
    _plans[dataset] = plan
    return dataset


def function_fingerprint(function: Callable[..., Any], spec: Any) -> str:
    """Return a name for what `function` computes on elements of `spec`: a hash of its traced graph and constants.

    A function that reads variables gets another name each time, because their values may change.
    """
    arguments = spec if isinstance(spec, tuple) else (spec,)
    traced = tf.function(function).get_concrete_function(*arguments)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(traced.graph.as_graph_def().SerializeToString(deterministic=True))
    for captured in traced.captured_inputs:
        if captured.dtype in (tf.resource, tf.variant):
            return f"unique {uuid.uuid4().hex}"
        digest.update(np.asarray(captured).tobytes())
    return digest.hexdigest()


def dataset_bytes(dataset: tf.data.Dataset) -> int | None:
    """Return the size of all elements in bytes; `None` if their number is unknown or infinite."""
    count = int(dataset.cardinality())
    if count < 0:
        return None
    sizes = [_spec_bytes(spec) for spec in tf.nest.flatten(dataset.element_spec)]
    if None not in sizes:
        return count * sum(size for size in sizes if size is not None)
    samples = [_element_bytes(element) for element in dataset.take(_SAMPLED_ELEMENTS)]
    # A last batch that is not full makes the mean too small, never the largest.
    return count * max(samples, default=0)


def _fitting(size: int | None, memory: int | None, disk: int, directory: Path) -> CachePlan:
    if size is None:
        return CachePlan(
            "none",
            "the number of elements is unknown or infinite, so it cannot be told whether they fit. "
            "State it with `.apply(tf.data.experimental.assert_cardinality(n))`, or pass `cache=True` or a path.",
            None,
            memory,
            disk,
        )
    in_memory = f"{_gigabytes(size)} of {'an unknown amount' if memory is None else _gigabytes(memory)} available"
    if memory is not None and size <= MEMORY_SHARE * memory:
        return CachePlan("memory", f"it fits, {in_memory} (at most half is used).", size, memory, disk)
    on_disk = f"{_gigabytes(size)} of {_gigabytes(disk)} free in {directory}"
    if size <= DISK_SHARE * disk:
        reason = f"memory is too small ({in_memory}, at most half is used); the disk holds it, {on_disk}."
        return CachePlan("disk", reason, size, memory, disk, str(directory))
    return CachePlan(
        "none",
        f"neither memory ({in_memory}, at most half is used) nor disk ({on_disk}, at most 0.8 is "
        f"used) holds it. Pass a directory with more room, e.g. `cache='/data/cache'`.",
        size,
        memory,
        disk,
    )


def _claim(directory: Path) -> Path:
    """Return a complete cache below `directory`, or a new place in it that only this process fills."""
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for place in sorted(directory.iterdir()):
            if _is_complete(place):
                return place
        for place in directory.iterdir():
            _remove_if_abandoned(place)
        place = Path(tempfile.mkdtemp(prefix="fill-", dir=directory))
        owner = open(place / _OWNER, "wb")  # noqa: SIM115 -- stays open for as long as the process lives
        fcntl.flock(owner, fcntl.LOCK_EX)
    _held.append(owner)
    return place


def _is_complete(place: Path) -> bool:
    # TensorFlow writes the index when the last element is in, under a temporary name first.
    return (place / f"{_FILE}.index").is_file() and not list(place.glob(f"{_FILE}_*.lockfile"))


def _remove_if_abandoned(place: Path) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError), open(place / _OWNER, "rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)


def _key(dataset: tf.data.Dataset, fingerprint: str | Callable[[], str]) -> str:
    content = fingerprint() if callable(fingerprint) else fingerprint
    # Every worker of a distributed training fills its own: they see different shards.
    parts = (__version__, tf.__version__, repr(dataset.element_spec), int(dataset.cardinality()), workers(), content)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _directory(cache: Any) -> Path:
    if isinstance(cache, (str, os.PathLike)) and os.fspath(cache):
        path = Path(cache).absolute()
        if path.is_file():
            raise OutputError(f"`cache` is a directory for the files of the cache. {path} is a file.")
        if isinstance(cache, str) and not path.exists() and os.sep not in cache and nearest(cache, ("auto", "memory")):
            raise ConfigError(
                f"Unknown cache {cache!r}.{nearest(cache, ('auto', 'memory'))} For a directory of that name pass "
                f"'./{cache}'."
            )
        return path
    raise ConfigError(
        f"`cache` must be None, True, 'memory', 'auto' or the path of a directory. Received: {cache!r} "
        f"({type(cache).__name__})."
    )


def _default_directory() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"kopt-cache-{user}"


def _spec_bytes(spec: Any) -> int | None:
    if not isinstance(spec, tf.TensorSpec) or spec.dtype == tf.string or not spec.shape.is_fully_defined():
        return None
    return int(np.prod(spec.shape.as_list(), dtype=np.int64)) * int(spec.dtype.size)


def _element_bytes(element: Any) -> int:
    total = 0
    for part in tf.nest.flatten(element, expand_composites=True):
        if part.dtype == tf.string:
            total += int(tf.reduce_sum(tf.strings.length(part))) + 24 * int(tf.size(part))  # a string object each
        else:
            total += int(tf.size(part)) * int(part.dtype.size)
    return total


def _where(plan: CachePlan) -> str:
    return "in memory" if plan.place == "memory" else f"on disk in {plan.directory}"


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.3g} MB"
