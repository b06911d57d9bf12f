import numpy as np
import pytest

from kopt.core.errors import DataError, NonFiniteError
from kopt.core.records.artifacts import TensorInfo
from kopt.data import Split, check

IMAGE = (TensorInfo("image", (None, 28, 28, 1), "float32"),)
TOKENS = (TensorInfo("ids", (None, 4), "int32"),)
TWO = (TensorInfo("left", (None, 2), "float32"), TensorInfo("right", (None, 3), "float32"))
X = np.zeros((5, 28, 28, 1), np.float32)


def test_right_arrays_are_not_copied():
    assert check(X, IMAGE)["image"] is X


def test_casts():
    assert check(X.astype(np.float64), IMAGE)["image"].dtype == np.float32
    assert check(X.astype(np.uint8), IMAGE)["image"].dtype == np.float32
    ids = check(np.array([[1, 2, 3, 2**31 - 1]], np.int64), TOKENS)["ids"]
    assert ids.dtype == np.int32
    assert ids.max() == 2**31 - 1


def test_quantized_inputs_take_real_values():
    quantized = (TensorInfo("image", (1, 28, 28, 1), "int8", 0.1, 3),)
    assert check(X.astype(np.float64), quantized)["image"].dtype == np.float32
    assert check(X.astype(np.int8), quantized)["image"].dtype == np.int8


def test_inputs_by_name_and_by_position():
    left, right = np.zeros((3, 2), np.float32), np.ones((3, 3), np.float32)
    for given in ({"right": right, "left": left}, [left, right], (left, right)):
        checked = check(given, TWO)
        assert list(checked) == ["left", "right"]
        assert checked["right"] is right
    with pytest.raises(DataError, match=r"no use for 'rigth'\. Did you mean 'right'"):
        check({"left": left, "rigth": right}, TWO)
    with pytest.raises(DataError, match=r"lacks the model input\(s\) \['right'\]"):
        check({"left": left}, TWO)
    with pytest.raises(DataError, match=r"1 array\(s\), the model has 2 input\(s\)"):
        check(left, TWO)
    with pytest.raises(DataError, match=r"2 array\(s\), the model has 1 .*labels go in `Split\(x, y\)`"):
        check((X, np.zeros(5)), IMAGE)
    with pytest.raises(DataError, match=r"\{'left': 3, 'right': 2\}"):
        check((left, right[:2]), TWO)


@pytest.mark.parametrize(
    ("shape", "wanted", "hint"),
    [
        ((8, 28, 28), (None, 28, 28, 1), r"`x\[\.\.\., None\]`"),
        ((28, 28, 1), (None, 28, 28, 1), r"`x\[None\]`"),
        ((8, 3, 32, 32), (None, 32, 32, 3), r"`np\.moveaxis\(x, 1, 3\)`"),
        ((8, 28, 28, 1), (None, 28, 28, 3), r"`np\.repeat\(x, 3, axis=-1\)`"),
        ((8, 28, 28, 4), (None, 28, 28, 3), "must have 3 entries, it has 4"),
        ((8, 28, 28, 1), (None, 28, 28), r"`x\[\.\.\., 0\]`"),
        ((8, 28, 28), (None, 784), r"`x\.reshape\(-1, 784\)`"),
        ((8, 28, 28, 1), (None, 32, 32, 1), r"`tf\.image\.resize\(x, \(32, 32\)\)`"),
        ((8, 5), (None, 2, 2), r"Each example must have shape \(2, 2\)"),
    ],
)
def test_wrong_shape_names_both_and_the_fix(shape, wanted, hint):
    with pytest.raises(DataError, match=hint) as raised:
        check(np.zeros(shape), (TensorInfo("image", wanted, "float32"),), name="validation data")
    assert f"validation data has float64 arrays of shape {shape}" in str(raised.value)
    assert f"the model input 'image' needs float32 {wanted}" in str(raised.value)


