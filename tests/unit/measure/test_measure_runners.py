import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, MeasurementError
from kopt.core.records.artifacts import TensorInfo
from kopt.measure import load
from kopt.measure.runner import natural

X = np.random.default_rng(3).random((37, 4), dtype=np.float32)
FLOAT_FILES = [
    "dense.keras",
    "dense_saved_model",
    "dense.tflite",
    "dense_batch4.tflite",
    "dense_unsigned.tflite",
    "dense.onnx",
]


@pytest.mark.parametrize("name", FLOAT_FILES)
def test_every_format_computes_what_numpy_computes(models, dense, name):
    runner = load(models / name)
    assert [(info.name, info.shape[1:], info.dtype) for info in runner.inputs] == [("x", (4,), "float32")]
    # 37 examples: one call of 32 and one of 5, or nine of 4 and one filled up.
    predicted = runner.predict(X)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, dense(X), atol=1e-6)
    np.testing.assert_array_equal(runner.predict({"x": X[:1]}), predicted[:1])


@pytest.mark.parametrize(
    ("name", "format_name", "runtime"),
    [
        ("dense.keras", "keras", r"Keras 3\.\S+ on TensorFlow 2\.\S+"),
        ("dense_saved_model", "saved_model", r"TensorFlow 2\.\S+ SavedModel"),
        ("dense.tflite", "tflite", r"LiteRT 2\.\S+"),
        ("dense.onnx", "onnx", r"ONNX Runtime 1\.\S+ CPUExecutionProvider"),
    ],
)
def test_runtime_is_named_with_its_version(models, name, format_name, runtime):
    runner = load(models / name)
    assert (runner.name, runner.format, runner.threads, runner.device) == (name, format_name, None, "cpu")
    assert re.fullmatch(runtime, runner.runtime)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantized_edges(models, dense, dtype):
    runner = load(models / f"dense_{dtype}_io.tflite")
    (info,), (output,) = runner.inputs, runner.outputs
    assert info.dtype == output.dtype == dtype
    # A softmax has 256 steps from 0 to 1; the lowest integer stands for 0.
    assert output.scale == 1 / 256
    assert output.zero_point == np.iinfo(dtype).min
    predicted = runner.predict(X)
    assert predicted.dtype == np.float32
    # Weights and activations are rounded as well: a few steps, measured 0.008 at most.
    assert np.abs(predicted - dense(X)).max() < 4 / 256
    steps = np.clip(np.rint(X / np.float32(info.scale)) + info.zero_point, *_limits(dtype)).astype(dtype)
    np.testing.assert_array_equal(runner.feeds(X)["x"], steps)
    np.testing.assert_array_equal(runner.predict(steps), predicted)
    raw = runner.run({"x": steps})[output.name]
    np.testing.assert_array_equal((raw.astype(np.float32) - output.zero_point) / 256, predicted)


def _limits(dtype):
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def test_named_inputs_and_outputs_of_a_tflite_signature(models):
    runner = load(models / "pair.tflite")
    assert [info.name for info in runner.inputs] == ["left", "right"]
    left, right = np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    for data in ({"right": right, "left": left}, (left, right)):
        predicted = runner.predict(data)
        assert sorted(predicted) == ["scaled", "sum"]
        np.testing.assert_array_equal(predicted["sum"], [[3], [7]])
        np.testing.assert_array_equal(predicted["scaled"], 10 * right)


def test_file_that_claims_an_open_batch_and_runs_one_example(models):
    runner = load(models / "lstm_single.tflite")
    assert runner.inputs[0].shape == (None, 5, 2)
    assert runner.fixed_batch == 1
    x = np.random.default_rng(0).random((3, 5, 2), dtype=np.float32)
    np.testing.assert_allclose(runner.predict(x), load(models / "lstm.keras").predict(x), atol=1e-6)
    with pytest.raises(DataError, match=r"batches of exactly 1. Received: 3 example"):
        runner.feeds(x)


def test_signatures_of_a_plain_module(models):
    runner = load(models / "doubler_saved_model", signature="double")
    assert runner.outputs == (TensorInfo("doubled", (None, 2), "float32"),)
    np.testing.assert_array_equal(runner.predict(np.array([[1, 2.5]])), [[2, 5]])
    text = load(models / "doubler_saved_model", signature="length")
    np.testing.assert_array_equal(text.predict(np.array(["four", "sixsix"])), [4, 6])
    with pytest.raises(ConfigError, match=r"no signature 'serving_default'. Signatures: double, length"):
        load(models / "doubler_saved_model")
    with pytest.raises(ConfigError, match="Did you mean 'double'"):
        load(models / "doubler_saved_model", signature="duble")
    with pytest.raises(ConfigError, match=r"no signature 'serve'.*Signatures: serving_default"):
        load(models / "dense.tflite", signature="serve")


