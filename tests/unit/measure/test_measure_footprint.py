import numpy as np
import pytest

from kopt.core.errors import InputError, LoadError, MeasurementError
from kopt.measure import memory


def onnx_with_weights(path, megabytes):
    """Write x + weights, where the weights fill `megabytes` and come from random bits, so that no page is shared."""
    import onnx

    size = megabytes * 2**20 // 4
    weights = np.random.default_rng(0).random((1, size), dtype=np.float32)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["sum"]), helper.make_node("ReduceMax", ["sum"], ["y"], axes=[1])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 1])],
        [helper.make_tensor_value_info("y", 1, ["n", 1])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path)
    return path


@pytest.mark.slow
def test_small_file_takes_little_and_weights_are_counted(models, tmp_path):
    small = memory(models / "dense.onnx")
    large = memory(onnx_with_weights(tmp_path / "large.onnx", 64))
    assert 0 < small < 40 * 2**20
    # Weights once and the sum of the same size at least; loading holds further copies for a moment.
    assert 128 * 2**20 <= large - small < 512 * 2**20


@pytest.mark.slow
def test_dead_process_is_an_error_with_its_last_words(models):
    with pytest.raises(MeasurementError, match=r"ended with code 1:\n(.|\n)*batches of exactly 4"):
        memory(models / "dense_batch4.tflite")


def test_refusals_before_any_process_starts(tmp_path):
    with pytest.raises(LoadError, match="no file"):
        memory(tmp_path / "missing.tflite")
    with pytest.raises(InputError, match="Save or export the model"):
        memory(object())
