"""Bad input in Python: the error says what was received, what is accepted and how to fix it; nothing is written.

Each error comes before anything takes long: tracing, conversion, training and timing fail the test if they begin.
"""

import errno
import io
import os
import tempfile

import bad_input
import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from bad_input import DATA, DENSE, X, Y, refused
from tensorflow.python.lib.io import file_io

import kopt
from kopt import data, export, measure
from kopt.core import files
from kopt.core.errors import (
    ConfigError,
    DataError,
    ExportError,
    InputError,
    LoadError,
    NonFiniteError,
    OutputError,
    OutputExistsError,
    UnsafeModelError,
)
from kopt.core.records.artifacts import TensorInfo
from kopt.export.process import Converter, converter

N = 12
IMAGES = np.linspace(0, 1, N * 12 * 12 * 3, dtype=np.float32).reshape(N, 12, 12, 3)
LABELS = np.arange(N) % 5
pytestmark = pytest.mark.usefixtures("scratch", "no_long_work")
IMAGE = (TensorInfo("image", (None, 12, 12, 3), "float32"),)


@pytest.fixture(scope="module")
def cnn():
    return zoo.build("cnn")


def optimize(model, out, train=(X, Y), validation=(X, Y), **settings):
    kopt.optimize(model, train, validation, workdir=out / "run", progress=None, **settings)


EXPORTS = {
    "tflite": lambda model, out: export.tflite(model, out / "m.tflite"),
    "onnx": lambda model, out: export.onnx(model, out / "m.onnx"),
    "saved_model": lambda model, out: export.saved_model(model, out / "m"),
    "optimize": optimize,
    "tune": lambda model, out: kopt.tune(model, (X, Y), (X, Y), workdir=out / "run", progress=None, max_trials=1),
}
RUNNERS = {**EXPORTS, "measure": lambda model, out: measure.load(model)}
OPENERS = {**RUNNERS, "load_model": lambda model, out: kopt.load_model(model)}
over = pytest.mark.parametrize


# Files


@over("entry", OPENERS)
def test_missing_file(tmp_path, entry):
    (tmp_path / "model.keras").touch()
    path = tmp_path / "modle.keras"
    with refused(tmp_path, LoadError, "There is no file", path, "Did you mean 'model.keras'?", "Check the path"):
        OPENERS[entry](path, tmp_path)


@over("entry", OPENERS)
def test_truncated_keras(tmp_path, entry):
    path = bad_input.truncated_keras(tmp_path)
    with refused(tmp_path, LoadError, path, "cut off or damaged", "Copy or save it again"):
        OPENERS[entry](path, tmp_path)


@over("entry", OPENERS)
def test_text_renamed_keras(tmp_path, entry):
    path = bad_input.text_as_keras(tmp_path)
    with refused(tmp_path, LoadError, path, "neither a `.keras` archive nor HDF5", "begins with b'this is '"):
        OPENERS[entry](path, tmp_path)


@over("members", [{"config.json": b'{"class_name": "Func'}, {"config.json": b"[]"}, {"metadata.json": b"{"}])
def test_keras_archive_with_a_damaged_description(tmp_path, members):
    path = bad_input.edited_keras(tmp_path, "m.keras", lambda inside: inside.update(members))
    with refused(tmp_path, LoadError, path, "is damaged", "description of the model"):
        kopt.load_model(path)


def test_text_renamed_tflite(tmp_path):
    path = bad_input.text_as_tflite(tmp_path)
    with refused(tmp_path, LoadError, path, "not a TensorFlow Lite file", "begins with b'this is '", "b'TFL3'"):
        measure.load(path)


@over("entry", [*EXPORTS, "load_model"])
def test_tflite_where_a_model_is_needed(tmp_path, entry):
    path = bad_input.text_as_tflite(tmp_path)
    with refused(tmp_path, LoadError, path, "holds no Keras model", "give the `.keras` or `.h5` file"):
        OPENERS[entry](path, tmp_path)


@over("entry", RUNNERS)
@over("make", [bad_input.saved_model_with_a_broken_graph, bad_input.saved_model_with_truncated_variables])
def test_corrupted_saved_model(tmp_path, entry, make):
    path = make(tmp_path)
    with refused(tmp_path, LoadError, path, "is not a SavedModel that TensorFlow", "Export or copy it again"):
        RUNNERS[entry](path, tmp_path)


