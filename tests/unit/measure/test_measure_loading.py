import shutil

import numpy as np
import pytest

from kopt.core.errors import ConfigError, InputError, LoadError, MeasurementError
from kopt.measure import load


def test_runner_is_returned_as_it_is(models):
    runner = load(models / "dense.tflite", threads=1)
    assert load(runner) is runner
    assert load(runner, threads=1) is runner
    with pytest.raises(ConfigError, match="already loaded with threads=1"):
        load(runner, threads=2)


@pytest.mark.parametrize("name", ["dense.tflite", "dense.onnx"])
def test_threads_reach_the_runtime(models, name):
    assert load(models / name, threads=2).threads == 2


@pytest.mark.parametrize("name", ["dense.keras", "dense_saved_model"])
def test_threads_are_refused_where_the_pool_is_the_process(models, name):
    with pytest.raises(ConfigError, match="one thread pool for the whole process"):
        load(models / name, threads=2)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_must_be_a_number(models, threads):
    with pytest.raises(ConfigError, match="`threads` must be a whole number from 1"):
        load(models / "dense.tflite", threads=threads)


def test_missing(tmp_path):
    with pytest.raises(LoadError, match="There is no file or directory"):
        load(tmp_path / "model.tflite")


def test_unknown_suffix_lists_what_is_accepted(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(
        LoadError, match=r"suffix '.pt'.*\.keras, \.h5, \.hdf5, \.tflite, \.onnx, \.engine, \.plan and SavedModel"
    ):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"TFL", b"this is a text file\n"])
def test_text_renamed_tflite(tmp_path, content):
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(LoadError, match=r"is not a TensorFlow Lite file.*TFL3"):
        load(tmp_path / "model.tflite")


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9, 0.99])
def test_truncated_tflite(models, tmp_path, keep):
    whole = (models / "dense.tflite").read_bytes()
    (tmp_path / "model.tflite").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(LoadError, match="damaged or truncated"):
        load(tmp_path / "model.tflite")


@pytest.mark.parametrize("content", [b"", b"not an onnx file at all"])
def test_broken_onnx(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(LoadError, match="ONNX"):
        load(tmp_path / "model.onnx")


def test_truncated_onnx(models, tmp_path):
    (tmp_path / "model.onnx").write_bytes((models / "dense.onnx").read_bytes()[:-100])
    with pytest.raises(LoadError, match="not an ONNX file, or damaged"):
        load(tmp_path / "model.onnx")


def test_onnx_with_an_operator_that_the_runtime_does_not_have(tmp_path):
    import onnx

    value = [onnx.helper.make_tensor_value_info(name, 1, ["n", 4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Erfc", ["x"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(MeasurementError, match=r"ONNX Runtime \S+ refuses.*Erfc"):
        load(tmp_path / "model.onnx")


def test_directory_without_saved_model(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(LoadError, match=r"without a saved_model.pb.*it holds 1"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff garbage that is no protocol buffer"])
def test_saved_model_with_broken_graph(models, tmp_path, content):
    broken = shutil.copytree(models / "dense_saved_model", tmp_path / "model")
    (broken / "saved_model.pb").write_bytes(content)
    with pytest.raises(LoadError, match="not a SavedModel"):
        load(broken)


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
def test_saved_model_with_broken_variables(models, tmp_path, name):
    broken = shutil.copytree(models / "dense_saved_model", tmp_path / "model")
    (broken / "variables" / name).write_bytes(b"")
    with pytest.raises(LoadError, match="not a SavedModel"):
        load(broken)


@pytest.mark.parametrize("model", [None, 3, np.zeros(3), object()])
def test_something_else_entirely(model):
    with pytest.raises(InputError, match=r"Accepted: a keras\.Model"):
        load(model)


def test_keras_model_that_was_never_built():
    import keras

    with pytest.raises(InputError, match=r"not built"):
        load(keras.Sequential([keras.layers.Dense(2)]))
