"""Models that are legitimate and not ordinary: exported, each computes the same, or is refused before work starts."""

import keras
import numpy as np
import pytest
from keras import ops

from kopt import export, measure
from kopt.core.errors import ConfigError, OutputExistsError, ParityError, UnsupportedModelError
from kopt.core.records.artifacts import OutputParity, Parity
from kopt.core.schemes import get_scheme
from kopt.export.verification import require_parity

pytestmark = pytest.mark.slow
L = keras.layers
RNG = np.random.default_rng(0)
FORMATS = {"tflite": "m.tflite", "onnx": "m.onnx", "saved_model": "saved"}


def parity_of(made):
    (output,) = made.parity.outputs
    return output.max_abs


def test_an_lstm_of_integers_begins_every_call_anew(tmp_path):
    """Its operator keeps the state in the file: examples were answered by those before them."""
    keras.utils.set_random_seed(1)
    i = keras.Input((6, 4), name="z")
    model = keras.Model(i, L.Dense(3)(L.LSTM(8)(i)))
    x = RNG.normal(size=(60, 6, 4)).astype("float32")
    made = export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x)
    runner = measure.load(made.path)
    answers = runner.predict(x)
    np.testing.assert_array_equal(runner.predict(x[::-1])[::-1], answers)
    np.testing.assert_allclose(answers, model.predict(x, verbose=0), atol=0.08)
    assert export.verify(made.path).ok


@pytest.mark.parametrize("format", FORMATS)
def test_arrays_without_names_go_to_the_inputs_of_the_model(format, tmp_path):
    z, a = keras.Input((5,), name="z"), keras.Input((5,), name="a")
    model = keras.Model([z, a], L.Subtract(name="difference")([z, a]))
    made = getattr(export, format)(model, tmp_path / FORMATS[format])
    assert [one.name for one in made.inputs] == ["z", "a"]
    three, one = np.full((2, 5), 3, "float32"), np.ones((2, 5), "float32")
    np.testing.assert_array_equal(measure.load(made.path).predict([three, one]), 2)
    made.manifest_path.unlink()  # the model says which is which
    x = [RNG.normal(size=(60, 5)).astype("float32") for _ in range(2)]
    assert measure.ab_test(model, made.path, (x, x[0] - x[1]), metric="mse").difference == pytest.approx(0, abs=1e-9)


def test_a_layer_in_float_is_not_its_namesake_in_a_nested_model(tmp_path):
    i = keras.Input((8,))
    nested = keras.Sequential([keras.Input((8,)), L.Dense(8, activation="relu", name="dense")], name="n")
    inside = L.Dense(8, activation="relu", name="dense")(nested(i))
    model = keras.Model(i, L.Dense(4, name="out")(inside))
    x = RNG.random((50, 8)).astype("float32")
    for name in ("dense", "n/dense", "out"):
        made = export.tflite(
            model, tmp_path / "m.tflite", scheme="int8", calibration=x, fallback=[name], overwrite=True
        )
        dense = {one.dtype: one.count for one in made.operators if one.name == "FULLY_CONNECTED"}
        assert dense == {"int8": 2, "float32": 1}


def test_an_output_of_zeros_must_be_zero_in_the_file():
    output = OutputParity("y", 1.0, 1.0, 1.0, 0.0, 0.0, None, 0, 0)
    with pytest.raises(ParityError, match="is off by 1"):
        require_parity(Parity("file", "model", 4, (output,)), get_scheme("float32"), 0.0)


@pytest.mark.parametrize("format", FORMATS)
def test_names_that_no_signature_has(format, tmp_path):
    i = keras.Input((5,), name="hours-per-week")
    with pytest.raises(UnsupportedModelError, match=r"Input 'hours-per-week' .* name='hours_per_week'"):
        getattr(export, format)(keras.Model(i, L.Dense(2)(i)), tmp_path / FORMATS[format])


def test_an_output_with_the_name_of_an_input(tmp_path):
    i = keras.Input((4,), name="x")
    model = keras.Model(i, {"x": L.Dense(2)(i)})
    with pytest.raises(UnsupportedModelError, match="an input and an output of one name, 'x'"):
        export.onnx(model, tmp_path / "m.onnx")
    assert parity_of(export.tflite(model, tmp_path / "m.tflite")) < 1e-5


def test_integers_that_are_hashed(tmp_path):
    i = keras.Input((1,), dtype="int64")
    model = keras.Model(i, L.Flatten()(L.Embedding(8, 3)(L.Hashing(8)(i))))
    assert parity_of(export.saved_model(model, tmp_path / "saved", data=np.array([[1], [2]]))) == 0


