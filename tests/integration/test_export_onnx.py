"""ONNX files of every scheme, in ONNX Runtime."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import zoo
from onnx import numpy_helper

from kopt import export, measure, quantize
from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.export import to_onnx

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cnn():
    model = zoo.build("cnn")
    return model, zoo.inputs(model, 32)


@pytest.fixture(scope="module")
def trained(cnn):
    model, x = cnn
    return quantize.aware(model, calibration=x)[0]


def initializers(artifact):
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(artifact.path).graph.initializer}


def computes_in(artifact, tmp_path):
    """The operators that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


def test_half_precision_halves_the_weights_and_keeps_the_signature(tmp_path):
    model = zoo.build("mlp")
    x = zoo.inputs(model, 32)
    single = export.onnx(model, tmp_path / "single.onnx", data=x)
    half = export.onnx(model, tmp_path / "half.onnx", scheme="float16", data=x)
    assert (half.inputs, half.outputs) == (single.inputs, single.outputs)
    weights = sum(value.size for value in initializers(single).values() if value.dtype == np.float32)
    halved = [value.size for value in initializers(half).values() if value.dtype == np.float16]
    assert sum(halved) == weights
    # Casts at both ends and their names, and what the file says of their shapes, take some bytes again.
    assert 0 <= 2 * weights - (single.size_bytes - half.size_bytes) < 400
    # Rounding to 11 bits: 2 ** -11 for each of a few operations in a row.
    np.testing.assert_allclose(measure.load(half.path).predict(x), model.predict(x, verbose=0), atol=4 * 2**-11)


def test_a_trained_copy_brings_its_ranges(cnn, trained, tmp_path):
    _, x = cnn
    artifact = export.onnx(trained, tmp_path / "m.onnx", scheme="int8", data=x)
    values = initializers(artifact)
    nodes = {node.name: node for node in onnx.load(artifact.path).graph.node}
    grids = {
        (round(float(values[node.input[1]]) * 1e6), int(values[node.input[2]]))
        for node in nodes.values()
        if node.op_type == "QuantizeLinear"
    }
    ready = [layer.grid for layer in trained.layers if hasattr(layer, "grid")]
    assert {(round(grid.scale * 1e6), grid.zero_point) for grid in ready} <= grids
    noted = {(round(one.smallest_step * 1e6), one.zero_point) for one in artifact.quantization if one.grids == 1}
    assert grids <= noted
    assert {one.grids for one in artifact.quantization if one.dtype == "int8" and one.grids > 1} == {5, 8, 16}
    assert computes_in(artifact, tmp_path) >= {"QLinearConv", "QGemm", "QLinearSoftmax"}
    assert not computes_in(artifact, tmp_path) & {"Conv", "FusedConv", "MatMul", "Gemm"}
    # One step of the output's grid, 1 / 256: integers of both round the same numbers, but sum them in another order.
    np.testing.assert_allclose(
        measure.load(artifact.path).predict(x), trained.predict(x, verbose=0), atol=1 / 256 + 1e-6
    )


def test_kernels_of_4_bits_stay_on_their_15_values(cnn, tmp_path):
    model, x = cnn
    trained, _ = quantize.aware(model, calibration=x, bits={"conv1": 4})
    artifact = export.onnx(trained, tmp_path / "m.onnx", scheme="int8", data=x)
    largest = {
        tuple(value.shape): int(np.abs(value).max())
        for value in initializers(artifact).values()
        if value.dtype == np.int8 and value.ndim > 1
    }
    assert largest == {(8, 3, 3, 3): 127, (16, 8, 3, 3): 7, (16, 5): 127}
    np.testing.assert_allclose(
        measure.load(artifact.path).predict(x), trained.predict(x, verbose=0), atol=1 / 256 + 1e-6
    )


def test_a_loop_behind_a_pair_opens_in_onnx_runtime(tmp_path):
    model = zoo.build("gru")
    x = zoo.inputs(model, 32)
    trained, _ = quantize.aware(model, calibration=x)
    artifact = export.onnx(trained, tmp_path / "m.onnx", scheme="int8", data=x)
    # Two steps of the output's grid: a hidden state that lies between two steps may be rounded to either.
    step = float(trained.predict(x, verbose=0).max()) / 127
    np.testing.assert_allclose(
        measure.load(artifact.path).predict(x), trained.predict(x, verbose=0), atol=2 * max(step, 1 / 256)
    )


