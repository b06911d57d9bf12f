"""What an export does beyond the plain case, each on the real converters."""

import random
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import zoo
from ai_edge_litert.interpreter import Interpreter

from kopt import export, measure, quantize
from kopt.core.errors import ConfigError, ExportError, UnsupportedModelError
from kopt.export.process import converter
from kopt.export.source import trace

pytestmark = pytest.mark.slow
L = keras.layers


@pytest.fixture(scope="module")
def cnn():
    model = zoo.build("cnn")
    return model, zoo.inputs(model, 32)


def operators(artifact):
    return {(operator.name, operator.dtype): operator.count for operator in artifact.operators}


@pytest.mark.parametrize(("dtype", "zero"), [("int8", -128), ("uint8", 0)])
def test_integer_inputs_and_outputs(cnn, tmp_path, dtype, zero):
    model, x = cnn
    artifact = export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, io_dtype=dtype)
    assert [info.dtype for info in (*artifact.inputs, *artifact.outputs)] == [dtype, dtype]
    # Inputs in [0, 1) and a softmax output: a step of 1/255 and 1/256, and zero at the low end of the type.
    assert artifact.inputs[0].scale == pytest.approx(1 / 255, rel=0.01)
    assert artifact.inputs[0].zero_point == zero
    assert (artifact.outputs[0].scale, artifact.outputs[0].zero_point) == (1 / 256, zero)
    found = measure.load(artifact.path).predict(x)
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=4 / 256)


def test_a_layer_kept_in_float_is_the_only_float_one(cnn, tmp_path):
    model, x = cnn
    artifact = export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, fallback=["conv1"])
    counts = operators(artifact)
    assert counts[("CONV_2D", "int8")] == 1
    assert counts[("CONV_2D", "float32")] == 1
    assert not [name for name, dtype in counts if dtype.startswith("float") and name not in ("CONV_2D", "DEQUANTIZE")]
    assert artifact.options["fallback"] == "conv1"


def test_the_activation_of_an_output_layer_stays_in_float_with_it(cnn, tmp_path):
    model, x = cnn
    artifact = export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, fallback=["classes"])
    counts = operators(artifact)
    assert (counts[("FULLY_CONNECTED", "float32")], counts[("SOFTMAX", "float32")]) == (1, 1)
    assert counts[("CONV_2D", "int8")] == 2


def test_a_saved_model_opens_as_a_keras_layer(cnn, tmp_path):
    model, x = cnn
    export.saved_model(model, tmp_path / "saved")
    layer = L.TFSMLayer(str(tmp_path / "saved"), call_endpoint="serving_default")
    np.testing.assert_allclose(layer(x)["classes"], model.predict(x, verbose=0), atol=1e-6)


def test_fallback_tells_layers_with_numbered_names_apart(tmp_path):
    i = keras.Input((6, 6, 2), name="image")
    x = L.Conv2D(3, 3, name="conv2d")(i)
    x = L.Conv2D(4, 3, name="conv2d_1")(x)
    model = keras.Model(i, L.Flatten()(x))
    data = np.random.default_rng(0).random((20, 6, 6, 2), np.float32)
    artifact = export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=data, fallback=["conv2d_1"])
    assert operators(artifact)[("CONV_2D", "float32")] == 1
    tensors = Interpreter(artifact.path).get_tensor_details()
    kernels = {tuple(t["shape"]): t["dtype"] for t in tensors if tuple(t["shape"])[1:3] == (3, 3)}
    assert kernels == {(3, 3, 3, 2): np.int8, (4, 3, 3, 3): np.float32}
    with pytest.raises(ConfigError, match=r"`fallback` names no layer 'conv2d_2'. Did you mean 'conv2d_1'"):
        export.tflite(model, tmp_path / "n.tflite", scheme="int8", calibration=data, fallback=["conv2d_2"])


def test_an_operator_without_integer_kernel_can_stay_in_float(tmp_path):
    model = zoo.build("conv1d")
    x = zoo.inputs(model, 32)
    layer = next(layer.name for layer in model.layers if isinstance(layer, L.SeparableConv1D))
    artifact = export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, fallback=[layer])
    assert ("ELU", "float32") in operators(artifact)
    assert ("CONV_2D", "int8") in operators(artifact)


def test_a_mixed_precision_model_exports_its_float32_twin(tmp_path):
    i = keras.Input((5,), name="x")
    h = L.Dense(8, activation="relu", dtype="mixed_float16", name="half")(i)
    model = keras.Model(i, L.Dense(3, dtype="float32", name="out")(h))
    before = model.layers[1].dtype_policy.name
    artifact = export.tflite(model, tmp_path / "m.tflite")
    assert model.layers[1].dtype_policy.name == before == "mixed_float16"
    x = np.random.default_rng(0).random((4, 5), np.float32)
    kernel, bias = (np.asarray(w) for w in model.get_layer("half").get_weights())
    out_kernel, out_bias = (np.asarray(w) for w in model.get_layer("out").get_weights())
    expected = np.maximum(x @ kernel + bias, 0) @ out_kernel + out_bias
    np.testing.assert_allclose(measure.load(artifact.path).predict(x), expected, rtol=1e-5, atol=1e-6)


