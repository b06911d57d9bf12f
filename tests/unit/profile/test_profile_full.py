import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt import profile
from kopt.core.errors import ConfigError, DataError, InputError
from kopt.core.records.profiles.full import FullProfile

L = keras.layers
X = np.random.default_rng(0).normal(size=(80, 6)).astype("float32")
Y = np.arange(80) % 3


def make_model(compiled=True):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, "relu", name="hidden"), L.Dense(3, name="logits")]
    model = keras.Sequential([keras.Input((6,)), *layers], name="net")
    if compiled:
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture(scope="module")
def found():
    return profile.full(make_model(), (X, Y))


def test_every_part_is_there(found):
    assert found.skipped == {}
    assert found.cost.macs == 6 * 8 + 8 * 3
    assert found.layer_times.step == "training"
    assert found.gradients.batches == 2
    assert {layer.layer for layer in found.sensitivity.layers} == {"hidden", "logits"}
    assert found.parameters.parameters == 6 * 8 + 8 + 8 * 3 + 3
    assert FullProfile.from_json(found.to_json()).to_json() == found.to_json()


@pytest.mark.slow
def test_it_can_be_shown(found, tmp_path):
    table = found.table(rows=1)
    assert max(map(len, table.splitlines())) <= 80
    for title in ("Cost of the layers", "Roofline", "Parameters", "Time by layer", "Gradients", "Sensitivity"):
        assert title in table
    assert str(found).startswith("net: 83 parameters, 72 multiply-accumulates; ")
    assert found.plot(tmp_path / "roof.svg").stat().st_size > 1000
    text = found.html(tmp_path / "profile.html").read_text()
    assert text.count("<svg") == 8
    assert "Timeline of a step" in text
    assert "hidden/kernel" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_what_cannot_be_made_is_said():
    without = profile.full(make_model(compiled=False), parts=["gradients", "parameters"])
    assert without.gradients is None
    assert without.skipped["gradients"] == "It needs labelled data: pass `data`."
    assert without.skipped["operations"] == "It was not asked for."
    plain = profile.full(make_model(compiled=False), (X, Y), parts=["gradients"])
    assert plain.skipped["gradients"].startswith("There is no loss: compile the model")
    assert "Left out: gradients. There is no loss" in plain.table().replace("\n", " ")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert profile.full(make_model(compiled=False), (X, Y), parts=["gradients"], loss=loss).gradients.batches == 2


def test_impossible_requests():
    with pytest.raises(ConfigError, match=r"Unknown part 'gradient'\. Did you mean 'gradients'"):
        profile.full(make_model(), parts=["gradient"])
    with pytest.raises(ConfigError, match=r"Unknown loss 'msee'\. Did you mean 'mse'|Unknown loss 'msee'"):
        profile.full(make_model(), (X, Y), loss="msee")
    with pytest.raises(InputError, match="build"):
        profile.full(keras.Sequential([L.Dense(3)]))


@pytest.mark.slow
def test_a_data_set_is_data(found):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    again = profile.full(make_model(), dataset)
    assert again.skipped == {}
    assert again.gradients.examples == found.gradients.examples


def test_inputs_alone_are_no_labelled_data():
    with pytest.raises(DataError, match=r"`data` is \(x, y\), or a batched tf.data.Dataset"):
        profile.full(make_model(), {"x": X})


@pytest.mark.slow
def test_a_part_that_fails_takes_no_other_away():
    i = keras.Input(batch_shape=(16, 4, 6))
    model = keras.Model(i, L.Dense(3)(L.LSTM(4, stateful=True)(i)))
    model.compile("sgd", "mse")
    data = np.zeros((32, 4, 6), "float32"), np.zeros((32, 3), "float32")
    made = profile.full(model, data, batch_size=16, parts=["gradients", "sensitivity"])
    assert made.gradients.examples == 32
    assert "takes batches of exactly 16" in made.skipped["sensitivity"]