@over("entry", OPENERS)
def test_saved_model_without_its_graph(tmp_path, entry):
    path = bad_input.saved_model_without_its_graph(tmp_path)
    with refused(tmp_path, LoadError, path, "is a directory without", "saved_model.pb"):
        OPENERS[entry](path, tmp_path)


def test_what_is_wrong_with_training_data_of_a_search_is_said_of_it(tmp_path, cnn):
    with refused(tmp_path, DataError, "`train` is chosen from arrays", "generator"):
        optimize(cnn, tmp_path, train=((IMAGES, LABELS) for _ in range(2)), validation=(IMAGES, LABELS))
    with refused(tmp_path, NonFiniteError, "`train`, input 'image'"):
        optimize(cnn, tmp_path, train=(IMAGES * np.nan, LABELS), validation=(IMAGES, LABELS))


# Code in files


@over("entry", OPENERS)
def test_lambda_is_refused(tmp_path, entry):
    path = bad_input.keras_with_lambda(tmp_path)
    with refused(
        tmp_path, UnsafeModelError, path, "layer 'twice' (Lambda)", "`kopt.load_model(path, safe_mode=False)`"
    ):
        OPENERS[entry](path, tmp_path)


def test_lambda_opens_when_opted_in(tmp_path):
    path = bad_input.keras_with_lambda(tmp_path)
    model = kopt.load_model(path, safe_mode=False)
    kernel, bias = model.get_weights()
    for found in (measure.load(path, safe_mode=False), measure.load(export.open_model(path, safe_mode=False))):
        np.testing.assert_allclose(found.predict(X), 2 * X @ kernel + bias, rtol=1e-6, atol=1e-6)


@over("entry", OPENERS)
def test_pickled_weights_are_refused_even_when_opted_in(tmp_path, entry):
    path = bad_input.keras_with_pickled_weights(tmp_path)
    with refused(tmp_path, UnsafeModelError, path, "pickled Python objects", "save it again with `model.save`"):
        OPENERS[entry](path, tmp_path)
    with refused(tmp_path, UnsafeModelError, "pickled"):
        kopt.load_model(path, safe_mode=False)


@over("safe_mode", [True, False])
def test_a_function_named_as_a_layer_is_never_called(tmp_path, safe_mode):
    path = bad_input.keras_with_a_foreign_class(tmp_path)
    with refused(tmp_path, LoadError, path, "uses 'loads', which Keras does not know", "custom_objects"):
        kopt.load_model(path, safe_mode=safe_mode)


def test_a_layer_that_loads_another_model_is_refused(tmp_path):
    path = bad_input.keras_with_a_hidden_saved_model(tmp_path)
    with refused(tmp_path, UnsafeModelError, path, "TFSMLayer", "safe_mode=False", "`--unsafe`"):
        kopt.load_model(path)


# Models


@over("entry", RUNNERS)
def test_subclassed_model_that_was_never_called(tmp_path, entry):
    with refused(tmp_path, InputError, "'fresh' (Subclassed) was never called", "Call it once", "`model(x)`"):
        RUNNERS[entry](zoo.Subclassed(name="fresh"), tmp_path)


@over("entry", RUNNERS)
def test_unbuilt_sequential(tmp_path, entry):
    model = keras.Sequential([keras.layers.Dense(2)], name="shapeless")
    with refused(tmp_path, InputError, "'shapeless' is not built", "`keras.Input(shape)`", "`model.build"):
        RUNNERS[entry](model, tmp_path)


@over("entry", EXPORTS)
def test_something_that_is_no_model(tmp_path, entry):
    with refused(tmp_path, InputError, "Expected a Keras 3 model", "Received: builtins.dict"):
        EXPORTS[entry]({"layers": []}, tmp_path)


@over("entry", EXPORTS)
@over("from_file", [False, True])
def test_non_finite_weights(tmp_path, entry, from_file):
    path = bad_input.keras_with_nan(tmp_path)
    model = path if from_file else kopt.load_model(path)
    parts = ("classes/kernel (1 NaN, 0 infinite of 12)", "classes/bias (0 NaN, 1 infinite of 3)", "earlier checkpoint")
    with refused(tmp_path, NonFiniteError, *parts):
        EXPORTS[entry](model, tmp_path)


