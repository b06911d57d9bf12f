"""Public functions that build Keras layers leave the process as they found it."""

import contextlib
import functools
import logging
import os
import random
import warnings

import bad_input
import keras
import numpy as np
import pytest
import restructure_cases
import tensorflow as tf
import tf_keras
import training_cases
import zoo
from bad_input import DATA, DENSE, X, Y

import kopt
import kopt.search  # with it classes are registered, each under the name of its package
from kopt import data, export, graph, measure, prune, restructure, train
from kopt.advice import advise
from kopt.core.errors import TrainingError, UnsafeModelError


def state():
    """Return everything global that a library is tempted to change, in a form that can be compared."""
    generator = np.random.get_state()
    return {
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "dtype policy": keras.config.dtype_policy().name,
        "dtype policy of tf_keras": tf_keras.mixed_precision.global_policy().name,
        "floatx": (keras.config.floatx(), tf_keras.backend.floatx()),
        "epsilon": keras.config.epsilon(),
        "image data format": keras.config.image_data_format(),
        "custom objects": dict(keras.saving.get_custom_objects()),
        "Python random": random.getstate(),
        "NumPy random": (generator[0], generator[1].tobytes(), *generator[2:]),
        # The version first: the first use of `tf.keras` puts the module in the place of a lazy loader.
        "tf.keras": (tf.keras.__version__.split(".")[0], id(tf.keras)),
        "TensorFlow logger": (tf.get_logger().level, tf.get_logger().disabled, list(tf.get_logger().filters)),
        "root logger": (logging.getLogger().level, list(logging.getLogger().handlers)),
        "eager functions": tf.config.functions_run_eagerly(),
        "warning filters": list(warnings.filters),
    }


def keras_2_file(directory):
    inputs = tf_keras.Input((4,), name="x")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
        tf_keras.Model(inputs, tf_keras.layers.Dense(3, "hard_sigmoid")(inputs)).save(directory / "old.h5")
    return directory / "old.h5"


def optimize(path, out):
    run = {"workdir": out / "run", "techniques": ["saved_model"], "progress": None, "samples": 4}
    kopt.optimize(path, (X, Y), (X, Y), **run)


def tune(path, out):
    run = {"workdir": out / "run", "ways": ["saved_model"], "techniques": ["saved_model"], "samples": 4}
    kopt.tune(path, (X, Y), (X, Y), **run, max_trials=1, progress=None)


def trace(model, _):
    with export.traced(model):
        pass


def be_refused(path, out):
    with pytest.raises(UnsafeModelError):
        export.tflite(path, out / "m.tflite")


def lstm_to_tflite(model, out):
    export.tflite(model, out / "m.tflite", scheme="int8", calibration=zoo.inputs(model, 20))


def scoped_precision(_, __):
    with train.precision("mixed_float16"):
        assert keras.config.dtype_policy().name == "mixed_float16"


def find_rate(model, _):
    x, y = training_cases.examples(40)
    # These few steps are too noisy for a suggestion, which is an error; the model has been trained all the same.
    with contextlib.suppress(TrainingError):
        train.find_learning_rate(model, (x, y), steps=12)


def fit_accelerated(model, _):
    train.accelerate(model, jit_compile=False).fit(*training_cases.examples(40), verbose=0)


def advise_fully(model, _):
    examples = training_cases.examples(40)
    looks = ["data", "inference", "activity", "fit", "memory", "gradients", "steps", "quantization"]
    advise(model, data.from_arrays(*examples, batch_size=8), examples, depth="full", looks=looks)


# What is called, and what makes its input beforehand.
def measure_pruned(model, _):
    smaller, report = prune.channels(model, keep=0.5)
    prune.measured(report, model, smaller, seconds=0.1)


