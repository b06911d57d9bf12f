import gzip
import math
import struct

import keras
import numpy as np
import pytest

from kopt.core.errors import DataError
from kopt.data import Split, load, packaged
from kopt.data.splits import class_ids, stratified_split

FASHION_HERE = (packaged._DEBIAN_FASHION / "train-images-idx3-ubyte.gz").is_file()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion_folder(tmp_path, monkeypatch):
    """Five training and two test images in the published file format, three of the five for training."""
    x = np.arange(7 * 28 * 28).reshape(7, 28, 28) % 256
    arrays = (x[:5], np.array([0, 1, 2, 9, 4]), x[5:], np.array([3, 8]))
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for name, array in zip(packaged._FASHION_FILES, arrays, strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    monkeypatch.setattr(packaged, "_DEBIAN_FASHION", tmp_path / "absent")
    monkeypatch.setattr(packaged, "_FASHION_VALIDATION", 2)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return folder


def test_digits_are_split_once_and_for_all():
    digits = load("digits")
    assert [len(part) for part in (digits.train, digits.validation, digits.test)] == [1259, 269, 269]
    assert sum((1259, 269, 269)) == 1797
    assert digits.num_classes == 10
    for part in (digits.train, digits.validation, digits.test):
        assert part.x.shape[1:] == (8, 8, 1)
        assert part.x.dtype == np.float32
        assert part.y.dtype == np.int64
        assert part.x.min() == 0.0
        assert part.x.max() == 1.0
        # Every class has within one example of its share: the largest class of digits has 183, the smallest 174.
        share = len(part) / 1797
        counts = np.bincount(part.y, minlength=10)
        assert math.floor(174 * share) - 1 <= counts.min() <= counts.max() <= math.ceil(183 * share) + 1
    np.testing.assert_array_equal(digits.train.x, load("digits").train.x)
    # No scan is in two parts; 1,797 scans are all different.
    rows = np.concatenate([part.x.reshape(len(part), -1) for part in (digits.train, digits.validation, digits.test)])
    assert len(np.unique(rows, axis=0)) == 1797


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(DataError, match=r"Unknown data set 'fashion-mnist'\. Did you mean 'fashion_mnist'\?"):
        load("fashion-mnist")


def test_fashion_mnist_from_the_keras_cache(fashion_folder):
    fashion = load("fashion_mnist")
    assert [len(part) for part in (fashion.train, fashion.validation, fashion.test)] == [3, 2, 2]
    np.testing.assert_array_equal(fashion.validation.y, [9, 4])
    np.testing.assert_array_equal(fashion.test.y, [3, 8])
    assert fashion.train.x.dtype == np.float32
    # Pixel (0, 9) of the first image is 9, that of the second 28 * 28 + 9 = 793 = 3 * 256 + 25.
    assert fashion.train.x[0, 0, 9, 0] == np.float32(9 / 255)
    assert fashion.train.x[1, 0, 9, 0] == np.float32(25 / 255)
    assert fashion.class_names[9] == "Ankle boot"
    assert np.shares_memory(fashion.train.x, fashion.validation.x.base)


def test_a_truncated_download_is_named(fashion_folder):
    file = fashion_folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is damaged.*Delete it"):
        load("fashion_mnist")


def test_no_fashion_mnist_and_no_network_tells_how_to_get_it(fashion_folder, monkeypatch):
    (fashion_folder / "t10k-images-idx3-ubyte.gz").unlink()

    def offline():
        raise Exception("URL fetch failure on https://example.org: None -- no route")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", offline)
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load("fashion_mnist")


def test_an_error_that_is_not_about_the_network_is_not_disguised(fashion_folder, monkeypatch):
    (fashion_folder / "t10k-images-idx3-ubyte.gz").unlink()

    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", broken)
    with pytest.raises(ZeroDivisionError):
        load("fashion_mnist")


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_HERE, reason="the Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_debian():
    fashion = load("fashion_mnist")
    assert [part.x.shape for part in (fashion.train, fashion.validation, fashion.test)] == [
        (50_000, 28, 28, 1),
        (10_000, 28, 28, 1),
        (10_000, 28, 28, 1),
    ]
    assert np.bincount(fashion.test.y).tolist() == [1000] * 10
    # The published mean of the 60,000 training pixels is 0.2860.
    total = fashion.train.x.sum(dtype=np.float64) + fashion.validation.x.sum(dtype=np.float64)
    assert total / (60_000 * 784) == pytest.approx(0.2860, abs=5e-5)


def test_idx_round_trip_and_refusals():
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(packaged.parse_idx(idx(array)), array)
    with pytest.raises(DataError, match=r"announces 24 bytes of shape \(2, 3, 4\), it holds 23"):
        packaged.parse_idx(idx(array)[:-1])
    with pytest.raises(DataError, match="10 bytes, its header alone has 16"):
        packaged.parse_idx(idx(array)[:10])
    with pytest.raises(DataError, match="begins with 50 4b 03 04"):
        packaged.parse_idx(b"PK\x03\x04 and so on")
    with pytest.raises(DataError, match="begins with nothing"):
        packaged.parse_idx(b"")


def test_stratified_split_takes_the_same_share_of_every_class():
    labels = np.repeat([0, 1, 2], [100, 10, 2])
    first, second = stratified_split(labels, 0.2, seed=3)
    # round(100 * 0.2), round(10 * 0.2), and at least one of two.
    assert np.bincount(labels[second]).tolist() == [20, 2, 1]
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(112))
    np.testing.assert_array_equal(second, stratified_split(labels, 0.2, seed=3)[1])
    assert not np.array_equal(second, stratified_split(labels, 0.2, seed=4)[1])


def test_a_split_is_as_long_as_its_examples():
    x, y = np.zeros((5, 2)), np.zeros(5)
    assert [len(Split(given, y)) for given in (x, {"a": x}, (x, x), {"a": (x, x)})] == [5] * 4


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([2, 0, 1], [2, 0, 1]),
        ([[2], [0]], [2, 0]),
        ([1.0, 0.0], [1, 0]),
        ([[0, 0, 1], [1, 0, 0]], [2, 0]),
        ([0.5, 1.0], None),
        ([[1, 1, 0]], None),
        ([[0.2, 0.8]], None),
        ([float("nan")], None),
        (["cat"], None),
        ([[[1]]], None),
    ],
)
def test_class_ids(y, expected):
    ids = class_ids(np.asarray(y))
    assert ids is None if expected is None else ids.tolist() == expected
