"""Warnings about the integers of a file, each provoked by a network that has what is warned of."""

import keras
import numpy as np
import pytest

import kopt
from kopt.core.records.artifacts import Artifact

L = keras.layers
pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)


def network():
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 4), name="x")
    hidden = L.Conv2D(8, 3, activation="relu", name="conv")(i)
    return keras.Model(i, L.Dense(3, name="out")(L.GlobalAveragePooling2D(name="gap")(hidden)))


@pytest.fixture
def exported(tmp_path):
    def export(model, x, **settings):
        return kopt.export.tflite(
            model, tmp_path / "m.tflite", scheme="int8", calibration=x, overwrite=True, **settings
        )

    return export


def images(count=64):
    return RNG.random((count, 8, 8, 4), np.float32)


def test_a_sound_file_has_its_grids_and_no_warning(exported):
    artifact = exported(network(), images())
    assert artifact.notes == ()
    grids = {one.name: one for one in artifact.quantization}
    conv = next(one for name, one in grids.items() if one.grids == 8 and one.dtype == "int8")
    kernel = network().get_layer("conv").get_weights()[0]
    steps = np.abs(kernel).max((0, 1, 2)) / 127
    assert (conv.smallest_step, conv.largest_step) == pytest.approx((steps.min(), steps.max()), rel=1e-5)
    assert Artifact.from_json(artifact.to_json()) == artifact
    assert kopt.export.read_manifest(artifact.path).quantization == artifact.quantization


def test_dead_channels_are_counted(exported):
    model = network()
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., [1, 5]] = 0
    model.get_layer("conv").set_weights([kernel, bias])
    [note] = exported(model, images()).notes
    assert note.startswith("Dead channels: 2 output channels have no weight but 0, in ")
    assert "conv" in note


def test_biases_that_32_bits_cannot_hold_are_counted(exported):
    """Steps of 1e-12 / 127 * 1 / 255: a bias of 1 is 3e16 of them."""
    model = network()
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., 2] *= 1e-12
    bias[2] = 1.0
    model.get_layer("conv").set_weights([kernel, bias])
    [dead, note] = exported(model, images()).notes
    assert note.startswith("Outside the range: 1 biases are too large for 32 bits in the steps of their weights, in ")
    assert dead.startswith("Dead channels: 1 ")  # its weights are less than half a step of what the bias needs


def test_ranges_that_are_too_narrow_for_the_examples_are_named_with_their_share(tmp_path):
    """The range ends at a quarter of the largest output."""
    model, x = network(), images()
    copy, _ = kopt.quantize.aware(model, calibration=x)
    quantizer = next(one for one in copy.layers if one.name.startswith("conv") and hasattr(one, "ranges"))
    quantizer.ranges.assign(np.asarray(quantizer.ranges) / 4)
    artifact = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8", calibration=x)
    [note] = [one for one in artifact.notes if one.startswith("Saturated")]
    assert "on 16 examples more than 1% of the values lie at an end of their range" in note
    assert "conv" in note


@pytest.mark.parametrize("io_dtype", ["float32", "int8", "uint8"])
def test_an_input_whose_range_is_too_narrow_is_named_with_its_share(io_dtype, tmp_path):
    """A third of the values lie at the low end, which clips none, and a sixth above the high one."""
    values = np.tile(np.linspace(-2, 1, 256, dtype=np.float32), (64, 1))
    model, x = network(), np.maximum(RNG.permuted(values, axis=1), -1).reshape(64, 8, 8, 4)
    copy, _ = kopt.quantize.aware(model, calibration=x)
    settings = {"scheme": "int8", "calibration": x, "io_dtype": io_dtype, "overwrite": True}
    sound = kopt.export.tflite(copy, tmp_path / "m.tflite", **settings)
    assert not [note for note in sound.notes if note.startswith("Clipped")]
    copy.get_layer("x_range").ranges.assign([[-1.0, 0.5]])
    [note] = [one for one in kopt.export.tflite(copy, tmp_path / "m.tflite", **settings).notes if "Clipped" in one]
    assert note.startswith("Clipped: of 16 examples more than 1% of the values lie outside the range of their input, x")
    assert float(note.split("(")[1].split("%")[0]) == pytest.approx(100 / 6, abs=0.5)


def test_float_operators_are_named(exported):
    [note] = exported(network(), images(), fallback=["conv"]).notes
    assert note.startswith("1 operator(s) compute in float: CONV_2D ")
