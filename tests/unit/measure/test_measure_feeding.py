import numpy as np
import pytest

from kopt.core.errors import DataError
from kopt.core.records.artifacts import TensorInfo
from kopt.measure.feeding import convert, dequantize, match, quantize, random_inputs, take

IMAGE = TensorInfo("image", (None, 28, 28, 1), "float32")
IDS = TensorInfo("ids", (None, 5), "int32")
INT8 = TensorInfo("x", (None, 4), "int8", scale=0.5, zero_point=-3)
UINT8 = TensorInfo("x", (None, 4), "uint8", scale=0.25, zero_point=10)


def test_quantize_rounds_halves_to_even_and_clips():
    # value / 0.5: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, -0.5 -> 0; then -3; 1000 and -1000 leave the range of int8.
    values = np.array([0.25, 0.75, 1.25, -0.25, 1000.0, -1000.0], np.float32)
    assert quantize(values, INT8).tolist() == [-3, -1, -1, -3, 127, -128]
    assert quantize(values, INT8).dtype == np.int8
    assert quantize(np.array([1.0, -3.0]), UINT8).tolist() == [14, 0]


def test_dequantize_is_the_affine_map_without_wrapping():
    # (-128 - -3) * 0.5 = -62.5 and (127 + 3) * 0.5 = 65: neither difference fits int8.
    assert dequantize(np.array([-128, 127, -3], np.int8), INT8).tolist() == [-62.5, 65.0, 0.0]
    assert dequantize(np.array([0, 255], np.uint8), UINT8).tolist() == [-2.5, 61.25]
    plain = np.array([1, 2], np.int64)
    assert dequantize(plain, IDS) is plain


def test_values_survive_quantization_within_half_a_step():
    values = np.linspace(-62, 65, 1001, dtype=np.float32)
    assert np.abs(dequantize(quantize(values, INT8), INT8) - values).max() <= 0.25 + 1e-5


@pytest.mark.parametrize(
    ("array", "info", "expected"),
    [
        (np.array([0.1, 2.0]), IMAGE, np.array([0.1, 2.0], np.float32)),
        (np.array([0, 255], np.uint8), IMAGE, np.array([0.0, 255.0], np.float32)),
        (np.array([True, False]), IMAGE, np.array([1.0, 0.0], np.float32)),
        (np.array([7, -7], np.int64), IDS, np.array([7, -7], np.int32)),
        (np.array([np.nan, np.inf]), IMAGE, np.array([np.nan, np.inf], np.float32)),
        (np.array([-3, 5], np.int8), INT8, np.array([-3, 5], np.int8)),
        (np.array([1, 2], np.int64), INT8, np.array([-1, 1], np.int8)),
    ],
)
def test_convert_keeps_values(array, info, expected):
    converted = convert(info, array)
    np.testing.assert_array_equal(converted, expected)
    assert converted.dtype == expected.dtype


@pytest.mark.parametrize(
    ("array", "info", "reason"),
    [
        (np.array([1.0]), IDS, "float64 is not turned into int32"),
        (np.array([2**40]), IDS, "1099511627776.* cannot be held in int32"),
        (np.array([2**24 + 1]), IMAGE, "16777217.* cannot be held in float32"),
        (np.array([1e300]), IMAGE, "1e.300.* cannot be held in float32"),
        (np.array(["a"]), IMAGE, "<U1 is not turned into float32"),
        (np.array([1j]), IMAGE, "complex128 is not turned into float32"),
        (np.array([np.nan], np.float32), INT8, "no NaN"),
    ],
)
def test_convert_refuses_to_change_values(array, info, reason):
    with pytest.raises(DataError, match=reason):
        convert(info, array)


def test_match_by_name_position_and_single_array():
    left, right = TensorInfo("left", (None, 2), "float32"), TensorInfo("right", (None, 3), "float32")
    a, b = np.ones((4, 2)), np.zeros((4, 3))
    for arrays in ({"right": b, "left": a}, [a, b], (a, b)):
        matched = match((left, right), arrays)
        assert list(matched) == ["left", "right"]
        assert matched["left"] is a
        assert matched["right"] is b
    assert match((left,), [[1, 2], [3, 4]])["left"].shape == (2, 2)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (np.zeros((8, 28, 28)), r"float64 of shape \(8, 28, 28\); it needs float32 \(None, 28, 28, 1\).*\[..., None\]"),
        (np.zeros((28, 28, 1)), r"Add the batch axis.*dataset.batch"),
        (np.zeros((8, 28, 28, 3)), r"shape \(8, 28, 28, 3\)"),
        (np.zeros((0, 28, 28, 1)), "no example"),
        ({"imgae": np.zeros((1, 28, 28, 1))}, "no input 'imgae'. Did you mean 'image'"),
        ({}, "lacks the input.*image"),
        ([np.zeros((28, 28, 1))] * 3, r"3 array\(s\) for 1 input.*np.stack"),
    ],
)
def test_match_says_what_does_not_fit(arrays, words):
    with pytest.raises(DataError, match=words):
        match((IMAGE,), arrays)


def test_match_wants_equal_numbers_of_examples():
    with pytest.raises(DataError, match="'image': 2, 'ids': 3"):
        match((IMAGE, IDS), [np.zeros((2, 28, 28, 1)), np.zeros((3, 5))])


def test_random_inputs_are_seeded_and_in_range():
    first = random_inputs((IMAGE, IDS, INT8), 100, seed=1)
    again = random_inputs((IMAGE, IDS, INT8), 100, seed=1)
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["image"] != random_inputs((IMAGE,), 100, seed=2)["image"]).any()
    assert first["image"].shape == (100, 28, 28, 1)
    assert first["image"].min() >= 0.0
    assert 0.99 < first["image"].max() < 1.0
    assert set(first["ids"].flat) == {0, 1}
    assert first["x"].dtype == np.float32


def test_random_inputs_do_not_invent_a_size():
    with pytest.raises(DataError, match=r"float32 \(None, None, None, 3\). Pass `data`"):
        random_inputs((TensorInfo("image", (None, None, None, 3), "float32"),), 1, seed=0)


def test_take_begins_anew():
    x = np.arange(3)[:, None] * np.ones((3, 5), int)
    assert take((IDS,), {"ids": x}, 7)["ids"][:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_text_goes_to_keras_models():
    text = TensorInfo("word", (None, 1), "string")
    assert convert(text, np.array([["a"]])).dtype == object
    with pytest.raises(DataError, match="No input can be made up for 'word'"):
        random_inputs((text,), 1, 0)
