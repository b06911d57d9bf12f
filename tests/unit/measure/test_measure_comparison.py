import math

import numpy as np
import pytest

from kopt.core.errors import DataError
from kopt.core.records.artifacts import TensorInfo
from kopt.measure import compare_outputs, parity
from kopt.measure.comparison import pair


def test_hand_written_numbers():
    a, b = np.array([[1.0, 2.0], [5.0, 4.0]]), np.array([[1.0, 3.0], [2.0, 4.0]])
    found = compare_outputs("y", a, b)
    # Differences 0, 1, 3, 0. b: 1 + 9 + 4 + 16 = 30. a.b = 1 + 6 + 10 + 16 = 33, |a|^2 = 1 + 4 + 25 + 16 = 46.
    assert found.max_abs == 3.0
    assert found.mean_abs == 1.0
    assert found.rmse == pytest.approx(math.sqrt(10 / 4))
    assert found.reference_rms == pytest.approx(math.sqrt(30 / 4))
    assert found.cosine == pytest.approx(33 / math.sqrt(46 * 30))
    assert found.argmax_agreement == 0.5
    assert (found.nonfinite_a, found.nonfinite_b) == (0, 0)


def test_nan_and_infinity_are_counted_and_left_out_of_the_distances():
    a = np.array([[np.nan, 1.0], [2.0, 7.0], [3.0, np.inf]])
    b = np.array([[0.0, 1.5], [2.0, np.nan], [3.0, 4.0]])
    found = compare_outputs("y", a, b)
    # Finite on both sides: (1, 1.5), (2, 2), (3, 3).
    assert (found.nonfinite_a, found.nonfinite_b) == (2, 1)
    assert found.max_abs == 0.5
    assert found.mean_abs == pytest.approx(0.5 / 3)
    # Only the last row has no NaN, and there both sides are largest at 1.
    assert found.argmax_agreement == pytest.approx(1 / 3)


def test_nothing_finite_is_nan_not_zero():
    found = compare_outputs("y", np.full((2, 3), np.nan), np.ones((2, 3)))
    assert all(math.isnan(v) for v in (found.max_abs, found.mean_abs, found.rmse, found.reference_rms, found.cosine))
    assert found.argmax_agreement == 0.0
    assert (found.nonfinite_a, found.nonfinite_b) == (6, 0)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_no_argmax_of_a_single_entry(shape):
    assert compare_outputs("y", np.ones(shape), np.ones(shape)).argmax_agreement is None


def test_integers_do_not_wrap():
    assert compare_outputs("y", np.array([-128], np.int8), np.array([127], np.int8)).max_abs == 255.0


def test_shapes_must_agree():
    with pytest.raises(DataError, match=r"'y' has shape \(3,\) on one side and \(3, 1\)"):
        compare_outputs("y", np.ones(3), np.ones((3, 1)))


def test_files_of_one_model_agree(models):
    x = np.random.default_rng(0).random((50, 4), dtype=np.float32)
    for name in ("dense.onnx", "dense_saved_model"):
        found = parity(models / "dense.tflite", models / name, x)
        assert (found.a, found.b, found.examples) == ("dense.tflite", name, 50)
        assert found.max_abs < 1e-6
        assert found.argmax_agreement == 1.0
    quantized = parity(models / "dense_int8_io.tflite", models / "dense.tflite", {"x": x})
    assert 1e-4 < quantized.max_abs < 4 / 256


def test_inputs_are_shared_by_name_or_position(function_runner):
    double, triple = function_runner(lambda x: 2 * x, 1), function_runner(lambda x: 3 * x, 1, outputs=("other",))
    triple.inputs = (TensorInfo("z", (None, 1), "float32"),)
    triple.run = lambda feeds: {"other": 3 * feeds["z"]}
    x = np.array([[1.0], [2.0]], np.float32)
    for data in (x, {"x": x}, {"z": x}):
        (output,) = parity(double, triple, data).outputs
        assert (output.name, output.max_abs, output.reference_rms) == ("other", 2.0, pytest.approx(math.sqrt(22.5)))


def test_pairs_by_name_first_then_by_position():
    def infos(*names):
        return [TensorInfo(name, (None,), "float32") for name in names]

    assert pair(infos("b", "a"), infos("a", "b"), "inputs") == {"b": "b", "a": "a"}
    assert pair(infos("p", "a", "q"), infos("output_0", "output_1", "a"), "outputs") == {
        "p": "output_0",
        "a": "a",
        "q": "output_1",
    }
    assert pair(infos("b", "a"), infos("serving_default_a:0", "b:0"), "inputs") == {
        "b": "b:0",
        "a": "serving_default_a:0",
    }
    with pytest.raises(DataError, match="do not have the same outputs: a and b, c"):
        pair(infos("a"), infos("b", "c"), "outputs")
