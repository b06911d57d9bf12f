"""Names, sizes, types and batches that users' models have, in every format."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt import export, measure
from kopt.core.errors import ConfigError, DataError, UnsupportedModelError

pytestmark = pytest.mark.slow
L = keras.layers
RNG = np.random.default_rng(0)
FORMATS = {"tflite": "m.tflite", "onnx": "m.onnx", "saved_model": "saved"}


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("format", FORMATS)
def test_capital_letters_stay_in_names(format, tmp_path):
    image = keras.Input((4,), name="imageInput")
    one = keras.Model(image, L.Dense(2, name="Classes")(image))
    parts = {key: keras.Input((1,), name=key) for key in ("Fare", "Age", "sibSp")}
    several = keras.Model(parts, L.Dense(2)(L.Concatenate()(list(parts.values()))))
    for number, model in enumerate((one, several)):
        made = getattr(export, format)(model, tmp_path / str(number) / FORMATS[format])
        names = [info.name for info in made.inputs]
        assert sorted(names) == sorted(["imageInput"] if model is one else parts)
        x = {name: RNG.normal(size=(3, 4 if model is one else 1)).astype("float32") for name in names}
        expected = model.predict(x["imageInput"] if model is one else x, verbose=0)
        np.testing.assert_allclose(measure.load(made.path).predict(x), expected, atol=1e-5)
        assert export.verify(made.path).ok


def test_inputs_that_differ_in_capital_letters_alone_are_one_to_the_onnx_converter(tmp_path):
    parts = {key: keras.Input((1,), name=key) for key in ("Age", "age")}
    model = keras.Model(parts, L.Concatenate()(list(parts.values())))
    with pytest.raises(UnsupportedModelError, match="differ in capital letters alone, 'age'"):
        export.onnx(model, tmp_path / "m.onnx")


@pytest.mark.parametrize(("name", "other"), [("class", "x_class"), ("größe", "gr__e"), ("_x", "x")])
def test_names_that_no_argument_has(name, other, tmp_path):
    i = keras.Input((4,), name=name)
    with pytest.raises(UnsupportedModelError, match=f"Input '{name}' .* cannot be named so .* name='{other}'"):
        export.tflite(keras.Model(i, L.Dense(2)(i)), tmp_path / "m.tflite")


@pytest.mark.parametrize("format", FORMATS)
def test_outputs_in_another_order_than_that_of_the_alphabet(format, tmp_path):
    i = keras.Input((4,), name="x")
    model = keras.Model(i, [L.Dense(2, name="score")(i), L.Dense(3, name="box")(i)])
    made = getattr(export, format)(model, tmp_path / FORMATS[format])
    assert [info.name for info in made.outputs] == ["score", "box"]
    verified = export.verify(made.path)
    assert verified.ok, [one for one in verified.verdicts if one.status == "failed"]


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_images_of_any_size(scheme, tmp_path):
    i = keras.Input((None, None, 3), name="image")
    model = keras.Model(i, L.Dense(4)(L.GlobalAveragePooling2D()(L.Conv2D(8, 3, padding="valid")(i))))
    with pytest.raises(DataError, match="Pass `calibration` with real examples"):
        export.tflite(model, tmp_path / "m.tflite")
    x = RNG.random((20, 12, 12, 3), np.float32)
    made = export.tflite(model, tmp_path / "m.tflite", scheme=scheme, calibration=x)
    runner = measure.load(made.path)
    for size in (12, 7):
        x = RNG.random((2, size, size + 1, 3), np.float32)
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(runner.predict(x), expected, atol=1e-5 if scheme == "float32" else 0.1)


@pytest.mark.parametrize("format", FORMATS)
def test_the_batch_of_the_call_that_built_a_sequential_is_told(format, tmp_path):
    model = keras.Sequential([L.Dense(3), L.Dense(2)])
    model(np.ones((1, 4), "float32"))
    made = getattr(export, format)(model, tmp_path / FORMATS[format])
    assert made.inputs[0].shape == (1, 4)
    assert any("Every call takes 1 example(s)" in note for note in made.notes)
    free = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    made = getattr(export, format)(free, tmp_path / "free" / FORMATS[format])
    assert not any("Every call takes" in note for note in made.notes)


def test_a_layer_that_does_not_rebuild_beside_a_normalization(tmp_path):
    class Scale(L.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, x):
            return x * self.factor

    i = keras.Input((4,), name="x")
    model = keras.Model(i, Scale(3.0)(L.LayerNormalization()(i)))
    for scheme in ("float32", "float16", "dynamic"):
        made = export.tflite(model, tmp_path / f"{scheme}.tflite", scheme=scheme)
        assert made.parity.max_abs < 1e-4


@keras.saving.register_keras_serializable("kopt-tests")
class Residual(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(8)

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return x + self.dense(x)


@pytest.mark.parametrize("format", FORMATS)
def test_layers_inside_a_layer_of_half_precision(half_precision, format, tmp_path):
    i = keras.Input((8,), name="x")
    model = keras.Model(i, L.Dense(2, dtype="float32")(Residual()(i)))
    made = getattr(export, format)(model, tmp_path / FORMATS[format])
    x = RNG.normal(size=(9, 8)).astype("float32")
    np.testing.assert_allclose(measure.load(made.path).predict(x), model.predict(x, verbose=0), atol=2e-2)
    assert keras.config.dtype_policy().name == "mixed_float16"
    assert [layer.compute_dtype for layer in model.layers[1:]] == ["float16", "float32"]


def test_a_nested_sequential_of_half_precision_computes_in_float32_in_the_file(half_precision, tmp_path):
    inner = keras.Sequential([L.Dense(3)])
    model = keras.Sequential([keras.Input((6,)), L.Dense(5), inner, L.Dense(2, dtype="float32")])
    keras.config.set_dtype_policy("float32")
    reference = keras.Sequential([keras.Input((6,)), L.Dense(5), L.Dense(3), L.Dense(2)])
    reference.set_weights(model.get_weights())
    made = export.tflite(model, tmp_path / "m.tflite")
    assert {one.name for one in made.operators} == {"FULLY_CONNECTED"}
    x = RNG.normal(size=(50, 6)).astype("float32")
    np.testing.assert_allclose(measure.load(made.path).predict(x), reference.predict(x, verbose=0), atol=1e-6)


def test_a_subclassed_model_of_half_precision(tmp_path):
    @keras.saving.register_keras_serializable("kopt-tests")
    class Two(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = L.Dense(4)

        def call(self, x):
            return self.dense(x)

    model = Two(dtype="mixed_float16")
    model.dense.dtype_policy = "mixed_float16"
    x = RNG.normal(size=(9, 8)).astype("float32")
    model(x)
    made = export.tflite(model, tmp_path / "m.tflite")
    np.testing.assert_allclose(measure.load(made.path).predict(x), model.predict(x, verbose=0), atol=2e-2)
    assert model.dense.compute_dtype == "float16"


def test_onnx_integers_that_are_none_are_refused_and_weights_in_float_are_told(tmp_path):
    i = keras.Input((6, 3), name="x")
    x = RNG.random((30, 6, 3)).astype("float32")
    with pytest.raises(UnsupportedModelError, match=r"nothing that onnxruntime computes in integers.*of LSTM"):
        export.onnx(keras.Model(i, L.LSTM(64)(i)), tmp_path / "m.onnx", scheme="int8", calibration=x)
    i = keras.Input((6,), dtype="int32", name="x")
    model = keras.Model(i, L.Dense(2)(L.GRU(64)(L.Embedding(1000, 32)(i))))
    words = RNG.integers(0, 1000, (30, 6))
    made = export.onnx(model, tmp_path / "m.onnx", scheme="int8", calibration=words)
    assert any("Weights of Gather, Loop stayed in float" in note for note in made.notes)


def test_onnx_integers_of_a_batch_that_the_model_fixes(tmp_path):
    i = keras.Input(batch_shape=(4, 6), name="x")
    model = keras.Model(i, L.Dense(2)(i))
    x = RNG.random((42, 6)).astype("float32")  # the last batch is not full
    made = export.onnx(model, tmp_path / "m.onnx", scheme="int8", calibration=x)
    assert made.inputs[0].shape == (4, 6)
    np.testing.assert_allclose(
        measure.load(made.path).predict(x[:8]), model.predict(x[:8], verbose=0, batch_size=4), atol=0.05
    )


def test_an_integer_lstm_takes_one_example(tmp_path):
    x = RNG.random((20, 6, 3)).astype("float32")
    for i, settings in ((keras.Input((6, 3)), {"batch_size": 4}), (keras.Input(batch_shape=(2, 6, 3)), {})):
        model = keras.Model(i, L.Dense(2)(L.LSTM(4)(i)))
        with pytest.raises(UnsupportedModelError, match=r"takes one example a call here\. Received a batch of [24]"):
            export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, **settings)


def test_a_saved_model_with_a_number_for_the_whole_batch(tmp_path):
    class Scaling(tf.Module):
        @tf.function
        def serve(self, a_factor, x):
            return {"y": x * a_factor}

    module = Scaling()
    specs = tf.TensorSpec((), tf.float32, name="a_factor"), tf.TensorSpec((None, 4), tf.float32, name="x")
    tf.saved_model.save(module, str(tmp_path / "given"), signatures=module.serve.get_concrete_function(*specs))
    x = {"a_factor": np.float32(2), "x": np.ones((3, 4), "float32")}
    for format, name in FORMATS.items():
        made = getattr(export, format)(tmp_path / "given", tmp_path / name)
        np.testing.assert_array_equal(measure.load(made.path).predict(x), 2)


def test_text_that_comes_out_is_compared(tmp_path):
    i = keras.Input((1,), dtype="int64", name="i")
    model = keras.Model(i, L.StringLookup(vocabulary=["a", "b"], invert=True)(i))
    made = export.saved_model(model, tmp_path / "saved", data=np.array([[0], [1]]))
    assert made.parity.max_abs == 0.0
    found = measure.compare_outputs("y", np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert found.max_abs == 1.0


@pytest.mark.parametrize(
    ("format", "name"), [("tflite", "m.lite"), ("tflite", "m"), ("tflite", "m.onnx"), ("onnx", "m.bin")]
)
def test_a_suffix_that_no_runtime_knows_is_refused_before_work(format, name, tmp_path, monkeypatch):
    monkeypatch.setattr("kopt.export.process.converter.run", None)
    i = keras.Input((3,))
    with pytest.raises(ConfigError, match=rf"ends in \.{format}.* Received: '{name}'"):
        getattr(export, format)(keras.Model(i, L.Dense(2)(i)), tmp_path / name)


def test_bins_of_adapted_features_are_kept_by_copies():
    bins = L.Discretization(num_bins=4)
    x = RNG.normal(5, 2, (200, 3)).astype("float32")
    bins.adapt(x)
    i = keras.Input((3,), name="x")
    model = keras.Model(i, L.BatchNormalization()(L.Dense(2)(L.Flatten()(L.Embedding(4, 3)(bins(i))))))
    for copy in (kopt.graph.copy_model(model), kopt.restructure.fold_batch_norm(model)[0]):
        np.testing.assert_allclose(copy.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize("kind", ["words", "sentences"])
def test_weights_of_words_are_kept_by_copies(kind):
    text = np.array([["a", "b"], ["c", "a"], ["a", "d"]])
    layer = L.StringLookup(output_mode="tf_idf") if kind == "words" else L.TextVectorization(output_mode="tf_idf")
    examples = text if kind == "words" else np.array([" ".join(row) for row in text])
    layer.adapt(examples)
    i = keras.Input(examples.shape[1:], dtype="string", name="s")
    model = keras.Model(i, L.Dense(2)(layer(i)))
    copy = kopt.graph.copy_model(model)
    np.testing.assert_array_equal(copy(tf.constant(examples)), model(tf.constant(examples)))


def test_a_folded_normalization_at_the_end_stays_in_its_type(half_precision):
    keras.config.set_dtype_policy("float32")
    i = keras.Input((8,))
    model = keras.Model(i, L.BatchNormalization()(L.Dense(4)(i)))
    keras.config.set_dtype_policy("mixed_float16")
    copy, _ = kopt.restructure.fold_batch_norm(model)
    assert copy.output.dtype == "float32"
    assert measure.parity(copy, model, RNG.normal(size=(50, 8)).astype("float32")).max_abs < 1e-5


def test_every_signature_of_a_file_runs(tmp_path):
    class Two(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
        def times(self, x):
            return {"y": x * self.weight}

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
        def plus(self, x):
            return {"z": x + self.weight}

    module = Two()
    tf.saved_model.save(
        module, str(tmp_path / "saved"), signatures={"serving_default": module.times, "other": module.plus}
    )
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "saved"), signature_keys=["serving_default", "other"]
    )
    path = tmp_path / "m.tflite"
    path.write_bytes(converter.convert())
    for signature, expected in (("serving_default", 6.0), ("other", 5.0)):
        runner = measure.load(path, signature=signature)
        for count in (2, 5):
            np.testing.assert_array_equal(
                runner.predict(np.full((count, 4), 3, "float32")), np.full((count, 4), expected)
            )


@keras.saving.register_keras_serializable("kopt-tests")
class Encoder(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.dense = L.MultiHeadAttention(2, 4), L.Dense(8)
        self.first, self.second = L.LayerNormalization(), L.LayerNormalization()

    def build(self, shape):
        self.attention.build(shape, shape)
        for layer in (self.dense, self.first, self.second):
            layer.build(shape)
        self.built = True

    def call(self, x):
        x = x + self.attention(self.first(x), self.first(x))
        return x + self.dense(self.second(x))


@pytest.mark.parametrize("form", ["layer", "model"])
def test_normalizations_inside_code_become_integers(form, tmp_path):
    x = RNG.normal(size=(40, 6, 8)).astype("float32")
    if form == "layer":
        i = keras.Input((6, 8), name="x")
        model = keras.Model(i, L.Dense(3)(Encoder()(i)))
    else:

        class Normalized(keras.Model):
            def __init__(self):
                super().__init__()
                self.normalization, self.dense = L.LayerNormalization(), L.Dense(3)

            def call(self, inputs):
                return self.dense(self.normalization(inputs))

        model = Normalized()
        model(x)
    made = export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x)
    floats = {one.name for one in made.operators if one.dtype.startswith("float")}
    assert floats <= {"QUANTIZE", "DEQUANTIZE"}
    assert made.parity.outputs[0].cosine > 0.99
    assert np.isfinite(keras.layers.LayerNormalization()(x)).all()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("settings", [{"axis": -1}, {"axis": 1, "keepdims": True}, {"axis": None}])
def test_class_numbers_come_out(format, settings, tmp_path):
    i = keras.Input((8,), name="x")
    scores = L.Dense(3, activation="relu")(i)
    model = keras.Model(i, [keras.ops.argmax(scores, **settings), keras.ops.argmin(scores, **settings)])
    made = getattr(export, format)(model, tmp_path / FORMATS[format])
    x = RNG.normal(size=(30, 8)).astype("float32")
    expected = model.predict(x, verbose=0, batch_size=30)
    found = measure.load(made.path).predict(x)
    for info, wanted in zip(made.outputs, expected, strict=True):
        np.testing.assert_array_equal(np.reshape(found[info.name], np.shape(wanted)), wanted)


def test_class_numbers_are_judged():
    i = keras.Input((3,))
    model = keras.Model(i, keras.ops.argmax(i, -1))
    x = RNG.normal(size=(50, 3)).astype("float32")
    labels = np.where(np.arange(50) < 10, (x.argmax(-1) + 1) % 3, x.argmax(-1))
    assert measure.evaluate(model, (x, labels)).metrics["accuracy"] == pytest.approx(0.8)
    assert measure.correct_share(labels, x.argmax(-1)).mean() == 0.8
    maps = RNG.integers(0, 5, (4, 6, 6))
    assert measure.correct_share(maps, maps).tolist() == [1.0] * 4


def test_losses_of_the_last_call_are_left_alone(tmp_path):
    i = keras.Input((3,))
    model = keras.Model(i, L.Dense(2, activity_regularizer="l2")(i))
    model(np.ones((2, 3), "float32"))
    before = [float(loss) for loss in model.losses]
    export.tflite(model, tmp_path / "m.tflite")
    measure.load(model).predict(np.zeros((5, 3), "float32"))
    assert [float(loss) for loss in model.losses] == before != []