@over("entry", EXPORTS)
def test_non_finite_weights_in_a_saved_model(tmp_path, entry):
    path = bad_input.saved_model_with_nan(tmp_path)
    with refused(tmp_path, NonFiniteError, "'nan' holds", "1 NaN, 1 infinite of 4", "earlier checkpoint"):
        EXPORTS[entry](path, tmp_path)


# Inputs


def with_value(value):
    x = IMAGES.copy()
    x[3, 4, 5, 2] = value
    return x


WRONG_INPUTS = {
    "rank": (IMAGES[:, 0], DataError, ("float32", "(12, 12, 3)", "(None, 12, 12, 3)", "`x[None]`")),
    "flat": (IMAGES.reshape(N, -1), DataError, ("(12, 432)", "(None, 12, 12, 3)", "`x.reshape(-1, 12, 12, 3)`")),
    "channels": (IMAGES[..., :1], DataError, ("(12, 12, 12, 1)", "(None, 12, 12, 3)", "`np.repeat(x, 3, axis=-1)`")),
    "channels first": (np.moveaxis(IMAGES, 3, 1), DataError, ("(12, 3, 12, 12)", "`np.moveaxis(x, 1, 3)`")),
    "strings": (np.full(IMAGES.shape, "a"), DataError, ("str32", "needs float32", "`x.astype('float32')`")),
    "objects": (IMAGES.astype(object), DataError, ("object", "needs float32", "`x.astype('float32')`")),
    "empty": (IMAGES[:0], DataError, ("is empty", "at least one example")),
    "nan": (with_value(np.nan), NonFiniteError, ("1 value(s) that are NaN or infinite", "(", ", 4, 5, 2)", "replace")),
    "infinity": (with_value(-np.inf), NonFiniteError, ("1 value(s) that are NaN or infinite", "`np.nan_to_num(x)`")),
    "ragged": ([[1.0, 2.0], [3.0]], DataError, ("Received: builtins.list", "arrays")),
    "names": ({"img": IMAGES}, DataError, ("'img'", "'image'")),
}
TAKES_INPUTS = {
    "calibration of tflite": lambda m, x, out: export.tflite(m, out / "m.tflite", scheme="int8", calibration=x),
    "calibration of int16x8": lambda m, x, out: export.tflite(m, out / "m.tflite", scheme="int16x8", calibration=x),
    "data of onnx": lambda m, x, out: export.onnx(m, out / "m.onnx", data=x),
    "data of saved_model": lambda m, x, out: export.saved_model(m, out / "m", data=x),
    "train": lambda m, x, out: optimize(m, out, train=x, validation=(IMAGES, LABELS)),
    "data.calibration": lambda m, x, out: data.calibration(x, inputs=IMAGE),
}


@over("wrong", WRONG_INPUTS)
@over("entry", TAKES_INPUTS)
def test_inputs_that_do_not_fit(tmp_path, cnn, entry, wrong):
    x, error, parts = WRONG_INPUTS[wrong]
    with refused(tmp_path, error, *parts):
        TAKES_INPUTS[entry](cnn, x, tmp_path)


@over("wrong", sorted(set(WRONG_INPUTS) - {"ragged", "names"}))
def test_validation_inputs_that_do_not_fit(tmp_path, cnn, wrong):
    x, error, parts = WRONG_INPUTS[wrong]
    with refused(tmp_path, error, "validation", *parts):
        optimize(cnn, tmp_path, train=IMAGES, validation=(x, LABELS[: len(x)]))
    with refused(tmp_path, error, "holdout", *parts):
        data.check(data.Split(x, LABELS[: len(x)]), IMAGE, num_classes=5, name="holdout")


WRONG_DATASETS = {
    "empty": (lambda: tf.data.Dataset.from_tensor_slices(IMAGES).take(0).batch(4), "yields no examples"),
    "rank": (lambda: tf.data.Dataset.from_tensor_slices(IMAGES.reshape(N, -1)).batch(4), "must have shape (12, 12, 3)"),
    "channels": (lambda: tf.data.Dataset.from_tensor_slices(IMAGES[..., :1]).batch(4), "`np.repeat(x, 3, axis=-1)`"),
    "strings": (lambda: tf.data.Dataset.from_tensor_slices(np.full(IMAGES.shape, "a")).batch(4), "astype('float32')"),
}


