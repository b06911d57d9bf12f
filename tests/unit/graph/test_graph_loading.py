import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from kopt.core.errors import LoadError, UnsafeModelError
from kopt.graph import load_model
from kopt.graph.loading import refuse_stored_code

L = keras.layers
X = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)

# Keras 3.15 reads its variables with `np.array(variable)` while it saves, which NumPy 2 deprecates.


@keras.saving.register_keras_serializable("kopt_graph_tests")
class Registered(L.Layer):
    def call(self, inputs):
        return inputs * 2


class Unregistered(L.Layer):
    def call(self, inputs):
        return inputs * 3


def model_with(*layers):
    return keras.Sequential([keras.Input((4,), name="x"), L.Dense(2, name="dense"), *layers])


@pytest.fixture
def saved(tmp_path):
    model = model_with()
    model.save(tmp_path / "m.keras")
    return model, tmp_path / "m.keras"


def saved_as_h5(model, path):
    model.save(path)
    return path


def test_a_keras_file_opens_compiled_and_equal(tmp_path):
    model = model_with(Registered())
    model.compile("adam", "mse")
    model.save(tmp_path / "m.keras")
    opened = load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(opened(X), model(X))
    assert opened.loss == "mse"
    assert not load_model(tmp_path / "m.keras", compile=False).compiled


def test_a_loss_of_ones_own_that_is_not_known_costs_the_loss_alone(tmp_path):
    def mine(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred))

    model = model_with()
    model.compile("adam", mine)
    model.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="opens without the loss and the optimizer .*'mine'"):
        opened = load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(opened(X), model(X))
    assert not opened.compiled
    assert load_model(tmp_path / "m.keras", custom_objects={"mine": mine}).loss is mine
    with pytest.raises(LoadError, match="mine"):
        load_model(tmp_path / "m.keras", compile=True)


def test_a_model_comes_compiled_if_that_is_asked_for(tmp_path):
    model = model_with()
    model.compile(keras.optimizers.SGD(0.25), "mse")
    model.save(tmp_path / "untrained.keras")
    model.fit(X, np.zeros((len(X), 2)), epochs=3, verbose=0)
    model.save(tmp_path / "m.keras")
    opened = load_model(tmp_path / "m.keras", compile=True)
    assert (opened.loss, float(opened.optimizer.learning_rate), int(opened.optimizer.iterations)) == ("mse", 0.25, 3)
    assert load_model(tmp_path / "untrained.keras", compile=True).loss == "mse"
    model_with().save(tmp_path / "plain.keras")
    assert not load_model(tmp_path / "plain.keras", compile=True).compiled
    assert not load_model(saved_as_h5(model, tmp_path / "m.h5"), compile=True).compiled


def test_the_content_counts_not_the_name(saved, tmp_path):
    model, path = saved
    renamed = path.rename(tmp_path / "weights.h5")
    np.testing.assert_array_equal(load_model(str(renamed))(X), model(X))
    h5 = saved_as_h5(model, tmp_path / "m.h5").rename(tmp_path / "m.hdf5.bak")
    np.testing.assert_array_equal(load_model(h5)(X), model(X))


def test_an_unpacked_keras_directory_opens(saved, tmp_path):
    model, path = saved
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    np.testing.assert_array_equal(load_model(tmp_path / "unpacked")(X), model(X))


def test_missing_file(tmp_path):
    with pytest.raises(LoadError, match=r"There is no file or directory .*gone\.keras"):
        load_model(tmp_path / "gone.keras")


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_truncated_keras_file(saved, kept):
    _, path = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(LoadError, match="cut off or damaged"):
        load_model(path)


def test_a_flipped_bit_in_the_weights(saved):
    _, path = saved
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("model.weights.h5").header_offset
    content[start + 2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(LoadError, match=r"damaged: its member 'model\.weights\.h5'"):
        load_model(path)


def test_truncated_h5_file(tmp_path):
    path = saved_as_h5(model_with(), tmp_path / "m.h5")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(LoadError, match="not a whole HDF5 file"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"not a model at all"])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "m.keras"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=rf"\({len(content)} bytes\) is neither"):
        load_model(path)


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(LoadError, match=r"without `config\.json`"):
        load_model(tmp_path / "m.keras")


