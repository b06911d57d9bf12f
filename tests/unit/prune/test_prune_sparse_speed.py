"""Which conditions of XNNPACK's sparse inference a model does not meet."""

import keras
import pytest

import kopt
from kopt.prune.weight_masks.sparse_speed import obstacles, speed_note

L = keras.layers


def network(size=33, channels=3, stem=None, depthwise=None, middle=None, end=True):
    """A network that meets every condition, but for what is given."""
    i = keras.Input((size, size, channels), name="image")
    x = (stem or L.Conv2D(8, 3, strides=2, padding="same", name="stem"))(i)
    x = L.ReLU(6.0, name="relu")(L.BatchNormalization(name="bn")(x))
    y = L.ZeroPadding2D(2, name="pad")(L.Conv2D(8, 1, activation="relu", name="expand")(x))
    y = L.DepthwiseConv2D(5, name="wide")(y)
    x = L.Add(name="add")([x, L.Conv2D(8, 1, name="project")(y)])
    x = L.Dropout(0.1, name="drop")(x)
    x = (depthwise or L.DepthwiseConv2D(3, padding="same", name="deep"))(x)
    if middle is not None:
        x = middle(x)
    x = L.Conv2D(16, 1, name="last")(x)
    x = L.GlobalAveragePooling2D(name="mean")(x) if end else L.Flatten(name="flat")(x)
    return keras.Model(i, L.Dense(3, activation="softmax", name="out")(x), name="net")


ZEROS = dict.fromkeys(("expand", "project", "last"), 0.7)


def found(model, zeros=ZEROS):
    return [(one.layer, one.detail) for one in obstacles(model, zeros)]


def test_a_model_that_meets_them_all():
    assert found(network()) == []
    inner = network()
    i = keras.Input((33, 33, 3))
    nested = {f"net/{name}": share for name, share in ZEROS.items()}
    assert found(keras.Model(i, L.Dense(2)(inner(i))), nested) == []


@pytest.mark.parametrize(
    ("changes", "layer", "reason"),
    [
        ({"channels": 1}, "stem", "3 x 3 of stride 2 on 1"),
        ({"stem": L.Conv2D(8, 3, padding="same", name="stem")}, "stem", "3 x 3 of stride 1 on 3"),
        ({"stem": L.Conv2D(8, 3, strides=2, name="stem")}, "stem", "padded by 0, 0, 0, 0"),
        # 32 of stride 2: one zero is enough, and TensorFlow puts it behind.
        ({"size": 32}, "stem", "padded by 0, 1, 0, 1 (top, bottom, left, right), not by 1 on each side"),
        ({"stem": L.Conv2D(8, 3, strides=2, padding="same", activation="gelu", name="stem")}, "stem", "'gelu'"),
        ({"depthwise": L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="d")}, "d", "multiplier of 1"),
        ({"depthwise": L.DepthwiseConv2D(7, padding="same", name="d")}, "d", "7 x 7 of stride 1"),
        ({"depthwise": L.DepthwiseConv2D(3, padding="same", dilation_rate=2, name="d")}, "d", "dilated by 2"),
        ({"middle": L.Conv2D(8, 3, padding="same", name="m")}, "m", "only 1 x 1 of stride 1"),
        ({"middle": L.Conv2D(8, 1, groups=2, name="m")}, "m", "2 groups"),
        ({"middle": L.MaxPooling2D(name="m")}, "m", "no sparse form"),
        ({"middle": L.Activation("tanh", name="m")}, "m", "'tanh'"),
        ({"middle": L.UpSampling2D(name="m")}, "m", "bilinear"),
    ],
)
def test_a_layer_that_is_in_the_way(changes, layer, reason):
    ((named, detail),) = found(network(**changes))
    assert named == layer
    assert reason in detail


def test_the_whole_model():
    details = [detail for _, detail in found(network(end=False))]
    assert details[0].startswith("no GlobalAveragePooling2D")
    assert found(keras.Sequential([keras.Input((4,)), L.Dense(2)], name="mlp"))[0][1].startswith("no 2D convolution")
    # Kernels of 64, 64 and 128 weights: (0.5 * 128 + 0.8 * 128) / 256.
    zeros = {"expand": 0.5, "project": 0.5, "last": 0.8}
    assert found(network(), zeros) == [("net", "65.0% of the weights of 1 x 1 convolutions are zero; 66.7% have to be")]


def test_reports_say_it():
    _, report = kopt.prune.magnitude(network(), 0.7, policy="xnnpack")
    assert report.obstacles == ()
    assert "this model meets its conditions" in report.notes[-1]
    pruned, report = kopt.prune.magnitude(network(size=32), 0.5, policy="xnnpack")
    assert [one.layer for one in report.obstacles] == ["stem", "net"]
    assert "2 condition(s) are not met" in report.notes[-1]
    assert "Not sparse in XNNPACK: stem (Conv2D): padded by 0, 1, 0, 1" in report.table(120)
    assert kopt.prune.finalize(pruned)[1].obstacles == report.obstacles
    assert kopt.prune.magnitude(network(), 0.5, granularity="channel")[1].obstacles == ()


def test_hardware_for_two_of_four_is_looked_for(monkeypatch):
    assert "Nothing on this machine" in speed_note("n:m", ())
    config = "kopt.prune.weight_masks.sparse_speed.tf.config"
    monkeypatch.setattr(f"{config}.list_physical_devices", lambda kind: ["one"])
    for capability, words in (((7, 5), "Nothing on this machine"), ((8, 0), "Fast One computes 2:4 faster")):
        details = {"device_name": "Fast One", "compute_capability": capability}
        monkeypatch.setattr(f"{config}.experimental.get_device_details", lambda gpu, details=details: details)
        assert words in speed_note("n:m", ())
