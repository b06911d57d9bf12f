"""The operators that are read out of files, against what the tiny models of `tests/data` were made with."""

from pathlib import Path

import numpy as np
import pytest

from kopt.core.records.artifacts import OperatorCount
from kopt.export.inspection import inspect_onnx, inspect_saved_model, inspect_tflite

DATA = Path(__file__).parents[2] / "data"


def test_float_tflite():
    content = inspect_tflite(DATA / "dense.tflite")
    assert OperatorCount("FULLY_CONNECTED", "float32", 1) in content.operators
    assert len(content.float_operators) == sum(operator.count for operator in content.operators)
    assert content.output_step == 0.0


def test_integer_tflite_has_no_float_operator_and_a_softmax_step_of_1_256():
    content = inspect_tflite(DATA / "dense_int8_io.tflite")
    assert content.float_operators == ()
    assert {operator.dtype for operator in content.operators} == {"int8"}
    assert content.output_step == pytest.approx(1 / 256)


def test_onnx():
    operators = {operator.name: operator for operator in inspect_onnx(DATA / "dense.onnx")}
    assert operators["MatMul"].dtype == np.dtype("float32").name
    assert operators["MatMul"].count == 1


def test_saved_model():
    operators = inspect_saved_model(DATA / "dense_saved_model")
    assert operators == tuple(OperatorCount(name, "float32", 1) for name in ("BiasAdd", "MatMul", "Softmax"))
