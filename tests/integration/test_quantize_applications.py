"""Networks of `keras.applications` train a step with rounding, and their files are integers throughout."""

import keras
import numpy as np
import pytest

import kopt

pytestmark = pytest.mark.long

# The contract test has MobileNetV2, EfficientNetB0 and ResNet50, `make sweep` all others.
NAMES = ("MobileNetV3Small", "EfficientNetV2B0", "DenseNet121", "ConvNeXtTiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_applications(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(input_shape=(32, 32, 3), weights=None, classes=10)
    x = np.random.default_rng(0).random((16, 32, 32, 3), np.float32)
    copy, report = kopt.quantize.aware(model)
    assert report.left == ()
    # One step: the trace of hundreds of layers and their gradients would take ten times as long as the step.
    copy.compile(keras.optimizers.SGD(1e-4), "sparse_categorical_crossentropy", run_eagerly=True)
    copy.fit(x, np.arange(16) % 10, batch_size=16, verbose=0)
    artifact = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8", calibration=x, samples=16)
    assert {one.name for one in artifact.operators if one.dtype.startswith("float")} == {"DEQUANTIZE"}