@over("wrong", WRONG_DATASETS)
@over("entry", TAKES_INPUTS)
def test_data_sets_that_do_not_fit(tmp_path, cnn, entry, wrong):
    make, fix = WRONG_DATASETS[wrong]
    argument = entry.split(" of ")[0].removeprefix("data.")
    with refused(tmp_path, DataError, f"`{argument}`", fix):
        TAKES_INPUTS[entry](cnn, make(), tmp_path)


@over("scheme", ["int8", "int16x8"])
def test_no_calibration_at_all(tmp_path, cnn, scheme):
    with refused(tmp_path, ConfigError, f"'{scheme}' needs `calibration`", "`calibration=(x_train, y_train)`"):
        export.tflite(cnn, tmp_path / "m.tflite", scheme=scheme)


def test_data_for_a_saved_model_is_checked_against_its_signature(tmp_path):
    with refused(tmp_path, DataError, "(10, 3)", "needs float32 (None, 4)", "must have 4 entries"):
        export.onnx(DATA / "dense_saved_model", tmp_path / "m.onnx", data=X[:, :3])


# Labels


WRONG_LABELS = {
    "above": (np.arange(N), DataError, ("[0, 5)", "7 do not", "all lie in [0, 11]", "Number the classes from 0")),
    "below": (LABELS - 1, DataError, ("[0, 5)", "all lie in [-1, 3]", "Number the classes from 0")),
    "fractions": (LABELS + 0.5, DataError, ("float64", "whole numbers", "`y.astype('int64')`")),
    "names": (LABELS.astype(str), DataError, ("numbers are needed", "np.unique(y, return_inverse=True)")),
    "objects": (LABELS.astype(object), DataError, ("object", "numbers are needed")),
    "nan": (np.where(LABELS == 3, np.nan, LABELS), NonFiniteError, ("2 value(s)", "index (3,)")),
    "shorter": (LABELS[:-2], DataError, ("(10,)", "12 examples", "one label an example")),
    "one-hot of 4": (np.eye(4)[LABELS % 4], DataError, ("(12, 4)", "rows of 5")),
    "ragged": ([[0, 1], [2]], DataError, ("cannot become one array", "same shape")),
}


@over("wrong", WRONG_LABELS)
def test_labels_that_do_not_fit(tmp_path, cnn, wrong):
    y, error, parts = WRONG_LABELS[wrong]
    with refused(tmp_path, error, "validation labels", *parts):
        optimize(cnn, tmp_path, train=IMAGES, validation=(IMAGES, y))
    with refused(tmp_path, error, "data labels", *parts):
        data.check(data.Split(IMAGES, y), IMAGE, num_classes=5)


