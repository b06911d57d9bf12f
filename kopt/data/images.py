"""Folders of images to a `tf.data` pipeline."""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, nearest
from kopt.core.records.training.data import CachePlan
from kopt.data.augmentation import Augmentation, apply_augment
from kopt.data.caching import CacheRequest, apply_cache, remember_cache
from kopt.data.damage import Recorder, batch_whole, numbered, refuse, remember, row_at
from kopt.data.image_decoding import CHANNELS, decode_image, decode_other, decode_window, read_image, resize
from kopt.data.image_folders import files_by_class, image_classes
from kopt.data.sharding import check_seed, sharded_by
from kopt.data.splits import Array
from kopt.data.stages import batches_of, check_batch_size, check_fills_a_batch, shuffle_window

LABELS = ("int", "categorical", "binary")
CORRUPT = ("raise", "skip")
_DAMAGED = (
    "cannot be decoded as an image of {channels} channel(s): damaged, or no still JPEG, PNG, WebP or BMP. Replace or "
    "remove it, or leave such files out: set `corrupt` to skip."
)


def from_images(
    directory: str | os.PathLike[str],
    *,
    image_size: tuple[int, int],
    batch_size: int,
    channels: int = 3,
    labels: str | None = "int",
    crop_to_aspect_ratio: bool = False,
    shuffle: bool = False,
    augment: Augmentation | Callable[..., Any] | None = None,
    cache: CacheRequest = None,
    drop_remainder: bool = False,
    seed: int | None = None,
    corrupt: str = "raise",
) -> tf.data.Dataset:
    """Return batches of the images in class folders as a parallel, prefetched data set.

    Use it when the images do not fit into memory; `load_folder` reads them all into arrays.

    Reading, decoding and resizing are one parallel map inside the TensorFlow runtime; the order of the batches does not
    depend on which image is ready first. Pixels are `resize(image) / 255` with `tf.image.resize`, bilinear: what
    `keras.utils.image_dataset_from_directory` gives, divided by 255, to 1e-6; what `load_folder` gives exactly.

    Args:
        directory: one folder of JPEG, PNG, WebP or BMP files a class. The sorted folder names are the classes, see
            `image_classes`. The bytes of a file decide its format, but a folder without any `.webp` file is taken to
            hold no WebP images with transparency. Animated ones count as damaged.
        image_size: (height, width) that images are resized to.
        batch_size: examples in a batch, at least 1.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA; JPEG and BMP files have no transparency and become opaque).
        labels: `"int"`: int64 of shape (n,); `"categorical"`: one-hot float32 of shape (n, classes); `"binary"`:
            float32 0 or 1 of shape (n, 1), for two classes; `None`: images alone.
        crop_to_aspect_ratio: cut the largest centered window of the target's proportions instead of stretching. A
            JPEG decodes only that window, so pixels in its outermost columns can differ from a cut after decoding,
            by up to 11 of 255 in tests.
        shuffle: reorder all images, anew every epoch.
        augment: a `kopt.data.Augmentation`, or any function that maps a batch `(x, y)` to a batch `(x, y)` (`x` to `x`
            without labels). Stateful random operations in a function of your own do not repeat under `seed`.
        cache: `True` keeps the decoded images in memory, a path keeps them in files there, `"auto"` chooses by what
            fits. An image takes `4 * height * width * channels` bytes. Shuffling and `augment` come after it, so both
            stay random.
        drop_remainder: leave out a last batch that is not full, so that every batch has the same static shape.
        seed: makes the order the same in every run (with the same `tf.random.set_seed`, where that is called); epochs
            still differ from each other.
        corrupt: what a file that cannot be decoded does. `"raise"`: ends the epoch with a
            `tf.errors.InvalidArgumentError` that names the file. `"skip"`: it is left out, a `RuntimeWarning` names
            it, and `skipped_files(dataset)` counts it; batches stay full. Skipping keeps its list in this process, so
            it does not work in workers of a tf.data service.

    Returns:
        `tf.data.Dataset` of `(x, y)`, or of `x` with `labels=None`; x is float32 in [0, 1] of shape
        (n, height, width, channels). Its cardinality is known with `corrupt="raise"`.

    Raises:
        DataError: not a folder, fewer than two classes, a class without images, or fewer images than one full batch.
        ConfigError: an impossible setting.

    Example:
        >>> train = kopt.data.from_images("images", image_size=(16, 16), batch_size=4, shuffle=True, seed=0)
        >>> x, y = next(iter(train))
        >>> x.shape, len(train)
        (TensorShape([4, 16, 16, 3]), 3)
    """
    size = _check_settings(image_size, batch_size, channels, labels, corrupt)
    check_seed(seed, draws=shuffle or isinstance(augment, Augmentation))
    directory = Path(directory)
    classes = image_classes(directory)
    if labels == "binary" and len(classes) != 2:
        raise ConfigError(f'`labels="binary"` needs two classes; {directory} has {len(classes)}. Use "categorical".')
    files, numbers = files_by_class(directory, classes)
    count, names = len(files), [str(file) for file in files]
    check_fills_a_batch(count, batch_size, drop_remainder)
    with tf.device("/cpu:0"):
        paths, targets = tf.constant(names), _targets(numbers, labels, len(classes))
    pixels = decode_window if crop_to_aspect_ratio else _whole if _has_webp(files) else _plain

    def load(position: Any, epoch: Any) -> Any:
        row = row_at(position, epoch, count, shuffle=shuffle)
        x = resize(pixels(tf.io.read_file(paths[row]), size, channels=channels), size)
        x = tf.ensure_shape(x, (*size, channels))
        return (position, epoch, x) if targets is None else (position, epoch, x, targets[row])

    recorder = Recorder(names, lambda file: _examine(file, channels))
    report = recorder.report if corrupt == "skip" else refuse(paths, _DAMAGED.format(channels=channels))
    images = numbered(count, shuffle=shuffle, seed=seed).map(
        load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    whole = functools.partial(batch_whole, images, count, batch_size, shuffle=shuffle, report=report)
    example_bytes = 4 * size[0] * size[1] * channels
    settings = (size, channels, crop_to_aspect_ratio, labels, shuffle, seed, corrupt)
    dataset: Any = None
    plan = CachePlan("none", "not asked for.")
    if cache:
        dataset, plan = apply_cache(
            whole(drop_remainder=False).unbatch(),
            cache,
            fingerprint=lambda: _fingerprint(files, settings),
            size_bytes=count * example_bytes,
        )
    if plan.place == "none":
        dataset = whole(drop_remainder=drop_remainder)
    else:
        if shuffle:
            window = shuffle_window(count, example_bytes, in_memory=plan.place == "memory")
            dataset = dataset.shuffle(window, seed=seed, reshuffle_each_iteration=True)
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    dataset = apply_augment(dataset, augment, seed)
    if corrupt == "raise":
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches_of(count, batch_size, drop_remainder)))
    dataset = remember_cache(sharded_by(dataset.prefetch(tf.data.AUTOTUNE)), plan)
    if corrupt == "skip":
        remember(dataset, recorder)
    return dataset