def test_a_saved_model_is_a_model_too(cnn, tmp_path):
    model, x = cnn
    export.saved_model(model, tmp_path / "saved")
    artifact = export.tflite(tmp_path / "saved", tmp_path / "m.tflite", scheme="int8", calibration=x)
    assert [info.name for info in artifact.inputs] == ["image"]
    onnx = export.onnx(tmp_path / "saved", tmp_path / "m.onnx")
    np.testing.assert_allclose(measure.load(onnx.path).predict(x), model.predict(x, verbose=0), atol=1e-6)


def test_convolutions_of_groups_reach_onnx_runtime(tmp_path):
    image = keras.Input((8, 8, 6), name="image")
    model = keras.Model(image, L.Conv2D(12, 3, groups=3, name="grouped")(image))
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 6)).astype("float32")
    artifact = export.onnx(model, tmp_path / "m.onnx")
    assert {operator.name for operator in artifact.operators} <= {
        "Conv",
        "Add",
        "Transpose",
        "Reshape",
        "Split",
        "Concat",
    }
    np.testing.assert_allclose(measure.load(artifact.path).predict(x), model.predict(x, verbose=0), atol=1e-5)


def test_exact_gelu_reaches_onnx_runtime(tmp_path):
    i = keras.Input((4,), name="x")
    model = keras.Model(i, L.Activation(lambda x: keras.activations.gelu(x, approximate=False))(i))
    artifact = export.onnx(model, tmp_path / "m.onnx")
    assert artifact.parity.max_abs < 1e-6
    assert artifact.inputs[0].shape == (None, 4)


@pytest.mark.parametrize("batch_size", [4, 5, 20])
def test_a_fixed_batch_size_that_need_not_divide_the_examples(cnn, tmp_path, batch_size):
    model, x = cnn
    artifact = export.tflite(model, tmp_path / "m.tflite", batch_size=batch_size)
    assert artifact.inputs[0].shape == (batch_size, 12, 12, 3)
    assert artifact.parity.examples == 16
    np.testing.assert_allclose(
        measure.load(artifact.path).predict(x[:6]), model.predict(x[:6], verbose=0), rtol=1e-5, atol=1e-6
    )


