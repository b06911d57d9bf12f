"""The calls of both converters, on stand-ins that write them down: neither TensorRT nor a GPU is needed."""

import inspect
import re
from unittest import mock

import keras
import numpy as np
import pytest
from tensorflow.python.compiler.tensorrt import trt_convert

import kopt
from kopt.core.errors import ConfigError, MissingDependencyError
from kopt.core.records.shipping.tensorrt import EnginePlan, ShapeRange, TFTRTPlan
from kopt.export import convert_tensorrt, convert_tf_trt

PLAN = EnginePlan((ShapeRange("x", (1, 4), (8, 4), (32, 4)),), 2**20, 4)


def tensorrt(*, reads=True, builds=True, cache_fits=True):
    """A `tensorrt` that notes calls."""
    trt = mock.MagicMock()
    trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    parser = trt.OnnxParser.return_value
    parser.parse_from_file.return_value = reads
    parser.num_errors = 2
    parser.get_error.side_effect = lambda index: mock.Mock(desc=lambda: f"reason {index}")
    builder = trt.Builder.return_value
    builder.build_serialized_network.return_value = b"engine" if builds else None
    config = builder.create_builder_config.return_value
    config.set_timing_cache.return_value = cache_fits
    config.get_timing_cache.return_value.serialize.return_value = b"kernels"
    return trt, builder, config


def test_the_builder_gets_the_plan():
    trt, builder, config = tensorrt()
    assert convert_tensorrt.build(trt, "m.onnx", PLAN) == b"engine"
    builder.create_network.assert_called_once_with(1 << 1)
    trt.OnnxParser.return_value.parse_from_file.assert_called_once_with("m.onnx")
    config.set_memory_pool_limit.assert_called_once_with(trt.MemoryPoolType.WORKSPACE, 2**20)
    assert config.builder_optimization_level == 4
    profile = builder.create_optimization_profile.return_value
    profile.set_shape.assert_called_once_with("x", (1, 4), (8, 4), (32, 4))
    config.add_optimization_profile.assert_called_once_with(profile)
    builder.build_serialized_network.assert_called_once_with(builder.create_network.return_value, config)
    # Types come from the file: no flag may let TensorRT choose others, and TensorRT 11 has none.
    assert not config.set_flag.called
    assert not config.create_timing_cache.called


def test_without_open_dimensions_there_is_no_profile():
    trt, builder, config = tensorrt()
    convert_tensorrt.build(trt, "m.onnx", EnginePlan(()))
    assert not config.add_optimization_profile.called
    assert not config.set_memory_pool_limit.called
    assert not builder.create_optimization_profile.called


def test_the_timing_cache_is_read_and_written(tmp_path):
    path = tmp_path / "kernels.cache"
    plan = EnginePlan((), timing_cache=str(path))
    trt, _, config = tensorrt()
    convert_tensorrt.build(trt, "m.onnx", plan)
    config.create_timing_cache.assert_called_once_with(b"")
    assert path.read_bytes() == b"kernels"
    trt, _, config = tensorrt(cache_fits=False)
    with pytest.raises(ValueError, match="of another GPU or version"):
        convert_tensorrt.build(trt, "m.onnx", plan)
    config.create_timing_cache.assert_called_once_with(b"kernels")
    assert path.read_bytes() == b"kernels"


def test_a_file_that_tensorrt_does_not_read_or_build():
    with pytest.raises(ValueError, match="reason 0; reason 1"):
        convert_tensorrt.build(tensorrt(reads=False)[0], "m.onnx", PLAN)
    with pytest.raises(ValueError, match="built no engine"):
        convert_tensorrt.build(tensorrt(builds=False)[0], "m.onnx", PLAN)


def tf_trt(plan, calibration):
    module, seen = mock.MagicMock(), {}
    converter = module.TrtGraphConverterV2.return_value
    converter.convert.side_effect = lambda **feeds: seen.update({key: list(make()) for key, make in feeds.items()})
    converter.build.side_effect = lambda input_fn: seen.update(built=list(input_fn()))
    examples = {"x": np.arange(3.0)}
    convert_tf_trt.build(module, "in", "serving_default", "out", plan, examples, calibration)
    return module, seen


def test_engines_are_built_for_every_batch_size():
    module, seen = tf_trt(TFTRTPlan("fp16", (1, 2, 4)), None)
    arguments = module.TrtGraphConverterV2.call_args.kwargs
    assert (arguments["input_saved_model_dir"], arguments["precision_mode"]) == ("in", "FP16")
    assert [list(batch["x"]) for batch in seen["built"]] == [[0], [0, 1], [0, 1, 2, 0]]
    assert "calibration_input_fn" not in seen
    module.TrtGraphConverterV2.return_value.save.assert_called_once_with(output_saved_model_dir="out")


def test_calibration_batches_have_one_shape():
    _, seen = tf_trt(TFTRTPlan("int8", (1, 2)), {"x": np.arange(5.0)})
    assert [list(batch["x"]) for batch in seen["calibration_input_fn"]] == [[0, 1], [2, 3], [4, 0]]


@pytest.mark.parametrize("dynamic", [True, False])
def test_tensorflows_own_converter_takes_the_arguments(dynamic):
    known = inspect.signature(trt_convert.TrtGraphConverterV2.__init__).parameters
    plan = TFTRTPlan("int8", (1, 2), workspace_bytes=1, dynamic_shape=dynamic)
    assert set(plan.arguments()) <= set(known)
    if dynamic:
        assert plan.arguments()["dynamic_shape_profile_strategy"] in trt_convert.supported_profile_strategies()
    assert plan.arguments()["precision_mode"] in trt_convert.TrtPrecisionMode.supported_precision_modes()


def small():
    return keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])


needs_no_tensorrt = pytest.mark.skipif(
    not kopt.measure.tensorrt_support().onnx, reason="this machine has all that TensorRT needs"
)


@needs_no_tensorrt
def test_what_is_missing_is_said_before_any_work(tmp_path, monkeypatch):
    started = mock.Mock()
    monkeypatch.setattr("kopt.export.process.Converter.start", started)
    with pytest.raises(MissingDependencyError) as caught:
        kopt.export.tensorrt(small(), tmp_path / "m.engine", precision="fp16", batch_sizes=(1, 2, 4))
    message = str(caught.value)
    for missing in kopt.measure.tensorrt_support().onnx:
        assert missing.found in message
        assert missing.remedy in message
    assert "kopt.export.onnx(model, 'model.onnx', scheme='float16')" in message
    assert "--minShapes=x:1x4 --optShapes=x:2x4 --maxShapes=x:4x4" in message
    assert not started.called
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "fp8"}, "Accepted: fp32, fp16, int8"),
        ({"engine": "onxx"}, "Did you mean 'onnx'"),
        ({"batch_sizes": (4, 2, 8)}, "in this order"),
        ({"optimization_level": 9}, "must be in [0, 5]"),
        ({"opset": 3}, "`opset` must be in"),
    ],
)
def test_settings_are_checked_first(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        kopt.export.tensorrt(small(), tmp_path / "m.engine", **settings)
