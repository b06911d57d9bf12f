"""Real engines. Skipped, with what is missing, where TensorRT or a GPU is not there."""

import numpy as np
import pytest
import zoo
from tensorflow.python.compiler.tensorrt import trt_convert

from kopt import export, measure, quantize

SUPPORT = measure.tensorrt_support()
pytestmark = pytest.mark.slow
gpu = pytest.mark.gpu
by_onnx = pytest.mark.skipif(bool(SUPPORT.onnx), reason="; ".join(one.found for one in SUPPORT.onnx))
by_tensorflow = pytest.mark.skipif(bool(SUPPORT.tf_trt), reason="; ".join(one.found for one in SUPPORT.tf_trt))
# Of a softmax: TF32's 11 bits, half precision's 11 bits, three steps of 8 bits.
BOUNDS = {"fp32": 2**-10, "fp16": 2**-9, "int8": 3 / 256}


@gpu
@by_onnx
@pytest.mark.parametrize("precision", list(BOUNDS))
def test_an_engine_computes_what_the_model_computes(tmp_path, precision):
    model = zoo.build("cnn")
    x = zoo.inputs(model, 40)
    path = tmp_path / "m.engine"
    export.tensorrt(model, path, precision=precision, engine="onnx", calibration=x if precision == "int8" else None)
    np.testing.assert_allclose(measure.load(path).predict(x), model.predict(x, verbose=0), atol=BOUNDS[precision])


@gpu
@by_onnx
def test_a_trained_copy_brings_its_ranges_to_an_engine(tmp_path):
    model = zoo.build("cnn")
    x = zoo.inputs(model, 32)
    trained, _ = quantize.aware(model, calibration=x)
    export.tensorrt(trained, tmp_path / "m.engine", precision="int8", engine="onnx", data=x)
    np.testing.assert_allclose(
        measure.load(tmp_path / "m.engine").predict(x), trained.predict(x, verbose=0), atol=BOUNDS["int8"]
    )


@gpu
@by_tensorflow
@pytest.mark.parametrize("precision", list(BOUNDS))
def test_tensorflow_runs_a_saved_model_with_engines(tmp_path, precision):
    model = zoo.build("cnn")
    x = zoo.inputs(model, 40)
    calibration = x if precision == "int8" else None
    export.tensorrt(model, tmp_path / "m", precision=precision, engine="tf-trt", calibration=calibration)
    np.testing.assert_allclose(
        measure.load(tmp_path / "m").predict(x), model.predict(x, verbose=0), atol=BOUNDS[precision]
    )


@pytest.mark.skipif(not SUPPORT.tf_trt, reason="this TensorFlow has TF-TRT")
def test_tensorflow_without_tensorrt_refuses_to_convert(tmp_path):
    """What the check beforehand spares its users: the converter itself, on a TensorFlow built without TensorRT."""
    with pytest.raises(RuntimeError, match="Tensorflow has not been built with TensorRT support"):
        trt_convert.TrtGraphConverterV2(input_saved_model_dir=str(tmp_path))
