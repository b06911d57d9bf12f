"""What is missing for TensorRT, and the plan of a build: functions of facts."""

import dataclasses
import re

import pytest

from kopt.core.errors import ConfigError, MissingDependencyError
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.shipping.tensorrt import (
    EnginePlan,
    ShapeRange,
    TensorRTFacts,
    TensorRTSupport,
    TFTRTPlan,
    shape_ranges,
)

ALL = TensorRTFacts(
    tensorflow="2.17.0",
    built_with_tensorrt=True,
    converter=True,
    package="10.14.1",
    libnvinfer="libnvinfer.so.8",
    driver="12.4",
    gpu="NVIDIA L4",
)
IMAGE = TensorInfo("image", (None, 8, 8, 3), "float32")


def support(**changes):
    return TensorRTSupport.of(dataclasses.replace(ALL, **changes))


def test_with_everything_there_all_ways_are_open():
    assert support() == TensorRTSupport((), ())
    assert [support().choose(engine, "") for engine in ("auto", "tf-trt", "onnx")] == ["tf-trt", "tf-trt", "onnx"]
    assert [check.status for check in support().checks()] == ["ok", "ok"]


def test_auto_goes_by_onnx_where_tensorflow_has_no_tensorrt():
    assert support(tensorflow="2.21.0", built_with_tensorrt=False).choose("auto", "") == "onnx"
    assert support(package="").choose("auto", "") == "tf-trt"


@pytest.mark.parametrize(
    ("changes", "engine", "words"),
    [
        ({"built_with_tensorrt": False}, "tf-trt", "TensorFlow 2.17.0 was built without TensorRT"),
        ({"converter": False}, "tf-trt", "tensorflow.python.compiler.tensorrt cannot be imported"),
        ({"libnvinfer": ""}, "tf-trt", "the loader finds no libnvinfer"),
        ({"package": ""}, "onnx", "the package tensorrt is not installed (pip install 'keras-kopt[tensorrt]')"),
        ({"package_error": "no libnvinfer.so.10"}, "onnx", "10.14.1 cannot be imported (no libnvinfer.so.10)"),
        ({"package": "8.6.1"}, "onnx", "tensorrt 8.6.1 is older than 10.0"),
        ({"driver": "", "gpu": ""}, "onnx", "there is no CUDA driver (libcuda.so.1)"),
        ({"driver": "", "gpu": ""}, "tf-trt", "there is no CUDA driver (libcuda.so.1)"),
        ({"gpu": ""}, "onnx", "the driver (CUDA 12.4) sees no GPU"),
    ],
)
def test_what_is_missing_is_named_and_nothing_else(changes, engine, words):
    with pytest.raises(MissingDependencyError, match=re.escape(words)) as caught:
        support(**changes).choose(engine, "Take the file instead.")
    assert str(caught.value).endswith("Take the file instead.")
    missing = {"onnx": support(**changes).onnx, "tf-trt": support(**changes).tf_trt}[engine]
    assert len(missing) == 1
    row = next(check for check in support(**changes).checks() if check.found == missing[0].found)
    assert (row.status, row.remedy) == ("missing", missing[0].remedy)


def test_auto_names_both_ways():
    lacking = support(built_with_tensorrt=False, package="", driver="", gpu="")
    with pytest.raises(MissingDependencyError) as caught:
        lacking.choose("auto", "")
    for part in ("engine='tf-trt' lacks", "engine='onnx' lacks", "built without", "not installed", "no CUDA driver"):
        assert part in str(caught.value)


def test_an_unknown_engine():
    with pytest.raises(ConfigError, match="Did you mean 'tf-trt'"):
        support().choose("tftrt", "")


def test_a_profile_has_the_batch_sizes_and_the_models_dimensions():
    label = TensorInfo("label", (None,), "int32")
    fixed = TensorInfo("scale", (1, 2), "float32")
    assert shape_ranges((IMAGE, label, fixed), (1, 4, 16)) == (
        ShapeRange("image", (1, 8, 8, 3), (4, 8, 8, 3), (16, 8, 8, 3)),
        ShapeRange("label", (1,), (4,), (16,)),
    )


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 4, 3), (1, 2)])
def test_batch_sizes_are_in_order(sizes):
    with pytest.raises(ConfigError, match=re.escape(f"Received: {sizes}")):
        shape_ranges((IMAGE,), sizes)


def test_other_open_dimensions_are_refused():
    with pytest.raises(ConfigError, match=r"Input 'text' has the shape \(None, None\)"):
        shape_ranges((TensorInfo("text", (None, None), "int32"),), (1, 1, 1))


def test_the_command_says_what_the_plan_says():
    plan = EnginePlan(shape_ranges((IMAGE,), (1, 4, 16)), 2**28, 5, "kernels.cache")
    assert plan.command("m.onnx", "m.engine") == (
        "trtexec --onnx=m.onnx --saveEngine=m.engine --stronglyTyped --minShapes=image:1x8x8x3 "
        "--optShapes=image:4x8x8x3 --maxShapes=image:16x8x8x3 --memPoolSize=workspace:256M "
        "--builderOptimizationLevel=5 --timingCacheFile=kernels.cache"
    )
    assert EnginePlan(()).command("m.onnx", "m.engine") == "trtexec --onnx=m.onnx --saveEngine=m.engine --stronglyTyped"


def test_plans_survive_json():
    plan = EnginePlan(shape_ranges((IMAGE,), (1, 4, 16)), 2**28)
    assert EnginePlan.from_json(plan.to_json()) == plan
    assert TFTRTPlan.from_json(TFTRTPlan("int8", (1, 8)).to_json()) == TFTRTPlan("int8", (1, 8))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EnginePlan((), optimization_level=6), "must be in [0, 5]"),
        (lambda: EnginePlan((), workspace_bytes=-1), "must be positive"),
        (lambda: TFTRTPlan("fp32", (1,), minimum_segment_size=0), "must be at least 1"),
    ],
)
def test_impossible_plans(make, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        make()


def test_the_arguments_of_tensorflows_converter():
    assert TFTRTPlan("int8", (1, 8, 32), workspace_bytes=2**30, minimum_segment_size=5).arguments() == {
        "precision_mode": "INT8",
        "minimum_segment_size": 5,
        "maximum_cached_engines": 1,
        "use_calibration": True,
        "use_dynamic_shape": True,
        "dynamic_shape_profile_strategy": "Range",
        "allow_build_at_runtime": False,
        "max_workspace_size_bytes": 2**30,
    }
    plain = TFTRTPlan("fp16", (1, 8), dynamic_shape=False).arguments()
    assert plain["maximum_cached_engines"] == 2
    assert TFTRTPlan("int8", (1, 8), dynamic_shape=False).built_sizes == (8,)
    assert plain["use_calibration"] is False
    assert "dynamic_shape_profile_strategy" not in plain
    assert "max_workspace_size_bytes" not in plain
