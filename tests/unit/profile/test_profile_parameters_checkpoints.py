"""Variables of files under the names that Keras gives them: fails when a Keras release lays checkpoints out anew."""

import keras
import numpy as np
import pytest

from kopt.core.errors import LoadError
from kopt.profile.weights.checkpoints import KERAS_3, LEGACY, entries_of_model, opened_checkpoint
from kopt.profile.weights.internals import checkpoint_entries

L = keras.layers


def network():
    """Nested, with a seed, with state, with a layer that occurs twice under other names."""
    inner = keras.Sequential(
        [keras.Input((4,)), L.Dense(4, name="deep"), L.BatchNormalization(name="norm")], name="inner"
    )
    x = i = keras.Input((4,), name="x")
    x = L.Dropout(0.1, name="drop")(inner(L.Dense(4, name="first")(x)))
    model = keras.Model(i, L.Dense(3, name="last")(x), name="outer")
    rng = np.random.default_rng(0)
    model.set_weights([rng.standard_normal(value.shape) for value in model.get_weights()])
    return model


def subclassed():
    class Outer(keras.Model):
        def __init__(self):
            super().__init__(name="outer")
            self.blocks = [L.Dense(4, name="one"), L.Dense(4, name="two")]
            self.scale = self.add_weight(shape=(4,), name="scale", initializer="ones")

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return x * self.scale

    model = Outer()
    model(np.zeros((1, 3), "float32"))
    return model


def save(model, path):
    model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)
    return path


@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras"])
@pytest.mark.parametrize("build", [network, subclassed])
def test_every_weight_is_found_in_the_file_under_the_name_that_the_model_gives_it(build, name, tmp_path):
    model = build()
    model.compile("adam", "mse", run_eagerly=True)
    x = np.zeros((2, *model.input_shape[1:])) if build is network else np.zeros((2, 3))
    model.fit(x, np.zeros((2, 3 if build is network else 4)), verbose=0)
    with opened_checkpoint(save(model, tmp_path / name)) as (layout, entries):
        assert layout == KERAS_3
        stored = {entry.name: entry.read() for entry in entries}
    expected = {entry.name: entry.read() for entry in entries_of_model(model, KERAS_3)}
    assert len(expected) == len(model.weights)
    assert stored.keys() == expected.keys()  # Neither optimizer nor seeds.
    assert all(np.array_equal(stored[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_the_legacy_format_too(tmp_path):
    model = network()
    with opened_checkpoint(save(model, tmp_path / "m.h5")) as (layout, entries):
        assert layout == LEGACY
        stored = {entry.name: entry.read() for entry in entries}
        paths = {entry.path for entry in entries}
    expected = {entry.name: entry.read() for entry in entries_of_model(model, LEGACY)}
    assert stored.keys() == expected.keys()
    assert all(np.array_equal(stored[name], expected[name]) for name in expected)
    assert {"first/kernel", "inner/deep/kernel", "inner/norm/gamma", "last/bias"} <= paths


def test_entries_of_a_file_bear_the_names_of_layers(tmp_path):
    with opened_checkpoint(save(network(), tmp_path / "m.weights.h5")) as (_, entries):
        paths = {entry.path: entry.shape for entry in entries}
    assert paths["first/0"] == (4, 4)
    assert paths["last/1"] == (3,)


def test_what_keras_saves_are_the_variables_themselves():
    model = network()
    found = checkpoint_entries(model)
    assert found["layers/dense/vars/0"] is model.get_layer("first").kernel
    assert found["layers/sequential/layers/dense/vars/1"] is model.get_layer("inner").get_layer("deep").bias


def test_bfloat16_and_int8_come_back_from_a_file(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, name="a"), L.Dense(2, dtype="bfloat16", name="b")])
    model.get_layer("a").quantize("int8")
    with opened_checkpoint(save(model, tmp_path / "m.weights.h5")) as (_, entries):
        stored = {entry.name: entry.read() for entry in entries}
    expected = {entry.name: entry.read() for entry in entries_of_model(model, KERAS_3)}
    assert {values.dtype.name for values in stored.values()} == {"int8", "float32", "bfloat16"}
    for name, values in expected.items():
        assert stored[name].dtype == values.dtype
        assert np.array_equal(stored[name], values)


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    text = tmp_path / "m.keras"
    text.write_text("not a model")
    cut = save(network(), tmp_path / "cut.weights.h5")
    cut.write_bytes(cut.read_bytes()[:600])
    for path, says in ((text, "neither"), (cut, "cut off or damaged"), (tmp_path / "none.keras", "There is no file")):
        with pytest.raises(LoadError, match=says), opened_checkpoint(path):
            pass
