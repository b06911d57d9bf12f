"""One small architecture of each family of `keras.applications`, with channels removed."""

import keras
import numpy as np
import pytest
from channel_cases import examples, largest_difference, outputs, randomized, with_zeros

import kopt

FAMILIES = (
    *("ResNet50", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "DenseNet121", "InceptionV3", "Xception"),
    *("VGG16", "ConvNeXtTiny", "NASNetMobile", "MobileNet", "EfficientNetV2B0", "ResNet50V2", "InceptionResNetV2"),
)
# They scale their input down from 255.
SCALES = {"MobileNetV3Small": 200.0, "EfficientNetB0": 200.0, "EfficientNetV2B0": 200.0, "ConvNeXtTiny": 200.0}

pytestmark = pytest.mark.slow


def build(name):
    keras.utils.set_random_seed(0)
    size = 64 if name in ("VGG16", "MobileNetV2", "DenseNet121") else 96
    options = {"classifier_activation": None}
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10, **options)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("keep", [0.7, 0.5])
def test_a_share_of_the_channels_of_every_family(name, keep, tmp_path):
    model = build(name)
    smaller, report = kopt.prune.channels(model, keep=keep)
    # Arithmetic falls by about the square; narrow layers are rounded to multiples of 8, depthwise ones fall linearly.
    assert keep**2 * 0.9 < report.macs_kept < keep**1.3
    assert [group.frozen for group in report.frozen] == ["it is an output of the model"]
    x = examples(model, scale=SCALES.get(name, 1.0))
    before = outputs(smaller, x)
    assert before[0].shape == (2, 10)
    assert np.isfinite(before[0]).all()
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.saving.load_model(tmp_path / "smaller.keras")
    np.testing.assert_allclose(outputs(loaded, x)[0], before[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_that_are_zero_go_without_a_trace(name):
    model, smaller, report = with_zeros(randomized(build(name)), 0.5)
    assert largest_difference(model, smaller, scale=SCALES.get(name, 1.0)) < 1e-4
    assert report.macs_kept < 0.6


@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2", "DenseNet121"])
def test_half_of_the_arithmetic(name):
    _, report = kopt.prune.channels(build(name), target_macs=0.5)
    assert 0.48 < report.macs_kept <= 0.5


@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2", "EfficientNetB0"])
def test_what_is_left_trains_and_exports(name, tmp_path):
    smaller, _ = kopt.prune.channels(build(name), keep=0.5)
    smaller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    smaller.fit(examples(smaller), np.zeros(2), verbose=0)
    for export, name in ((kopt.export.tflite, "smaller.tflite"), (kopt.export.onnx, "smaller.onnx")):
        artifact = export(smaller, tmp_path / name)
        assert artifact.parity.max_abs < 1e-3
