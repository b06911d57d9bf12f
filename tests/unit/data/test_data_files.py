import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import DataError
from kopt.data import Split, load_folder, load_npz, open_data, open_examples

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])
GOOD = {"x_train": X, "y_train": Y, "x_val": X[:3], "y_val": Y[:3]}
ENCODERS = {
    ".png": tf.io.encode_png,
    ".jpg": lambda image: tf.io.encode_jpeg(image, quality=100),
}


def write_image(file, value, size=(4, 6), channels=3):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, channels), value, np.uint8)
    file.write_bytes(ENCODERS[file.suffix.lower()](image).numpy())


@pytest.fixture
def folder(tmp_path):
    """Class "a" has gray 51, class "b" gray 204: 0.2 and 0.8 of 255."""
    for number in range(5):
        write_image(tmp_path / "b" / f"{number}.png", 204)
        write_image(tmp_path / "a" / f"{number}.JPG", 51)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_npz(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **GOOD, x_test=X[:2], y_test=Y[:2, None])
    splits = open_data(str(path))
    np.testing.assert_array_equal(splits.train.x, X)
    assert splits.train.x.dtype == np.float32
    np.testing.assert_array_equal(splits.test.y, [0, 1])
    assert splits.class_names == ("0", "1", "2")
    np.savez(path, **{**GOOD, "y_train": Y / 2})
    splits = load_npz(path)
    assert splits.test is None
    assert splits.num_classes is None


@pytest.mark.parametrize(
    ("arrays", "labels"),
    [(GOOD, Y), ({"x": X, "y": Y[:, None]}, Y), ({"x": X}, None), ({"x_train": X}, None), ({"anything": X}, None)],
)
def test_examples_need_no_labels_and_keep_those_there_are(tmp_path, arrays, labels):
    np.savez(tmp_path / "set.npz", **arrays)
    found = open_examples(tmp_path / "set.npz")
    assert isinstance(found, Split) == (labels is not None)
    np.testing.assert_array_equal(found if labels is None else found.x, X)
    if labels is not None:
        np.testing.assert_array_equal(found.y, labels)


def test_several_inputs_and_outputs_have_their_names_behind_a_slash(tmp_path):
    path, parts = tmp_path / "set.npz", (("train", 6), ("val", 3))
    inputs = {f"x_{part}/{name}": X[:count] + n for part, count in parts for n, name in enumerate(("tokens", "mask"))}
    np.savez(path, **inputs, y_train=Y, y_val=Y[:3])
    splits = load_npz(path)
    assert list(splits.train.x) == ["mask", "tokens"]
    np.testing.assert_array_equal(splits.validation.x["mask"], X[:3] + 1)
    assert (len(splits.train), splits.num_classes) == (6, 3)
    assert open_examples(path).x.keys() == {"tokens", "mask"}
    np.savez(path, **inputs, **{"y_train/age": Y, "y_train/kind": Y, "y_val/age": Y[:3], "y_val/kind": Y[:3]})
    splits = load_npz(path)
    assert splits.train.y.keys() == {"age", "kind"}
    assert splits.num_classes is None
    np.savez(path, **{"x/tokens": X, "x/mask": X, "y": Y})
    assert open_examples(path).x.keys() == {"tokens", "mask"}
    for wrong, message in (
        ({**inputs, "y_train": Y, "y_val": Y}, r"x_val has shape \(3, 4\), \(3, 4\) and y_val \(6,\)"),
        ({**GOOD, "x_train/mask": X}, "has both x_train and x_train/mask"),
    ):
        np.savez(path, **wrong)
        with pytest.raises(DataError, match=message):
            load_npz(path)