def test_labels_outside_a_binary_output(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
    with refused(tmp_path, DataError, "[0, 2)", "all lie in [0, 2]"):
        optimize(model, tmp_path, validation=(X, Y))


TAKES_LABELS = {
    "calibration": lambda m, pair, out: export.tflite(m, out / "m.tflite", scheme="int8", calibration=pair),
    "train": lambda m, pair, out: optimize(m, out, train=pair, validation=(IMAGES, LABELS)),
    "data.calibration": lambda m, pair, out: data.calibration(pair, inputs=IMAGE),
}


@over("entry", TAKES_LABELS)
def test_inputs_and_labels_of_different_lengths(tmp_path, cnn, entry):
    with refused(tmp_path, DataError, "different lengths: [9, 12]", "Pass the same rows"):
        TAKES_LABELS[entry](cnn, (IMAGES, LABELS[:9]), tmp_path)


def test_from_arrays(tmp_path):
    with refused(tmp_path, DataError, "(12, 12, 12, 3), (9,)", "same number of examples", "same rows"):
        data.from_arrays(IMAGES, LABELS[:9], batch_size=4)
    with refused(tmp_path, DataError, "no examples", "at least one row"):
        data.from_arrays(IMAGES[:0], LABELS[:0], batch_size=4)
    with refused(tmp_path, DataError, "Python objects of shape (12, 12, 12, 3)", "astype('float32')"):
        data.from_arrays(IMAGES.astype(object), LABELS, batch_size=4)


@over("validation", [(IMAGES, LABELS, LABELS, LABELS), "digits", None])
def test_validation_that_is_not_labelled(tmp_path, cnn, validation):
    kind = f"builtins.{type(validation).__name__}"
    with refused(tmp_path, DataError, "`validation` is (x, y) arrays, a `kopt.data.Split` or a batched", kind):
        optimize(cnn, tmp_path, train=IMAGES, validation=validation)


@over(
    ("settings", "validation", "parts"),
    [
        ({"metric": "auc"}, IMAGES, ("'auc' needs labels, and there are none", "metric='accuracy' for classes")),
        ({"constraints": ("size<=5",)}, (IMAGES, LABELS), ("'size' has no unit", "'size_bytes'")),
        ({"constraints": ("size_bytes<=5", "size_bytes>=6")}, (IMAGES, LABELS), ("contradict each other",)),
        ({"constraints": ("accuracy_<=0.5",)}, (IMAGES, LABELS), ("Unknown metric 'accuracy_'", "Did you mean")),
        ({"metric": "auc"}, (IMAGES, LABELS), ("'auc' cannot be computed of labels of shape (8,)", "'accuracy'")),
        ({"metric": "r2_score", "max_class_drop": 0.1}, IMAGES, ("`max_class_drop` needs a class", "labels none")),
    ],
)
def test_budgets_that_cannot_be_judged(tmp_path, cnn, settings, validation, parts):
    with refused(tmp_path, ConfigError, *parts):
        optimize(cnn, tmp_path, train=IMAGES, validation=validation, budget=kopt.Budget(**settings))


def test_a_test_split_that_is_validation(tmp_path, cnn):
    with refused(tmp_path, InputError, "`test` must hold examples that the search never sees", "all 12 of it"):
        optimize(cnn, tmp_path, train=IMAGES, validation=(IMAGES, LABELS), test=(IMAGES, LABELS))


def test_validation_data_sets(tmp_path, cnn):
    pairs = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
    for dataset, parts in (
        (pairs, ("do not join", "`.batch(32)`")),
        (pairs.batch(4).take(0), ("is empty", "at least one batch")),
        (pairs.batch(4).repeat(), ("infinite", "`.take(steps)`")),
        (pairs.batch(4).map(lambda x, y: (x, y, y)), ("(x, y, sample_weight)", "pass (x, y)", "`train` takes weights")),
        (pairs.batch(4).map(lambda x, y: (x, y, y, y)), ("pairs (x, y)", "(None, 12, 12, 3)", "Dataset.zip")),
        (pairs.batch(4).map(lambda x, y: (x, y + 5)), ("[0, 5)", "all lie in [5, 9]")),
    ):
        with refused(tmp_path, DataError, "validation", *parts):
            optimize(cnn, tmp_path, train=IMAGES, validation=dataset)


# Data files


def test_data_files(tmp_path):
    pickled = {"x_train": np.array([bad_input.Bomb(tmp_path)], dtype=object)}
    np.savez(tmp_path / "pickled.npz", **pickled, y_train=Y, x_val=X, y_val=Y)
    np.savez(tmp_path / "uneven.npz", x_train=X, y_train=Y[:-1], x_val=X, y_val=Y)
    np.savez(tmp_path / "typo.npz", x_train=X, y_train=Y, x_val=X, y_valid=Y)
    np.savez(tmp_path / "negative.npz", x_train=X, y_train=Y - 1, x_val=X, y_val=Y)
    np.savez(tmp_path / "none.npz", x_train=X[:0], y_train=Y[:0], x_val=X, y_val=Y)
    (tmp_path / "half.npz").write_bytes((tmp_path / "typo.npz").read_bytes()[:300])
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    (tmp_path / "folder").mkdir()
    for name, parts in {
        "gone.npz": ("does not exist", "Did you mean 'none.npz'?"),
        "pickled.npz": ("pickled Python objects", "np.savez"),
        "uneven.npz": ("x_train has shape (10, 4) and y_train (9,)", "the same number of examples"),
        "typo.npz": ("Missing: y_val", "Unknown: y_valid", "Did you mean 'y_val'?"),
        "negative.npz": ("the lowest is -1", "Number them anew"),
        "none.npz": ("x_train has shape (0, 4)", "at least one"),
        "half.npz": ("not a whole .npz file", "np.savez"),
        "text.npz": ("not an .npz file", "begins with b'x,y\\n'", "np.savez"),
        "folder": ("0 class folder(s)", "at least two"),
        "data.csv": ("is not a data set", "digits, fashion_mnist", "an .npz file"),
    }.items():
        with refused(tmp_path, DataError, tmp_path / name, *parts):
            data.open_data(tmp_path / name)
    with refused(tmp_path, DataError, "'digit'", "Did you mean 'digits'?"):
        data.open_data("digit")


# Settings


@over("entry", ["tflite", "config"])
def test_unknown_scheme(tmp_path, entry):
    with refused(
        tmp_path, ConfigError, "Unknown scheme 'int-8'", "Did you mean 'int8'?", "Accepted: float32, float16, dynamic"
    ):
        if entry == "tflite":
            export.tflite(DENSE, tmp_path / "m.tflite", scheme="int-8")
        else:
            kopt.core.records.candidates.ExportConfig("tflite", "int-8")


@over("drop", [-0.01, 1.01, float("nan"), float("inf")])
def test_max_drop_outside_its_range(drop):
    with pytest.raises(ConfigError, match=r"fraction of the metric in \[0, 1\], e\.g\. 0\.01 .* Received: ") as raised:
        kopt.Budget(max_drop=drop)
    assert repr(drop) in str(raised.value)


@over("drop", ["0.01", None, True])
def test_max_drop_that_is_no_number(drop):
    with pytest.raises(ConfigError, match=r"`max_drop` must be a number\. Received: ") as raised:
        kopt.Budget(max_drop=drop)
    assert repr(drop) in str(raised.value)


@over(
    ("settings", "parts"),
    [
        ({"budget": 0.01}, ("must be a kopt.Budget", "kopt.Budget(max_drop=0.01)", "Received: 0.01")),
        ({"techniques": ["tflite-int9"]}, ("'tflite-int9'", "Did you mean 'tflite-int8'?", "Accepted: saved_model")),
        ({"techniques": []}, ("`techniques` is empty", "Accepted: saved_model", "None for all")),
        ({"samples": 0}, ("`samples` must be a whole number of at least 1", "Received: 0")),
        ({"threads": 0}, ("`threads` must be a whole number from 1", "Received: 0")),
        ({"training": 4}, ("`training` must be a kopt.Training", "kopt.Training(epochs=4)", "Received: 4")),
        ({"seconds": 0}, ("`seconds` must be a finite number in (0, inf]", "Received: 0")),
        ({"trials": 0}, ("`trials` must be a whole number of at least 1", "Received: 0")),
        ({"techniques": ["chanels"]}, ("'chanels'", "Did you mean 'channels'?")),
    ],
)
def test_settings_of_a_search(tmp_path, settings, parts):
    with refused(tmp_path, ConfigError, *parts):
        optimize(DENSE, tmp_path, **settings)


@over(
    ("settings", "parts"),
    [
        ({"fallback": "classes"}, ("sequence of layer names", "'classes'")),
        ({"fallback": ["clases"]}, ("no layer 'clases'", "Did you mean 'classes'?")),
        ({"io_dtype": "int16"}, ("'int8' has `io_dtype` float32 or int8 or uint8", "Received: 'int16'")),
        ({"batch_size": 0}, ("`batch_size` must be a whole number of at least 1", "Received: 0")),
        ({"samples": 1.5}, ("`samples` must be a whole number of at least 1", "Received: 1.5")),
    ],
)
def test_settings_of_an_export(tmp_path, settings, parts):
    with refused(tmp_path, ConfigError, *parts):
        export.tflite(DENSE, tmp_path / "m.tflite", scheme="int8", calibration=X, **settings)


def test_opset(tmp_path):
    with refused(tmp_path, ConfigError, "`opset` must be in [13, 18]", "Received: 30"):
        export.onnx(DENSE, tmp_path / "m.onnx", opset=30)


# Places to write


WRITERS = {**EXPORTS, "demo": lambda _, out: kopt.search.demo.train_or_load(data.load("digits"), out / "m.keras")}


@over("entry", WRITERS)
def test_output_below_a_regular_file(tmp_path, entry):
    (tmp_path / "file").write_text("kept")
    with refused(tmp_path, OutputError, f"Cannot write {tmp_path / 'file'}", "Not a directory", "Choose a place"):
        WRITERS[entry](DENSE, tmp_path / "file")


@over("entry", WRITERS)
def test_output_where_nobody_may_write(tmp_path, entry):
    place = type(tmp_path)("/proc/kopt")
    with refused(tmp_path, OutputError, "Cannot write /proc/kopt/", "Choose a place that you may write to"):
        WRITERS[entry](DENSE, place)
    assert not place.exists()


@over("entry", WRITERS)
def test_full_disk_is_found_before_work_starts(tmp_path, entry, monkeypatch):
    # In place of the probe that is written beside the output.
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", lambda **_: bad_input.full_device())
    with refused(tmp_path, OutputError, f"Cannot write {tmp_path}", "No space left on device", "has room"):
        WRITERS[entry](DENSE, tmp_path)


@over("entry", ["tflite", "onnx", "saved_model"])
def test_output_exists(tmp_path, entry):
    for name in ("m.tflite", "m.onnx"):
        (tmp_path / name).write_text("kept")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "saved_model.pb").write_text("kept")
    with refused(tmp_path, OutputExistsError, f"{tmp_path / 'm'}", "exists", "`overwrite=True`", "`--force`"):
        EXPORTS[entry](DENSE, tmp_path)


