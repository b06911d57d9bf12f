import base64

import numpy as np
import pytest

from kopt.core.errors import RequestError
from kopt.core.records.artifacts import TensorInfo
from kopt.serve.json_tensors import (
    json_numbers,
    parse_body,
    read_columns,
    read_rows,
    read_tensor,
    write_columns,
    write_rows,
)

X = TensorInfo("x", (None, 2), "float32")
TEXT = TensorInfo("text", (None,), "object")
ID = TensorInfo("id", (None,), "int32")


def test_the_documented_row_format_of_several_inputs():
    inputs = (TEXT, TensorInfo("signal", (None, 5), "int64"), TensorInfo("sensor", (None, 2, 2), "float32"))
    rows = [
        {"text": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
        {"text": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
    ]
    columns = {
        "text": ["foo", "bar"],
        "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],
        "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]],
    }
    for found in (read_rows(rows, inputs), read_columns(columns, inputs)):
        assert found["text"].tolist() == [b"foo", b"bar"]
        assert found["signal"].dtype == np.int64
        assert found["signal"].tolist() == columns["signal"]
        assert found["sensor"].dtype == np.float32
        assert found["sensor"].tolist() == columns["sensor"]


def test_one_input_needs_no_name():
    assert read_rows([[1, 2], [3.5, 4]], (X,))["x"].tolist() == [[1, 2], [3.5, 4]]
    assert read_rows([{"x": [1, 2]}], (X,))["x"].tolist() == [[1, 2]]
    assert read_columns([[1, 2]], (X,))["x"].tolist() == [[1, 2]]
    assert read_columns({"x": [[1, 2]]}, (X,))["x"].tolist() == [[1, 2]]


def test_bytes_come_as_base64_and_go_so_where_the_name_says_it():
    encoded = {"b64": base64.b64encode(b"\x00\xff").decode()}
    assert read_rows([encoded, "a"], (TEXT,))["text"].tolist() == [b"\x00\xff", b"a"]
    assert write_columns({"image_bytes": np.array([b"ab"], object)}) == b'{"outputs": [{"b64": "YWI="}]}'
    assert write_columns({"image": np.array([b"ab"], object)}) == b'{"outputs": ["ab"]}'
    assert write_columns({"image": np.array([b"\xff"], object)}) == b'{"outputs": [{"b64": "/w=="}]}'


def test_nan_and_infinity_are_numbers():
    document = parse_body(b'{"instances": [NaN, Infinity, -Infinity]}')
    array = read_rows(document["instances"], (TensorInfo("x", (None,), "float32"),))["x"]
    assert np.isnan(array[0])
    assert array[1:].tolist() == [np.inf, -np.inf]
    assert write_rows({"y": array}) == b'{"predictions": [NaN, Infinity, -Infinity]}'


def test_several_outputs_are_objects_row_by_row():
    outputs = {"a": np.array([1, 2], np.int32), "b": np.array([[0.5], [0.25]], np.float32)}
    assert write_rows(outputs) == b'{"predictions": [{"a": 1, "b": [0.5]}, {"a": 2, "b": [0.25]}]}'
    assert write_columns(outputs) == b'{"outputs": {"a": [1, 2], "b": [[0.5], [0.25]]}}'
    with pytest.raises(RequestError, match="Tensor name: b has inconsistent batch size: 1 expecting: 2"):
        write_rows({"a": np.zeros(2), "b": np.zeros(1)})


def test_quantized_tensors_are_real_numbers():
    info = TensorInfo("x", (None,), "int8", scale=0.5, zero_point=0)
    assert read_tensor([0.25, 1], info).tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).random(2000, np.float32),
        np.random.default_rng(1).integers(0, 2**32, 20000, np.uint32).view(np.float32),  # every exponent there is
        np.array([0.0, -0.0, 0.2, 1e-12, 99999.99, 16777216, 3.4028235e38, 1e-45, np.nan, np.inf], np.float32),
    ],
    ids=["probabilities", "any bits", "edges"],
)
def test_numbers_are_the_shortest_that_read_back_the_same(values):
    written = json_numbers(values)
    np.testing.assert_array_equal(np.array(written, np.float64).astype(np.float32), values)
    assert [repr(number) for number in written] == [repr(float(str(value))) for value in values]
    assert json_numbers(np.float16([0.1])) == [0.099975586]  # the float16 is 0.0999755859375


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The document is empty"),
        (b"{", "JSON Parse error"),
        (b"\xff\xfe{}", "JSON Parse error"),
        (b"[1]", r"JSON Value: \[1\] Is not object"),
        (b"[" * 200000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON Parse error"),
    ],
)
def test_bodies_that_are_no_request(body, words):
    with pytest.raises(RequestError, match=words):
        parse_body(body)


@pytest.mark.parametrize(
    ("rows", "inputs", "words"),
    [
        (1, (X,), "Excepting 'instances' to be an list/array"),
        ([], (X,), "No values in 'instances' array"),
        ([[1, 2], [3]], (X,), r"element: 1 of .*Expecting shape \[2\] but got: \[1\]"),
        ([[1, "2"]], (X,), 'element: 0 .*JSON Value: "2" Type: String is not of expected type: float'),
        ([[1, True]], (X,), "Type: True is not of expected type: float"),
        ([[1, None]], (X,), "Type: Null is not of expected type"),
        ([[1, [2]]], (X,), "element: 0 .* Encountered list at unexpected level: 1 expected < 1"),
        ([[[1], 2]], (X,), "JSON Value: 2 found at incorrect level"),
        ([[1, 16777217]], (X,), "Cannot convert JSON value: 16777217 to float without loss of precision"),
        ([[1, 1e39]], (X,), r"Cannot convert JSON value: 1e\+39 to float without loss of precision"),
        ([[1, 10**400]], (X,), "without loss of precision"),
        ([1.5], (ID,), "JSON Value: 1.5 Type: Number is not of expected type: int32"),
        ([2**31], (ID,), "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ([{"y": 1}], (X,), "element: 0 key: y .*does not have named input: y"),
        ([{}], (X,), r"JSON object: \{\} keys must be equal to: x"),
        ([{"x": [1, 2]}, [1, 2]], (X,), "Expecting object but got list at item 1"),
        ([[1, 2], {"x": [1, 2]}], (X,), "Expecting value/list but got object at item 1"),
        ([[1, 2]], (X, ID), "expecting list of objects as multiple input tensors"),
        ([{"b64": "AA*="}], (TEXT,), "Unable to base64 decode"),
        ([{"b64": 1}], (TEXT,), "does not have named input: b64"),
        (["\ud800"], (TEXT,), "is no text"),
    ],
)
def test_rows_that_do_not_fit(rows, inputs, words):
    with pytest.raises(RequestError, match=words):
        read_rows(rows, inputs)


def test_columns_that_do_not_fit():
    with pytest.raises(RequestError, match="Missing named input: id in 'inputs' object"):
        read_columns({"x": [[1, 2]]}, (X, ID))
    with pytest.raises(RequestError, match="expecting an object as multiple input tensors"):
        read_columns([[1, 2]], (X, ID))