def test_examples_of_one_array_or_of_several_inputs(tmp_path):
    np.save(tmp_path / "set.npy", X)
    np.testing.assert_array_equal(open_examples(tmp_path / "set.npy"), X)
    np.savez(tmp_path / "set.npz", tokens=X, mask=Y)
    assert open_examples(tmp_path / "set.npz").keys() == {"tokens", "mask"}
    assert open_examples("digits").x.shape[1:] == (8, 8, 1)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("set.npz", lambda path: np.savez(path, x=X, labels=Y), "beside x the arrays labels. Accepted: x and y alone"),
        ("set.npz", lambda path: np.savez(path, x=X, y=Y[:2]), r"x has shape \(6, 4\) and y \(2,\)"),
        ("set.npy", lambda path: path.write_bytes(b"text"), r"is not an \.npy file: it begins with b'text'"),
        ("set.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True), "holds pickled Python objects"),
        ("set.npy", lambda path: None, "does not exist"),
        ("set.csv", lambda path: path.write_text("1, 2"), "is not a data set"),
    ],
)
def test_files_that_hold_no_examples(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        open_examples(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x_trian": X, "y_train": Y, "x_val": X, "y_val": Y},
            "Missing: x_train. Unknown: x_trian. Did you mean 'x_train'",
        ),
        ({"x_train": X, "y_train": Y}, r"has the arrays x_train, y_train; needed: .*Missing: x_val, y_val\."),
        ({**GOOD, "x_test": X}, "Missing: y_test"),
        ({**GOOD, "labels": Y}, "Unknown: labels"),
        ({**GOOD, "y_val": Y}, r"x_val has shape \(3, 4\) and y_val \(6,\)"),
        ({**GOOD, "x_val": X[:0], "y_val": Y[:0]}, "at least one"),
        ({**GOOD, "y_val": Y[:3] - 1}, "the lowest is -1"),
        ({**GOOD, "y_val": Y[:3] + 50_000_000}, "the highest is 50000.* store targets that are not classes as floats"),
        ({**GOOD, "y_val": np.array([None, 1, 2])}, "pickled Python objects.*refused"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_npz(tmp_path / "set.npz")


def test_npz_that_is_none(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello, this is no archive"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"set\.npz"):
            load_npz(path)
    path.write_bytes(whole[:200] + bytes(byte ^ 255 for byte in whole[200:240]) + whole[240:])
    with pytest.raises(DataError, match=r"not a whole \.npz file"):
        load_npz(path)
    with open(path, "wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match="single array"):
        load_npz(path)
    with pytest.raises(DataError, match=r"sett\.npz does not exist. Did you mean 'set\.npz'"):
        load_npz(tmp_path / "sett.npz")


def test_folder_of_classes(folder):
    splits = load_folder(folder, validation_fraction=0.4, seed=1)
    assert splits.class_names == ("a", "b")
    # Of five images a class, round(5 * 0.4) = 2 are for validation.
    assert np.bincount(splits.train.y).tolist() == [3, 3]
    assert np.bincount(splits.validation.y).tolist() == [2, 2]
    assert splits.test is None
    assert splits.train.x.shape == (6, 4, 6, 3)
    assert splits.train.x.dtype == np.float32
    np.testing.assert_allclose(splits.train.x[splits.train.y == 0], 0.2, atol=1.1 / 255)
    np.testing.assert_array_equal(splits.train.x[splits.train.y == 1], np.float32(0.8))


def test_folder_resized_bilinear_to_the_model(tmp_path):
    ramp = np.array([[0, 100, 200, 240]], np.uint8).repeat(2, axis=0)[..., None]
    for name in ("a", "b"):
        for number in range(2):
            file = tmp_path / name / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(tf.io.encode_png(ramp).numpy())
    splits = open_data(tmp_path, image_shape=(1, 2, 1))
    assert splits.train.x.shape == (2, 1, 2, 1)
    # Half the width: pixel centers fall between two source pixels: (0 + 100) / 2 and (200 + 240) / 2.
    np.testing.assert_allclose(splits.train.x[0, 0, :, 0], [50 / 255, 220 / 255], rtol=1e-6)
    with pytest.raises(DataError, match=r"the model takes \(10,\)"):
        open_data(tmp_path, image_shape=(10,))


def test_divided_folder_keeps_its_division(tmp_path):
    for part, counts in {"train": (2, 1), "val": (1, 1), "test": (0, 1)}.items():
        for name, count in zip(("a", "b"), counts, strict=True):
            for number in range(count):
                write_image(tmp_path / part / name / f"{number}.png", 0 if name == "a" else 255)
    with pytest.raises(DataError, match=r"test has 1 class folder"):
        load_folder(tmp_path)
    write_image(tmp_path / "test" / "a" / "0.png", 0)
    splits = load_folder(tmp_path)
    assert [part.y.tolist() for part in (splits.train, splits.validation, splits.test)] == [[0, 0, 1], [0, 1], [0, 1]]
    np.testing.assert_array_equal(splits.test.x[:, 0, 0, 0], [0, 1])
    write_image(tmp_path / "val" / "bb" / "0.png", 0)
    with pytest.raises(DataError, match=r"class 'bb', which train/ lacks\. Did you mean 'b'"):
        load_folder(tmp_path)


def test_damaged_image_is_named(folder):
    file = folder / "b" / "3.png"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"b/3\.png cannot be read as an image"):
        load_folder(folder)


def test_images_of_different_sizes(folder):
    write_image(folder / "b" / "9.png", 204, size=(5, 5))
    with pytest.raises(DataError, match=r"image_size=\(height, width\)"):
        load_folder(folder)
    assert load_folder(folder, image_size=(3, 2)).train.x.shape[1:] == (3, 2, 3)


def test_folders_that_hold_no_data_set(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"0 class folder\(s\) \(none\)"):
        load_folder(empty)
    (empty / "only").mkdir()
    with pytest.raises(DataError, match=r"1 class folder\(s\) \(only\)"):
        load_folder(empty)
    (folder / "c").mkdir()
    with pytest.raises(DataError, match="c holds no images"):
        load_folder(folder)
    with pytest.raises(DataError, match="is not a folder"):
        load_folder(folder / "absent")
    with pytest.raises(DataError, match=r"in \(0, 1\). Received: 1\.0"):
        load_folder(folder, validation_fraction=1.0)


def test_open_data_knows_packaged_names():
    assert open_data("digits").name == "digits"
    with pytest.raises(DataError, match=r"'digit' is not a data set. Did you mean 'digits'.*\.npz file.*folder"):
        open_data("digit")