@pytest.mark.parametrize("structure", [list, tuple])
def test_a_subclassed_model_of_two_inputs(structure, tmp_path):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.shared = L.Dense(3)

        def call(self, inputs):
            first, second = inputs
            return self.shared(first) - 2 * self.shared(second)

    model = Two()
    model(structure([np.ones((4, 5), "float32")] * 2))
    for format, path in FORMATS.items():
        assert parity_of(getattr(export, format)(model, tmp_path / path)) < 1e-5


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_normalized_features(scheme, tmp_path):
    keras.utils.set_random_seed(0)
    i = keras.Input((8,))
    model = keras.Model(i, L.Dense(3)(L.LayerNormalization()(L.Dense(8)(i))))
    made = export.tflite(model, tmp_path / "m.tflite", scheme=scheme, calibration=RNG.random((50, 8), np.float32))
    assert parity_of(made) < (0.1 if scheme == "int8" else 0.03)


@pytest.mark.parametrize("format", FORMATS)
def test_a_batch_that_the_model_fixes(format, tmp_path):
    i = keras.Input(batch_shape=(4, 6))
    model = keras.Model(i, L.Dense(2)(ops.reshape(i, (4, 2, 3))))
    made = getattr(export, format)(model, tmp_path / FORMATS[format])
    assert made.inputs[0].shape == (4, 6)
    assert parity_of(made) < 1e-5
    with pytest.raises(ConfigError, match="takes batches of exactly 4"):
        export.tflite(model, tmp_path / "other.tflite", batch_size=np.int64(2))


def test_a_layer_that_keeps_its_state_goes_into_a_saved_model_alone(tmp_path):
    i = keras.Input(batch_shape=(1, 4, 3))
    model = keras.Model(i, L.LSTM(5, stateful=True, name="memory")(i))
    for format in ("tflite", "onnx"):
        with pytest.raises(UnsupportedModelError, match=r"Layer 'memory' of .* is stateful"):
            getattr(export, format)(model, tmp_path / FORMATS[format])


def test_a_slash_at_the_end_of_a_directory(tmp_path):
    model = keras.Sequential([keras.Input((5,)), L.Dense(2)])
    target = f"{tmp_path / 'saved'}/"
    export.saved_model(model, target)
    export.saved_model(model, target, overwrite=True)
    assert export.verify(target).ok
    assert export.read_manifest(target).format == "saved_model"
    assert (tmp_path / "saved.json").is_file()
    assert not (tmp_path / "saved" / ".json").exists()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_inputs_of_other_reals(dtype, tmp_path):
    i = keras.Input((6,), dtype=dtype)
    made = export.saved_model(keras.Model(i, L.Dense(3, dtype=dtype)(i)), tmp_path / "saved")
    assert made.inputs[0].dtype == dtype


def test_one_number_for_a_whole_batch(tmp_path):
    i = keras.Input((4,))
    assert export.saved_model(keras.Model(i, ops.mean(L.Dense(2)(i))), tmp_path / "saved").outputs[0].shape == ()


@pytest.mark.parametrize("name", ["file", "allow_pickle"])
def test_inputs_with_names_of_arguments(name, tmp_path):
    i = keras.Input((4,), name=name)
    model, x = keras.Model(i, L.Dense(2)(i)), RNG.random((40, 4), np.float32)
    assert export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x).scheme == "int8"
    assert export.onnx(model, tmp_path / "m.onnx", scheme="int8", calibration=x).scheme == "int8"


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"use_bias": False}, "use_bias=False"), ({"recurrent_dropout": 0.2}, "recurrent_dropout")],
)
def test_an_lstm_that_crashes_the_converter_is_refused(settings, named, tmp_path):
    i = keras.Input((6, 4))
    model, x = keras.Model(i, L.LSTM(5, **settings)(i)), RNG.random((40, 6, 4), np.float32)
    with pytest.raises(UnsupportedModelError, match=f"the converter crashes over an LSTM with `{named}`"):
        export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x)


def test_outputs_in_a_nest():
    i = keras.Input((5,))
    model = keras.Model(i, {"a": {"x": L.Dense(2)(i)}, "b": [L.Dense(2)(i), L.Dense(3)(i)]})
    found = measure.load(model).predict(np.zeros((2, 5), "float32"))
    assert [array.shape for array in found.values()] == [(2, 2), (2, 2), (2, 3)]


def test_restoring_leaves_files_of_others_alone(tmp_path):
    model = keras.Sequential([keras.Input((5,)), L.Dense(2)])
    path, places = tmp_path / "m.tflite", [tmp_path / "place"]
    export.tflite(model, path)
    export.backup(path, places)
    path.unlink()
    export.restore(path, places)  # its own manifest is there
    for file in tmp_path.glob("m.tflite*"):
        file.unlink()
    other = tmp_path / "m.tflite.data"
    other.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"m\.tflite\.data exists"):
        export.restore(path, places)
    assert other.read_text() == "mine"
    assert not path.exists()
    export.restore(path, places, overwrite=True)
    assert export.verify(path).ok
