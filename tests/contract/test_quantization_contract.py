"""Every model of the zoo trains with rounding and becomes an integer file that computes what training computed."""

import keras
import numpy as np
import pytest
import zoo

import kopt
from kopt.core.errors import UnsupportedModelError

pytestmark = pytest.mark.long

COUNT = 32
# Classes of the layers that compute in float.
FLOAT = {
    "conv1d": {"SeparableConv1D"},  # its ELU
    "conv3d": {"Conv3D", "GlobalAveragePooling3D"},
    "custom": {"Scale"},
}
# Largest difference in steps of the output's grid, where there is one. Deep sums of rounded numbers can meet a tie in
# one of them; a softmax then moves by a step or two.
STEPS_APART = {"transformer": 2, "unet": 2, "mobilenet_v2": 1, "efficientnet_b0": 2, "resnet50": 4}
# Tracing their gradients would take ten times as long as the step.
DEEP = {"mobilenet_v2", "efficientnet_b0", "resnet50"}


def parameters():
    for name in zoo.BUILDERS:
        if name != "subclassed":
            yield pytest.param(name, marks=pytest.mark.slow, id=name)


@pytest.mark.parametrize("name", list(parameters()))
def test_trains_a_step_and_ships_in_integers(name, tmp_path):
    model = zoo.build(name)
    x = zoo.inputs(model, COUNT)
    copy, report = kopt.quantize.aware(model)
    assert {one.type for one in report.left} == FLOAT.get(name, set())
    copy.compile(keras.optimizers.SGD(1e-4), "mse", run_eagerly=name in DEEP)
    copy.fit(x, model.predict(x, verbose=0), batch_size=COUNT, verbose=0)
    artifact = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    floats = {one.name for one in artifact.operators if one.dtype.startswith("float")} - {"DEQUANTIZE"}
    assert bool(floats) == (name in FLOAT)
    found = keras.tree.flatten(kopt.measure.load(artifact.path).predict(x))
    expected = keras.tree.flatten(copy.predict(x, verbose=0))
    for a, b in zip(found, expected, strict=True):
        values = np.unique(b)
        gaps = np.diff(values)
        step = gaps[gaps > 1e-6].min(initial=1.0)
        assert np.abs(a - b).max() <= (STEPS_APART.get(name, 0) + 0.01) * step


def test_a_subclassed_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="there is no graph in which to place quantizers"):
        kopt.quantize.aware(zoo.build("subclassed"))