CALLS = {
    "load_model": (lambda path, _: kopt.load_model(path), lambda _: DENSE),
    "load_model of code": (lambda path, _: kopt.load_model(path, safe_mode=False), bad_input.keras_with_lambda),
    "load_model of Keras 2": (lambda path, _: kopt.load_model(path), keras_2_file),
    "rewrite": (lambda model, _: graph.rewrite(model, lambda layer: None), lambda _: zoo.build("preprocessing")),
    "as_functional": (lambda model, _: graph.as_functional(model), lambda _: zoo.build("mlp")),
    "to_tf_keras": (lambda model, _: graph.to_tf_keras(model), lambda _: zoo.build("lstm")),
    "measure.load": (lambda path, _: measure.load(path).predict(X), lambda _: DENSE),
    "measure.load of an ONNX file": (lambda path, _: measure.load(path).predict(X), lambda _: DATA / "dense.onnx"),
    "traced": (trace, lambda _: zoo.build("preprocessing")),
    "tflite": (lambda path, out: export.tflite(path, out / "m.tflite"), lambda _: DENSE),
    "tflite of an LSTM": (lstm_to_tflite, lambda _: zoo.build("lstm")),
    "onnx": (lambda path, out: export.onnx(path, out / "m.onnx"), lambda _: DENSE),
    "saved_model": (lambda path, out: export.saved_model(path, out / "m"), lambda _: DENSE),
    "optimize": (optimize, lambda _: DENSE),
    "tune": (tune, lambda _: DENSE),
    "precision": (scoped_precision, lambda _: None),
    "to_precision": (lambda model, _: train.to_precision(model, "mixed_bfloat16"), lambda _: zoo.build("cnn")),
    "find_learning_rate": (find_rate, lambda _: training_cases.network()),
    "accelerate": (fit_accelerated, lambda _: training_cases.network()),
    "diagnose": (
        lambda model, _: data.diagnose(
            data.from_arrays(*training_cases.examples(40), batch_size=8), model, seconds=0.2
        ),
        lambda _: training_cases.network(),
    ),
    "advise": (advise_fully, lambda _: training_cases.network()),
    "estimate_memory": (lambda model, _: train.estimate_memory(model, 4), lambda _: training_cases.network()),
    "prune.magnitude": (
        lambda model, _: prune.finalize(prune.magnitude(model, 0.5)[0]),
        lambda _: zoo.build("preprocessing"),
    ),
    "prune.magnitude by tfmot": (
        lambda model, _: prune.finalize(prune.magnitude(model, 0.5, backend="tfmot")[0]),
        lambda _: zoo.build("cnn"),
    ),
    "prune.measured": (measure_pruned, lambda _: zoo.build("cnn")),
    "fold_batch_norm": (lambda model, _: restructure.fold_batch_norm(model), lambda _: zoo.build("cnn")),
    "low_rank": (lambda model, _: restructure.low_rank(model, energy=0.5), lambda _: zoo.build("cnn")),
    "depthwise_separable": (lambda model, _: restructure.depthwise_separable(model), lambda _: zoo.build("cnn")),
    "reinitialize": (lambda model, _: restructure.reinitialize(model), lambda _: zoo.build("cnn")),
    "share_layers": (lambda model, _: restructure.share_layers(model), lambda _: restructure_cases.residual()),
    "a refusal": (be_refused, bad_input.keras_with_lambda),
}


SLOW = (
    "optimize",
    "advise",
    "prune.magnitude by tfmot",
    "prune.measured",
    "tflite of an LSTM",
    "find_learning_rate",
    "accelerate",
    "diagnose",
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CALLS])
def test_the_process_is_as_it_was(tmp_path, monkeypatch, name):
    monkeypatch.setattr(measure, "latency", functools.partial(measure.latency, max_seconds=0.1))
    call, prepare = CALLS[name]
    given = prepare(tmp_path)
    tf.random.set_seed(7)
    expected = tf.random.uniform([4]).numpy()
    tf.random.set_seed(7)
    before = state()
    call(given, tmp_path)
    after = state()
    assert [key for key in before if before[key] != after[key]] == []
    np.testing.assert_array_equal(tf.random.uniform([4]), expected)
    assert tf.keras.__version__.startswith("3.")


def test_building_a_layer_would_have_been_seen():
    before = state()
    keras.layers.Dropout(0.5)
    assert state()["Python random"] != before["Python random"]


def test_what_the_caller_draws_while_a_trace_is_open_counts():
    with export.traced(zoo.build("mlp")):
        inside = random.getstate()
        random.random()
        drawn = random.getstate()
    assert random.getstate() == drawn != inside


def test_the_generators_go_on_from_where_they_were_not_from_a_seed():
    np.random.seed(0)
    random.seed(0)
    expected = (np.random.rand(2).tolist(), random.random(), np.random.rand(2).tolist(), random.random())
    np.random.seed(0)
    random.seed(0)
    found = [np.random.rand(2).tolist(), random.random()]
    kopt.load_model(DENSE)
    found += [np.random.rand(2).tolist(), random.random()]
    assert tuple(found) == expected