def test_signatures_are_ordered_by_number():
    names = ["output_10", "output_2", "output_0", "keras_tensor"]
    assert sorted(names, key=natural) == ["keras_tensor", "output_0", "output_2", "output_10"]


def test_subclassed_keras_model_with_a_dict_of_inputs():
    import keras

    class Difference(keras.Model):
        def call(self, inputs):
            return inputs["b"] - inputs["a"]

    model = Difference()
    a, b = np.ones((3, 2), np.float32), np.full((3, 2), 5, np.float32)
    model({"b": b, "a": a})
    runner = load(model)
    np.testing.assert_array_equal(runner.predict({"b": b, "a": a}), b - a)


def test_keras_models_in_memory():
    import keras

    b, a = keras.Input((2,), name="b"), keras.Input((3,), name="a")
    listed = keras.Model([b, a], [keras.layers.Rescaling(2.0)(b), keras.layers.Rescaling(3.0)(a)])
    x, y = np.ones((5, 2), np.float32), np.ones((5, 3), np.float32)
    outputs = load(listed).predict([x, y])
    assert [value.tolist() for value in outputs.values()] == [(2 * x).tolist(), (3 * y).tolist()]
    nested = keras.Model({"b": b, "a": a}, {"late": keras.layers.Rescaling(2.0)(b), "early": keras.layers.Flatten()(a)})
    outputs = load(nested).predict({"a": y, "b": x})
    assert outputs["late"].tolist() == (2 * x).tolist()
    assert outputs["early"].tolist() == y.tolist()


def test_keras_runs_without_training_behavior():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.BatchNormalization(epsilon=0)])
    # Moving mean 0 and variance 1: the identity, unless the batch's own statistics are used.
    np.testing.assert_allclose(load(model).predict(X), X, rtol=1e-6)


def test_any_number_of_examples_in_calls_of_the_right_size(function_runner):
    open_batch, fixed = function_runner(lambda x: x + 1, 2), function_runner(lambda x: x + 1, 2, fixed_batch=4)
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.testing.assert_array_equal(open_batch.predict(x, batch_size=3), x + 1)
    np.testing.assert_array_equal(fixed.predict(x), x + 1)
    assert open_batch.calls == [3, 3, 3, 1]
    assert fixed.calls == [4, 4, 4]
    with pytest.raises(ConfigError, match=r"batches of exactly 4. Received: batch_size=3"):
        fixed.predict(x, batch_size=3)
    for wrong in (0, -1, 2.5, True, "3"):
        with pytest.raises(ConfigError, match="whole number from 1"):
            open_batch.predict(x, batch_size=wrong)


def test_output_without_the_examples_axis_is_not_put_together(function_runner):
    total = function_runner(lambda x: x.sum(axis=0, keepdims=True), 2)
    x = np.ones((6, 2), np.float32)
    assert total.predict(x).tolist() == [[6, 6]]
    with pytest.raises(MeasurementError, match="first axis is not the examples"):
        total.predict(x, batch_size=3)


def test_text_goes_into_keras_models():
    layers = [keras.layers.StringLookup(vocabulary=["red", "blue"]), keras.layers.Embedding(4, 2)]
    model = keras.Sequential([keras.Input((1,), dtype="string", name="color"), *layers])
    runner = load(model)
    assert [info.dtype for info in runner.inputs] == ["object"]
    words = np.array([["red"], ["blue"], ["green"]])
    expected = model(tf.constant(words))
    np.testing.assert_array_equal(runner.predict(words), expected)
    np.testing.assert_array_equal(runner.predict(words.astype(object)), expected)


def test_a_layer_that_keeps_its_state_is_measured_without_a_change_of_it():
    inputs = keras.Input((4, 3), batch_size=2)
    model = keras.Model(inputs, keras.layers.LSTM(5, stateful=True, name="memory")(inputs))
    x = np.random.default_rng(0).random((2, 4, 3), np.float32)
    model.predict(x, verbose=0)
    before = [variable.numpy() for variable in model.get_layer("memory").states]
    assert np.abs(before[0]).max() > 0
    runner = load(model)
    np.testing.assert_array_equal(runner.predict(x), runner.predict(x))
    for one, state in zip(before, model.get_layer("memory").states, strict=True):
        np.testing.assert_array_equal(one, state.numpy())
