"""One small architecture of each family of `keras.applications`, with channels removed; `make sweep` runs them all."""

import channel_checks
import pytest
from applications import images, untrained
from channel_cases import randomized

import kopt

FAMILIES = (
    *("ResNet50", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "DenseNet121"),
    *("InceptionV3", "Xception", "VGG16", "ConvNeXtTiny", "NASNetMobile"),
)

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.mark.parametrize("name", FAMILIES)
def test_half_of_the_channels_of_every_family(name):
    model, x = randomized(untrained(name)), images(name)
    smaller, report, _ = channel_checks.pruned(model, 0.5)
    # Arithmetic falls by about the square; narrow layers are rounded to multiples of 8, depthwise ones fall linearly.
    assert 0.5**2 * 0.9 < report.macs_kept < 0.5**1.3
    assert [group.frozen for group in report.frozen] == ["it is an output of the model"]
    assert channel_checks.macs(model, report) <= channel_checks.BOUNDS["macs"]
    channel_checks.runs(model, smaller, x)
    assert channel_checks.zeros(model, 0.5, x) <= channel_checks.BOUNDS["zeros"]


def test_half_of_the_arithmetic():
    _, report = kopt.prune.channels(untrained("ResNet50"), target_macs=0.5)
    assert 0.48 < report.macs_kept <= 0.5


def test_what_is_left_saves_trains_and_exports(tmp_path):
    x = images("MobileNetV2")
    smaller, _ = kopt.prune.channels(randomized(untrained("MobileNetV2")), keep=0.7)
    assert channel_checks.reloaded(smaller, x, tmp_path) <= channel_checks.BOUNDS["reloaded"]
    for kind in ("tflite", "onnx"):
        found = channel_checks.from_file(smaller, x, tmp_path / f"smaller.{kind}")
        assert channel_checks.exported(smaller, x, found) <= channel_checks.BOUNDS[kind]
    channel_checks.trains(smaller, x)