def test_layers_that_were_skipped_stay_in_float(cnn, tmp_path):
    model, x = cnn
    trained, _ = quantize.aware(model, calibration=x, skip=["conv1"])
    artifact = export.onnx(trained, tmp_path / "m.onnx", scheme="int8", data=x)
    # The normalization behind it, which no kernel takes in, is a depthwise convolution of one point.
    kernels = {tuple(value.shape): value.dtype for value in initializers(artifact).values() if value.ndim == 4}
    assert kernels == {(8, 3, 3, 3): np.int8, (16, 8, 3, 3): np.float32, (16, 1, 1, 1): np.int8}


def test_tensorrt_gets_grids_with_zero_at_zero(cnn, trained, tmp_path):
    _, x = cnn
    artifact = export.onnx(trained, tmp_path / "m.onnx", scheme="int8", runtime="tensorrt", data=x)
    values = initializers(artifact)
    graph = onnx.load(artifact.path).graph
    zeros = [values[node.input[2]] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros
    assert all((zero == 0).all() for zero in zeros)
    assert not [value for value in values.values() if value.dtype == np.int32 and value.ndim]
    np.testing.assert_allclose(measure.load(artifact.path).predict(x), trained.predict(x, verbose=0), atol=3 / 256)


@pytest.mark.parametrize("runtime", to_onnx.RUNTIMES)
def test_examples_show_the_ranges_of_any_other_model(cnn, tmp_path, runtime):
    model, x = cnn
    artifact = export.onnx(model, tmp_path / "m.onnx", scheme="int8", calibration=x, runtime=runtime)
    assert artifact.options == {"opset": "17", "runtime": runtime, "calibration_samples": "32"}
    assert artifact.calibration_sha256
    assert len(artifact.quantization) > 3
    np.testing.assert_allclose(measure.load(artifact.path).predict(x), model.predict(x, verbose=0), atol=2 / 256)


def test_the_file_is_inferred_and_its_batch_is_free(cnn, tmp_path):
    model, _ = cnn
    artifact = export.onnx(model, tmp_path / "m.onnx")
    graph = onnx.load(artifact.path).graph
    known = {one.name for one in (*graph.value_info, *graph.output)}
    assert {name for node in graph.node for name in node.output} <= known
    assert artifact.inputs[0].shape[0] is None
    assert artifact.inputs[0].name == model.inputs[0].name


@pytest.mark.parametrize("scheme", ["float32", "float16", "int8"])
def test_openvino_runs_the_file(cnn, trained, tmp_path, scheme):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed; `pip install openvino` adds it")
    model, x = cnn
    artifact = export.onnx(trained if scheme == "int8" else model, tmp_path / "m.onnx", scheme=scheme, data=x)
    core = openvino.Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}  # it chooses bfloat16 where the processor has it
    compiled = core.compile_model(core.read_model(artifact.path), "CPU", hint)
    # A tensor has several names where OpenVINO left out a cast.
    for tensors, infos in ((compiled.inputs, artifact.inputs), (compiled.outputs, artifact.outputs)):
        assert all(info.name in one.names for one, info in zip(tensors, infos, strict=True))
    found, expected = compiled([x])[0], measure.load(artifact.path).predict(x)
    # float16 rounds to 2 ** -11; int8 may round a value that lies between two steps to the other one.
    bound = {"float32": 1e-5, "float16": 4 * 2**-11, "int8": 0.02}[scheme]
    np.testing.assert_allclose(found, expected, atol=bound)


def test_settings_that_do_not_go_together(cnn, trained, tmp_path):
    model, x = cnn
    for settings, words in (
        ({"scheme": "int4"}, "ONNX files have the schemes float32, float16, int8"),
        ({"scheme": "int8"}, "needs `calibration`"),
        ({"calibration": x}, "scheme 'float32' has no ranges to learn"),
        ({"runtime": "tensort"}, "Did you mean 'tensorrt'"),
    ):
        with pytest.raises(ConfigError, match=words):
            export.onnx(model, tmp_path / "m.onnx", **settings)
    with pytest.raises(ConfigError, match="the model has trained ranges"):
        export.onnx(trained, tmp_path / "m.onnx", scheme="int8", calibration=x)
    with pytest.raises(ConfigError, match="was trained for the scheme 'int8'"):
        export.onnx(trained, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def large(monkeypatch):
    """A model whose weights are called large: 64 * 64 + 64 numbers."""
    monkeypatch.setattr(to_onnx, "_LARGEST_BYTES", 10_000)
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((64,), name="x"), keras.layers.Dense(64, name="y")], name="large")