def _check_settings(image_size: Any, batch_size: Any, channels: Any, labels: Any, corrupt: Any) -> tuple[int, int]:
    check_batch_size(batch_size)
    if not isinstance(image_size, (tuple, list)) or len(image_size) != 2 or not all(map(_is_positive, image_size)):
        raise ConfigError(f"`image_size` must be (height, width) in pixels, e.g. (224, 224). Received: {image_size!r}.")
    if isinstance(channels, bool) or channels not in CHANNELS:
        raise ConfigError(f"`channels` must be 1 (gray), 3 (RGB) or 4 (RGBA). Received: {channels!r}.")
    if labels is not None and labels not in LABELS:
        raise ConfigError(
            f"Unknown `labels`: {labels!r}.{nearest(str(labels), LABELS)} Accepted: {', '.join(LABELS)} or None."
        )
    if corrupt not in CORRUPT:
        raise ConfigError(
            f"`corrupt` must be one of {', '.join(CORRUPT)}.{nearest(str(corrupt), CORRUPT)} Received: {corrupt!r}."
        )
    return int(image_size[0]), int(image_size[1])


def _is_positive(number: Any) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool) and int(number) >= 1


def _targets(numbers: Array, labels: str | None, classes: int) -> Any:
    if labels is None:
        return None
    if labels == "categorical":
        return tf.one_hot(numbers, classes)
    return tf.constant(numbers) if labels == "int" else tf.constant(numbers[:, None], tf.float32)


def _fingerprint(files: list[Path], settings: tuple[Any, ...]) -> str:
    stats = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    return hashlib.blake2b(repr((stats, settings)).encode(), digest_size=16).hexdigest()


def _has_webp(files: list[Path]) -> bool:
    return any(file.suffix.lower() == ".webp" for file in files)


def _plain(content: Any, size: tuple[int, int], *, channels: int) -> Any:
    # What `decode_image` does for formats other than WebP. Its branches cost 40 ms at the start of every epoch.
    return decode_other(content, channels)


def _whole(content: Any, size: tuple[int, int], *, channels: int) -> Any:
    return decode_image(content, channels=channels)


def _examine(file: Path, channels: int) -> str:
    try:
        read_image(file, None, channels)
    except (DataError, OSError) as error:
        return str(error)
    return f"{file} could not be read, but can be now."