def test_wrong_types():
    with pytest.raises(DataError, match=r"has object arrays .*astype\('float32'\)"):
        check(X.astype(object), IMAGE)
    with pytest.raises(DataError, match="has str"):
        check(np.full((5, 28, 28, 1), "a"), IMAGE)
    with pytest.raises(DataError, match=r"float64 arrays .*astype\('int32'\)"):
        check(np.zeros((2, 4)), TOKENS)
    with pytest.raises(DataError, match=r"must lie in \[-2147483648, 2147483647\]; these lie in \[0, 2147483648\]"):
        check(np.array([[0, 0, 0, 2**31]]), TOKENS)
    with pytest.raises(DataError, match="has 2 array"):
        check([[1, 2], [3]], TOKENS)


def test_empty():
    with pytest.raises(DataError, match="data is empty"):
        check(X[:0], IMAGE)


def test_non_finite_values_are_counted_and_located():
    x = X.copy()
    x[3, 1, 2, 0] = np.nan
    x[4, 0, 0, 0] = -np.inf
    with pytest.raises(NonFiniteError, match=r"2 value\(s\).*first at index \(3, 1, 2, 0\)"):
        check(x, IMAGE)


def test_non_finite_values_are_found_across_chunks(monkeypatch):
    monkeypatch.setattr("kopt.data.validation._CHUNK_BYTES", 2 * 28 * 28 * 4)
    x = X.copy()
    x[3, 0, 0, 0] = x[4, 27, 27, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"2 value\(s\).*first at index \(3, 0, 0, 0\)"):
        check(x, IMAGE)


def test_what_overflows_float32_is_reported():
    with pytest.raises(NonFiniteError, match=r"1 value\(s\).*infinite in float32, the first at index \(1, 0\)"):
        check(np.array([[0.0], [1e300]]), (TensorInfo("x", (None, 1), "float32"),))


@pytest.mark.parametrize(
    "y",
    [
        np.array([0, 1, 2, 1, 0]),
        np.array([[0], [1], [2], [1], [0]]),
        np.array([0.0, 1.0, 2.0, 1.0, 0.0]),
        np.eye(3)[[0, 1, 2, 1, 0]],
        np.full((5, 3), 1 / 3),
        np.zeros((5, 28, 28), np.uint8),
    ],
)
def test_labels_that_fit(y):
    check(Split(X, y), IMAGE, num_classes=3)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([0, 1, 2, 3, 4], DataError, r"\[0, 3\). 2 do not, the first at index \(3,\); all lie in \[0, 4\]"),
        ([0, -1, 2, 1, 0], DataError, r"1 do not, the first at index \(1,\)"),
        ([0, 1, 2], DataError, r"shape \(3,\), but there are 5 examples"),
        (["a", "b", "a", "b", "a"], DataError, "np.unique"),
        ([0.5, 1, 2, 1, 0], DataError, r'whole numbers of shape.*`metric="r2_score"`'),
        (
            np.eye(3)[[0, 1, 2, 1, 0]] * 1000,
            DataError,
            r"5 of 5 rows are no probabilities.*\[1000.0, 0.0, 0.0\].*r2_score",
        ),
        (np.eye(3)[[0, 1, 2, 1, 0]] + np.eye(3)[1], DataError, r"index \(0,\) is \[1.0, 1.0, 0.0\].*binary_accuracy"),
        (np.zeros((5, 4)), DataError, "rows of 3"),
        ([0, 1, float("nan"), 1, 0], NonFiniteError, r"data labels has 1 value.*\(2,\)"),
    ],
)
def test_labels_that_do_not_fit(y, error, message):
    with pytest.raises(error, match=message):
        check(Split(X, np.asarray(y)), IMAGE, num_classes=3)


def test_objects_of_text_become_an_array_that_holds_it():
    info = TensorInfo("text", (None, 1), "string")
    found = check(np.array([["long à"], [b"b"]], object), (info,))["text"]
    assert found.dtype == np.dtype("S7")
    assert found.tolist() == [["long à".encode()], [b"b"]]
    texts = np.array([["a"], ["bb"]])
    assert check(texts, (info,))["text"] is texts
    with pytest.raises(DataError, match=r"objects that are no text. Received: 3 \(int\)"):
        check(np.array([["a"], [3]], object), (info,))