def test_weights_beyond_one_file_lie_beside_it(large, tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    artifact = export.onnx(large, tmp_path / "m.onnx", data=x)
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(files) == {"m.onnx", "m.onnx.data", "m.onnx.json", "m.onnx.reference.npz"}
    assert files["m.onnx"] < 2000
    # The kernel lies beside; the bias, 256 bytes, is below the 1,024 from which a tensor does.
    assert 4 * 64 * 64 <= files["m.onnx.data"] < 4 * 64 * 64 + 4096
    assert artifact.size_bytes == files["m.onnx"] + files["m.onnx.data"]
    np.testing.assert_allclose(measure.load(artifact.path).predict(x), large.predict(x, verbose=0), atol=1e-5)
    assert export.verify(artifact.path).ok
    # The copy has them, and brings them back.
    export.backup(artifact.path, [tmp_path / "kept"])
    for path in tmp_path.glob("m.onnx*"):
        path.unlink()
    export.restore(tmp_path / "m.onnx", [tmp_path / "kept"])
    assert {path.name: path.stat().st_size for path in tmp_path.glob("m.onnx*")} == files
    np.testing.assert_allclose(measure.load(artifact.path).predict(x), large.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("damage", ["bit", "gone"])
def test_damaged_weights_beside_a_file_are_found(large, tmp_path, damage):
    artifact = export.onnx(large, tmp_path / "m.onnx")
    path = artifact.external_path
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(data)
    verification = export.verify(artifact.path)
    failed = {one.checked: one.found for one in verification.verdicts if one.status == "failed"}
    assert list(failed) == ["content"]
    assert "m.onnx.data" in failed["content"]


def test_integers_have_no_weights_beside_them(large, tmp_path):
    with pytest.raises(UnsupportedModelError, match="scheme 'float16' is made of weights in the file"):
        export.onnx(large, tmp_path / "m.onnx", scheme="float16")
    assert not list(tmp_path.iterdir())


def test_numbers_fall_between_the_same_boundaries(tmp_path):
    inputs = keras.Input((3,))
    bins = keras.layers.Discretization([-0.5, 0.0, 0.25])(inputs)
    model = keras.Model(inputs, keras.layers.Embedding(4, 2)(bins))
    x = np.array([[-0.5, 0.0, 0.25], [-1.0, 1.0, -0.1]], np.float32)  # a boundary belongs to the bin above
    made = export.onnx(model, tmp_path / "m.onnx", data=x)
    np.testing.assert_array_equal(measure.load(made.path).predict(x), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (keras.layers.IntegerLookup(vocabulary=[3, 7]), "LookupTableFindV2"),
        (keras.layers.Hashing(4), "StringToHashBucketFast"),
    ],
    ids=["lookup", "hashing"],
)
def test_operators_that_onnx_lacks_are_named(layer, operator, tmp_path):
    inputs = keras.Input((3,), dtype="int64")
    model = keras.Model(inputs, keras.layers.Embedding(4, 2)(layer(inputs)))
    with pytest.raises(UnsupportedModelError, match=f"operators that ONNX does not have: {operator}"):
        export.onnx(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError, match="export to a SavedModel"):
        export.tflite(model, tmp_path / "m.tflite")


def test_convolutions_in_a_loop_are_unrolled(tmp_path):
    model = keras.Sequential([keras.Input((3, 4, 4, 1)), keras.layers.ConvLSTM2D(2, 3, name="video")])
    with pytest.raises(UnsupportedModelError, match=r"a loop, video,.*Set `unroll` of this layer to True"):
        export.onnx(model, tmp_path / "m.onnx")
    model.get_layer("video").unroll = True
    assert export.onnx(model, tmp_path / "m.onnx").parity.argmax_agreement == 1.0
