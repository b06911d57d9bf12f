"""The bad files, models and data that the contract tests of bad input share, and what must hold when one is refused."""

import contextlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

DATA = Path(__file__).parents[1] / "data"
DENSE = DATA / "dense.keras"  # 4 inputs "x", 3 classes
X = np.linspace(0, 1, 40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10) % 3


def listing(directory):
    """Return everything under `directory`, hidden names too, with the content of the files."""
    paths = sorted(directory.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@contextlib.contextmanager
def refused(directory, error, *parts):
    """Expect exactly `error` with all `parts` in its message, and nothing under `directory` changed."""
    before = listing(directory)
    with pytest.raises(error) as raised:
        yield
    assert raised.type is error
    message = str(raised.value)
    assert [str(part) for part in parts if str(part) not in message] == [], message
    assert listing(directory) == before


def full_device():
    """Return the kernel's own full device: whatever is written there fails as on a disk without room."""
    return io.FileIO("/dev/full", "w")


def truncated_keras(directory):
    path = directory / "half.keras"
    path.write_bytes(DENSE.read_bytes()[: DENSE.stat().st_size // 2])
    return path


def text_as_tflite(directory):
    path = directory / "text.tflite"
    path.write_text("this is a text file, renamed\n")
    return path


def text_as_keras(directory):
    path = directory / "text.keras"
    path.write_text("this is a text file, renamed\n")
    return path


def saved_model_with_a_broken_graph(directory):
    path = shutil.copytree(DATA / "dense_saved_model", directory / "broken_graph")
    (path / "saved_model.pb").write_bytes(b"\xff no protocol buffer")
    return path


def saved_model_with_truncated_variables(directory):
    path = shutil.copytree(DATA / "dense_saved_model", directory / "broken_variables")
    variables = path / "variables" / "variables.data-00000-of-00001"
    variables.write_bytes(variables.read_bytes()[:20])
    return path


def saved_model_without_its_graph(directory):
    path = shutil.copytree(DATA / "dense_saved_model", directory / "no_graph")
    (path / "saved_model.pb").unlink()
    return path


def edited_keras(directory, name, edit):
    """Copy `DENSE` with its members changed by `edit`, which gets them as a dict of bytes by name."""
    with zipfile.ZipFile(DENSE) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(directory / name, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return directory / name


def keras_with_lambda(directory):
    model = keras.Sequential(
        [keras.Input((4,), name="x"), keras.layers.Lambda(lambda x: x * 2, name="twice"), keras.layers.Dense(3)]
    )
    model.save(directory / "lambda.keras")
    return directory / "lambda.keras"


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, directory):
        self.directory = directory

    def __reduce__(self):
        return Path.touch, (self.directory / "exploded",)


def keras_with_pickled_weights(directory):
    weights = io.BytesIO()
    np.savez(weights, **{"layers/dense": np.array({"0": Bomb(directory)}, dtype=object)})

    def edit(members):
        del members["model.weights.h5"]
        members["model.weights.npz"] = weights.getvalue()

    return edited_keras(directory, "pickled.keras", edit)


def keras_with_a_foreign_class(directory):
    """Names `pickle.loads` as the class of a layer."""

    def edit(members):
        config = json.loads(members["config.json"])
        config["config"]["layers"][1].update(module="pickle", class_name="loads", registered_name=None)
        members["config.json"] = json.dumps(config)

    return edited_keras(directory, "foreign.keras", edit)


def keras_with_a_hidden_saved_model(directory):
    """Holds a layer that loads another directory."""

    def edit(members):
        config = json.loads(members["config.json"])
        layer = config["config"]["layers"][1]
        layer.update(class_name="TFSMLayer", config={"name": "classes", "filepath": str(DATA / "dense_saved_model")})
        members["config.json"] = json.dumps(config)

    return edited_keras(directory, "hidden.keras", edit)


def keras_with_nan(directory):
    model = keras.saving.load_model(DENSE)
    kernel, bias = model.get_weights()
    kernel[1, 2], bias[0] = np.nan, np.inf
    model.set_weights([kernel, bias])
    model.save(directory / "nan.keras")
    return directory / "nan.keras"


def saved_model_with_nan(directory):
    module = tf.Module()
    module.weight = tf.Variable([1.0, np.nan, np.inf, 0.0], name="weight")
    module.serve = tf.function(lambda x: {"y": x * module.weight})
    spec = tf.TensorSpec((None, 4), tf.float32, name="x")
    tf.saved_model.save(module, str(directory / "nan"), {"serving_default": module.serve.get_concrete_function(x=spec)})
    return directory / "nan"