def test_a_saved_model_directory(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(LoadError, match=r"SavedModel.*`kopt\.measure\.load` runs it.*`kopt\.export\.tflite`"):
        load_model(tmp_path)


def test_an_empty_directory(tmp_path):
    with pytest.raises(LoadError, match="holds no model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("m.bin", b"\x1c\0\0\0TFL3...."), ("m.onnx", b"\x08\x08\x12\x07pytorch")]
)
def test_exported_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=r"exported file.*`kopt\.measure\.load`"):
        load_model(tmp_path / name)


def test_weights_only(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("kernel", data=X)
    with pytest.raises(LoadError, match=r"weights only.*load_weights"):
        load_model(tmp_path / "w.h5")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_lambda_is_refused_by_name_and_opens_on_request(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    model = model_with(L.Lambda(lambda x: x + 1, name="plus_one"))
    model.save(path)
    with pytest.raises(UnsafeModelError, match=r"layer 'plus_one' \(Lambda\).*safe_mode=False"):
        load_model(path)
    np.testing.assert_array_equal(load_model(path, safe_mode=False)(X), model(X))


def test_a_lambda_inside_a_wrapper_inside_a_model_is_found(tmp_path):
    inner = keras.Sequential([keras.Input((3, 4)), L.TimeDistributed(L.Lambda(lambda x: x, name="hidden"))])
    keras.Sequential([keras.Input((3, 4)), inner]).save(tmp_path / "m.keras")
    with pytest.raises(UnsafeModelError, match="'hidden'"):
        load_model(tmp_path / "m.keras")


def edit_config(path, edit):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    edit(config["config"]["layers"][1]["config"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "config.json": json.dumps(config)}.items():
            archive.writestr(name, content)


def test_code_hidden_in_an_activation_is_found(saved):
    _, path = saved
    code = {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}}
    edit_config(path, lambda dense: dense.update(activation=code))
    with pytest.raises(UnsafeModelError, match=r"layer 'dense' \(Dense\)"):
        load_model(path)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_an_unknown_class_is_named_and_can_be_given(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    model = model_with(Unregistered())
    model.save(path)
    with pytest.raises(
        LoadError, match=r"'Unregistered'.*register_keras_serializable.*custom_objects=\{'Unregistered'"
    ):
        load_model(path)
    opened = load_model(path, custom_objects={"Unregistered": Unregistered})
    np.testing.assert_array_equal(opened(X), model(X))


def test_a_config_that_keras_refuses_keeps_the_reason(saved):
    _, path = saved
    edit_config(path, lambda dense: dense.update(units=-1))
    with pytest.raises(LoadError, match=r"Keras cannot open .*m\.keras: .*(`units`|Negative dimensions)"):
        load_model(path)


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("keras_version", "abc", "written by Keras 'abc', which is no version"),
        ("model_config", [1, 2], "its description of the model is no text"),
    ],
)
def test_attributes_of_an_h5_file_that_are_damaged(attribute, value, said, tmp_path):
    path = saved_as_h5(model_with(), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        file.attrs[attribute] = value
    with pytest.raises(LoadError, match=said):
        load_model(path)


@pytest.mark.parametrize("change", [{"layers": []}, {"layers": [{"class_name": "Dense"}]}])
def test_an_h5_file_of_keras_2_without_layers(change, tmp_path):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "net", **change}})
    with pytest.raises(LoadError):
        load_model(path)


@pytest.mark.parametrize("depth", [1_500, 100_000])
def test_a_config_that_is_deeper_than_a_model(saved, depth):
    _, path = saved
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b"{", b'{"deep": ' + b"[" * depth + b"]" * depth + b", ", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(LoadError, match=r"damaged|cannot open"):
        load_model(path)


def test_a_version_that_is_a_number(saved):
    _, path = saved
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["metadata.json"] = json.dumps({"keras_version": 3})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert load_model(path).count_params() > 0


def test_code_is_looked_for_as_deep_as_a_model_goes(tmp_path):
    config: dict = {}
    for _ in range(5_000):
        config = {"config": config}
    with pytest.raises(LoadError, match="goes deeper than any model does"):
        refuse_stored_code(config, tmp_path / "m.keras")
