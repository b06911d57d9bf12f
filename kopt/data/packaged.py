"""Data sets that need no preparation: `digits` and `fashion_mnist`."""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import keras
import numpy as np
from sklearn.datasets import load_digits

from kopt.core.errors import DataError, nearest
from kopt.data.splits import Array, DataSplits, Split, stratified_split

_DIGITS_SEED = 0
_FASHION_VALIDATION = 10_000
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
_IDX_UNSIGNED_BYTE = 0x08


def load(name: str) -> DataSplits:
    """Return a packaged data set as arrays.

    Use it to try kopt, or as a fixed yardstick: the splits never change.

    Args:
        name: `"digits"`: 1,797 scans of 8x8 (scikit-learn), float32 in [0, 1] of shape (n, 8, 8, 1), split by class
            into 1,259 train, 269 validation and 269 test. `"fashion_mnist"`: 28x28 photographs of clothes, float32
            in [0, 1] of shape (n, 28, 28, 1), 50,000 train, 10,000 validation (the last 10,000 of the published
            training set) and 10,000 test. Labels are int64.

    Raises:
        DataError: unknown name; Fashion-MNIST is not on this machine and cannot be downloaded, or a file is damaged.

    Example:
        >>> digits = kopt.data.load("digits")
        >>> digits.train.x.shape, digits.class_names[:3]
        ((1259, 8, 8, 1), ('0', '1', '2'))
    """
    if name not in PACKAGED:
        raise DataError(f"Unknown data set {name!r}.{nearest(name, PACKAGED)} Packaged: {', '.join(PACKAGED)}.")
    return PACKAGED[name]()


def parse_idx(content: bytes) -> Array:
    """Return the uint8 array in an idx file, the format of MNIST.

    Source: "The IDX file format", http://yann.lecun.com/exdb/mnist: two zero bytes, a type byte, the number of
    dimensions, each dimension as a big-endian 32-bit integer, then the values.

    Raises:
        DataError: not idx, not of unsigned bytes, or not as long as its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_UNSIGNED_BYTE:
        raise DataError(f"Not an idx file of unsigned bytes: it begins with {content[:4].hex(' ') or 'nothing'}.")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise DataError(f"The idx file is truncated: {len(content)} bytes, its header alone has {header}.")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"The idx file is truncated or damaged: its header announces {math.prod(shape)} bytes of shape {shape}, "
            f"it holds {len(content) - header}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _digits() -> DataSplits:
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    y = labels.astype(np.int64)
    rest, test = stratified_split(y, 0.15, _DIGITS_SEED)
    train, validation = stratified_split(y[rest], 0.15 / 0.85, _DIGITS_SEED)
    return DataSplits(
        "digits",
        train=Split(x[rest[train]], y[rest[train]]),
        validation=Split(x[rest[validation]], y[rest[validation]]),
        test=Split(x[test], y[test]),
        class_names=tuple(str(digit) for digit in range(10)),
    )


def _fashion_mnist() -> DataSplits:
    x_train, y_train, x_test, y_test = _fashion_arrays()
    x, y = _unit_images(x_train), y_train.astype(np.int64)
    return DataSplits(
        "fashion_mnist",
        train=Split(x[:-_FASHION_VALIDATION], y[:-_FASHION_VALIDATION]),
        validation=Split(x[-_FASHION_VALIDATION:], y[-_FASHION_VALIDATION:]),
        test=Split(_unit_images(x_test), y_test.astype(np.int64)),
        class_names=_FASHION_CLASSES,
    )


def _unit_images(pixels: Array) -> Array:
    scaled: Array = np.divide(pixels[..., None], np.float32(255))
    return scaled


def _fashion_arrays() -> tuple[Array, Array, Array, Array]:
    for directory in (_DEBIAN_FASHION, _keras_home() / "datasets" / "fashion-mnist"):
        files = [_idx_file(directory, name) for name in _FASHION_FILES]
        if None not in files:
            x_train, y_train, x_test, y_test = (_read_idx(file) for file in files if file is not None)
            return x_train, y_train, x_test, y_test
    return _download_fashion()


def _keras_home() -> Path:
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def _idx_file(directory: Path, name: str) -> Path | None:
    return next((file for file in (directory / f"{name}.gz", directory / name) if file.is_file()), None)


def _read_idx(file: Path) -> Array:
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return parse_idx(content)
    except (DataError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is damaged ({error}). Delete it and fetch it anew.") from error


def _download_fashion() -> tuple[Array, Array, Array, Array]:
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    except Exception as error:
        # Keras reports a failed download as a bare Exception; anything more specific is not about the network.
        if type(error) is not Exception and not isinstance(error, (URLError, TimeoutError, ConnectionError)):
            raise
        raise DataError(
            f"Fashion-MNIST is not on this machine and cannot be downloaded ({error}). "
            f"Add it with `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), or copy its four .gz files to "
            f"{_keras_home() / 'datasets' / 'fashion-mnist'}, or run once with a network."
        ) from error
    return x_train, y_train, x_test, y_test


PACKAGED: dict[str, Callable[[], DataSplits]] = {"digits": _digits, "fashion_mnist": _fashion_mnist}
