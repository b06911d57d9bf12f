import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import OutputError
from kopt.profile.tensorboard import InTensorBoard

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = np.arange(64) % 4


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [keras.Input((8,)), L.Dense(6, "relu", name="hidden"), L.Dense(4, name="logits")], name="net"
    )
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return net


def written(directory):
    """Return `{(plugin, tag): [(step, value), ...]}` of every event file in a directory."""
    seen = {}
    for file in sorted(directory.glob("events.out.tfevents.*")):
        for raw in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(raw)
            for value in event.summary.value:
                key = value.metadata.plugin_data.plugin_name, value.tag
                seen.setdefault(key, []).append((event.step, tf.make_ndarray(value.tensor)))
    return seen


def test_costs_are_scalars_a_table_and_a_plot(model, tmp_path):
    profile = kopt.profile.model(model)
    profile.to_tensorboard(tmp_path, step=7)
    seen = written(tmp_path)
    assert seen["scalars", "layers/macs/hidden"] == [(7, 48)]
    [(_, text)] = seen["text", "layers/table"]
    lines = text[0].decode().splitlines()
    assert all(line.startswith("    ") for line in lines)
    assert any("hidden" in line for line in lines)
    [(_, (width, height, png))] = seen["images", "layers/plot"]
    assert tf.io.decode_png(png).shape[:2] == (int(height), int(width))


def test_weights_of_two_checkpoints_are_one_curve(model, tmp_path):
    for step in (0, 100):
        kopt.profile.parameters(model).to_tensorboard(tmp_path, step=step)
    seen = written(tmp_path)
    assert [step for step, _ in seen["scalars", "parameters/l2/hidden/kernel"]] == [0, 100]
    _, bins = seen["histograms", "parameters/hidden/kernel"][0]
    kernel = model.get_layer("hidden").kernel.numpy()
    assert bins[:, 2].sum() == kernel.size
    assert bins[0, 0] == pytest.approx(kernel.min())
    assert bins[-1, 1] == pytest.approx(kernel.max())


@pytest.mark.slow
def test_every_part_of_a_full_profile_is_written(model, tmp_path):
    kopt.profile.full(model, (X, Y)).to_tensorboard(tmp_path)
    tables = {tag.removesuffix("/table") for plugin, tag in written(tmp_path) if plugin == "text"}
    parts = {"layers", "roofline", "parameters", "layer-times", "operation-times", "gradients", "sensitivity"}
    assert tables == parts


def test_every_profile_goes_to_tensorboard():
    shown = {value for value in vars(kopt.profile).values() if isinstance(value, type) and hasattr(value, "look")}
    assert len(shown) > 10
    assert all(issubclass(kind, InTensorBoard) for kind in shown)


def test_a_directory_that_cannot_be_made(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        kopt.profile.model(model).to_tensorboard(tmp_path / "file" / "logs")
