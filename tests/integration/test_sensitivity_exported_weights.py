"""Weights quantized for a sensitivity profile are those that an exporter writes."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import kopt
from kopt.core.records.profiles.sensitivity import Perturbation
from kopt.profile.layer_sensitivity.kernels import targets_of

pytestmark = pytest.mark.slow
L = keras.layers


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    i = keras.Input((12, 12, 8))
    x = L.Conv2D(24, 3, name="conv")(i)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = L.Conv2DTranspose(32, 3, name="transposed")(x)
    return keras.Model(i, L.Dense(20, name="dense")(L.GlobalAveragePooling2D()(x)))


def exported_kernels(path):
    """The int8 weights of a file as real numbers, by shape."""
    interpreter = Interpreter(str(path))
    found = {}
    for detail in interpreter.get_tensor_details():
        scales = detail["quantization_parameters"]["scales"]
        if detail["dtype"] == np.int8 and len(detail["shape"]) in (2, 4) and len(scales) > 1:
            codes = interpreter.get_tensor(detail["index"])
            shape = [1] * codes.ndim
            shape[detail["quantization_parameters"]["quantized_dimension"]] = -1
            found[codes.shape] = codes * scales.reshape(shape)
    return found


# How TFLite lays the axes of a Keras kernel out.
LAYOUTS = {
    "conv": lambda kernel: kernel.transpose(3, 0, 1, 2),
    "depthwise": lambda kernel: kernel.reshape(1, *kernel.shape[:2], -1),
    "transposed": lambda kernel: kernel.transpose(2, 0, 1, 3),
    "dense": lambda kernel: kernel.T,
}


def test_int8_weights_are_those_of_the_exported_file(model, tmp_path):
    images = np.random.default_rng(0).normal(size=(20, 12, 12, 8)).astype(np.float32)
    artifact = kopt.export.tflite(model, tmp_path / "model.tflite", scheme="int8", calibration=images)
    exported = exported_kernels(artifact.path)
    for target in targets_of(model)[0]:
        [kernel] = target.perturbed(Perturbation.of("int8"), 0)
        laid_out = LAYOUTS[target.path](kernel)
        step = np.abs(laid_out).max() / 127
        difference = np.abs(exported[laid_out.shape] - laid_out)
        # A weight half way between two steps may be rounded either way; all others are equal.
        assert np.mean(difference > 1e-3 * step) < 0.002, target.path
        assert difference.max() < 1.01 * step, target.path