@over("entry", ["tflite", "onnx"])
def test_a_directory_is_never_replaced_by_a_file(tmp_path, entry):
    (tmp_path / "models").mkdir()
    with refused(tmp_path, OutputExistsError, f"{tmp_path / 'models'} is a directory", f"Name a file, e.g. {tmp_path}"):
        getattr(export, entry)(DENSE, tmp_path / "models", overwrite=True)


def test_a_directory_of_something_else_is_never_replaced_by_a_saved_model(tmp_path):
    (tmp_path / "thesis.txt").write_text("kept")
    with refused(tmp_path, OutputExistsError, f"{tmp_path} is a directory that holds something else", "Name a new"):
        export.saved_model(DENSE, tmp_path, overwrite=True)


@over("entry", ["tflite", "onnx", "saved_model"])
def test_a_file_where_the_manifest_goes(tmp_path, entry):
    for name in ("m.tflite.json", "m.onnx.json", "m.json"):
        (tmp_path / name).write_text('{"mine": 1}')
    with refused(tmp_path, OutputExistsError, "The manifest goes to", f"{tmp_path / 'm'}", "`overwrite=True`"):
        EXPORTS[entry](DENSE, tmp_path)


# A disk that fills up while the work is going on: here the work has to begin.


@pytest.fixture
def working(monkeypatch, scratch, no_long_work):
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return monkeypatch


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for_tensorflow(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "/somewhere/saved_model.pb; No space left on device")