def test_an_operator_that_tflite_lacks_is_named(tmp_path):
    i = keras.Input((4, 4, 4, 1), name="volume")
    model = keras.Model(i, L.AveragePooling3D(2)(i))
    with pytest.raises(UnsupportedModelError, match="needs operators that TFLite does not have: AvgPool3D"):
        export.tflite(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_of_tensorflow_is_allowed_when_asked_for_and_said_to_be_unverified(tmp_path):
    i = keras.Input((4, 4, 4, 1), name="volume")
    model = keras.Model(i, L.AveragePooling3D(2, name="pool")(i))
    artifact = export.tflite(model, tmp_path / "m.tflite", select_ops=True)
    assert ("FlexAvgPool3D", "float32") in operators(artifact)
    assert artifact.parity is None
    assert "NOT compared with the model" in artifact.notes[0]
    assert [info.name for info in (*artifact.inputs, *artifact.outputs)] == ["volume", "pool"]
    verified = export.verify(artifact.path)
    assert verified.ok  # what could not be checked when it was written is not called damaged now
    assert [one.status for one in verified.verdicts if one.checked == "runtime"] == ["absent"]


def test_a_converter_that_crashes_is_an_error_and_the_next_export_works(cnn, tmp_path):
    """A loop with int8 calibration ends the process (tensorflow#75140); here it is handed over on purpose."""
    gru = zoo.build("gru")
    with trace(gru, batch_size=1).as_saved_model() as directory:
        np.savez(tmp_path / "calibration.npz", sequence=zoo.inputs(gru, 4))
        job = {"saved_model": str(directory), "signature": "serving_default", "output": str(tmp_path / "m.tflite")}
        job |= {"scheme": "int8", "io_dtype": "float32", "calibration": str(tmp_path / "calibration.npz")}
        with pytest.raises(ExportError, match=r"crashed \(SIG"):
            converter.run("tflite", **job, keep_float=[], select_ops=False, fused_rnn=False, trained=False)
    assert not (tmp_path / "m.tflite").exists()
    model, _ = cnn
    assert Path(export.tflite(model, tmp_path / "fine.tflite").path).exists()


def test_the_random_numbers_of_the_caller_and_the_model_are_untouched(cnn, tmp_path):
    model, x = cnn
    python, numpy = random.getstate(), np.random.get_state()[1].tolist()
    weights = [w.copy() for w in model.get_weights()]
    export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x)
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == numpy
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_integers_of_a_fixed_batch_that_is_reshaped(tmp_path):
    """Its reshapes hold the number of examples, which are calibrated so many at a time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.Flatten(), L.Dense(3)])
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")
    made = export.tflite(model, tmp_path / "m.tflite", scheme="int8", calibration=x, batch_size=8)
    assert made.inputs[0].shape == (8, 8, 8, 3)
    alone = export.tflite(model, tmp_path / "alone.tflite", scheme="int8", calibration=x)
    np.testing.assert_array_equal(
        measure.load(made.path).predict(x[:8]), measure.load(alone.path).predict(x[:8], batch_size=1)
    )


@pytest.mark.parametrize("rounded", [False, True])
def test_whole_numbers_at_the_input_may_become_floats(tmp_path, rounded):
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(i, L.Dense(3)(L.Flatten()(L.Conv2D(4, 3)(L.Rescaling(1 / 255)(i)))))
    x = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)).astype("uint8")
    settings = {} if rounded else {"calibration": x}
    source = quantize.post_training(model, x, options=["mse"])[0] if rounded else model
    made = export.tflite(source, tmp_path / "m.tflite", scheme="int8", **settings)
    counts = operators(made)
    assert counts[("CAST", "float32")] == counts[("CONV_2D", "int8")] == counts[("FULLY_CONNECTED", "int8")] == 1
    np.testing.assert_allclose(measure.load(made.path).predict(x), source.predict(x, verbose=0), atol=0.1)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method")
def test_what_keras_has_quantized_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((8,)), L.Dense(4, name="dense")])
    model.quantize("int8")
    with pytest.raises(UnsupportedModelError, match=r"converted with `keras.Model.quantize`: dense hold integers"):
        export.tflite(model, tmp_path / "m.tflite")


@pytest.mark.parametrize("write", [export.tflite, export.onnx])
def test_few_examples_are_warned_of_and_noted(cnn, tmp_path, write):
    model, x = cnn
    with pytest.warns(UserWarning, match="with a probability of up to 50%, and they are clipped") as caught:
        made = write(model, tmp_path / f"m.{write.__name__}", scheme="int8", calibration=x[:3])
    assert [one.filename for one in caught] == [__file__]
    assert made.notes[0].startswith("Calibrated with 3 example(s): from 20 on, better 100")
    enough = write(model, tmp_path / f"e.{write.__name__}", scheme="int8", calibration=x)
    assert not [note for note in enough.notes if "Calibrated" in note]


def blockwise(kernel, block_size):
    """A kernel `(inputs, outputs)` in 4 bits with a float16 scale for each block of inputs, in NumPy."""
    blocks = kernel.T.reshape(kernel.shape[1], -1, block_size)
    steps = (np.abs(blocks).max(axis=2, keepdims=True) / 7).astype(np.float16).astype(np.float32)
    return (np.clip(np.rint(blocks / steps), -7, 7) * steps).reshape(kernel.shape[::-1]).T


def test_weights_of_four_bits_in_blocks(tmp_path):
    """One input has weights 20 times as large: those that share a scale with it are lost, a quarter instead of all."""
    pytest.importorskip("ai_edge_quantizer")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((128,), name="x")
    hidden = keras.layers.Dense(48, "relu", name="wide")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(32, name="narrow")(hidden))
    wide = model.get_layer("wide")
    large = np.where(np.arange(128) == 5, 20, 1).astype(np.float32)
    wide.kernel.assign(wide.kernel * large[:, None])
    x = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32) / large
    expected = model.predict(x, verbose=0)
    blocked = export.tflite(model, tmp_path / "b.tflite", scheme="int4", block_size=32)
    plain = export.tflite(model, tmp_path / "p.tflite", scheme="int4")
    found = [measure.load(made.path).predict(x) for made in (blocked, plain)]
    errors = [np.square(one - expected).mean() for one in found]
    assert errors[0] < 0.4 * errors[1]
    grids = [(one.dtype, one.grids) for one in blocked.quantization if one.grids > 48]
    assert grids == [("int4", 48 * 4)]
    assert blocked.options["block_size"] == "32"
    assert len(blocked.notes) == 1
    assert "narrow" in blocked.notes[0]
    assert "(48 inputs)" in blocked.notes[0]
    alone = keras.Model(inputs, wide.output)
    made = export.tflite(alone, tmp_path / "a.tflite", scheme="int4", block_size=32)
    assert made.notes == ()
    exact = np.maximum(x @ blockwise(wide.kernel.numpy(), 32), 0)
    step = np.abs(x).max() / 127  # of the inputs, which are rounded to 8 bits
    assert np.abs(measure.load(made.path).predict(x) - exact).max() < step * 10


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scheme": "int8", "block_size": 32}, "`block_size` goes with the scheme int4. Received: scheme='int8'"),
        ({"scheme": "int4", "block_size": 48}, "`block_size` is one of 32, 64, 128, 256, or None. Received: 48"),
        ({"scheme": "int4", "block_size": 256}, "must divide the number of inputs of a dense layer. Received: 256"),
    ],
)
def test_blocks_that_cannot_be(cnn, tmp_path, settings, said):
    pytest.importorskip("ai_edge_quantizer")
    model, x = cnn
    with pytest.raises(ConfigError, match=re.escape(said)):
        export.tflite(model, tmp_path / "m.tflite", calibration=x, **settings)
    assert not list(tmp_path.iterdir())