def exhausted(directory, part, entry):
    before = bad_input.listing(directory)
    with pytest.raises(OutputError, match="No space left on device") as raised:
        EXPORTS[entry](DENSE, directory)
    assert part in str(raised.value)
    assert bad_input.listing(directory) == before


@over("entry", ["tflite", "onnx"])
def test_disk_fills_up_in_the_converter(working, tmp_path, entry):
    working.setattr(Converter, "start", lambda self: None)
    working.setattr(Converter, "_start", lambda self: None)
    working.setattr(converter, "_log", io.StringIO())
    reply = {"ok": False, "error": f"OSError: [Errno 28] {os.strerror(errno.ENOSPC)}"}
    working.setattr(Converter, "_ask", lambda self, job: reply)
    exhausted(tmp_path, f"Cannot write {tmp_path}", entry)


@over("entry", ["tflite", "onnx"])
def test_disk_for_temporary_files_fills_up(working, tmp_path, entry):
    working.setattr(Converter, "start", lambda self: None)
    working.setattr(file_io, "atomic_write_string_to_file", full_for_tensorflow)
    exhausted(tmp_path, "set TMPDIR", entry)


def test_disk_fills_up_under_a_saved_model(working, tmp_path):
    working.setattr(file_io, "atomic_write_string_to_file", full_for_tensorflow)
    exhausted(tmp_path, f"Cannot write {tmp_path}", "saved_model")


def test_disk_is_full_when_only_the_manifest_is_left_to_write(working, tmp_path):
    working.setattr("kopt.export.assembly.manifest_text", full)
    exhausted(tmp_path, f"Cannot write {tmp_path}", "saved_model")


def test_other_failures_of_a_converter_stay_what_they_are(working, tmp_path):
    working.setattr(Converter, "start", lambda self: None)
    working.setattr(Converter, "_start", lambda self: None)
    working.setattr(converter, "_log", io.StringIO())
    working.setattr(Converter, "_ask", lambda self, job: {"ok": False, "error": "ValueError: no such operator"})
    with refused(tmp_path, ExportError, "The onnx converter failed: ValueError: no such operator"):
        EXPORTS["onnx"](DENSE, tmp_path)
