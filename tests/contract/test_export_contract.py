"""Every model of the zoo in every scheme exports and computes what Keras computes, or is refused with its reason."""

import functools

import keras
import numpy as np
import pytest
import zoo

from kopt import export, measure
from kopt.core.errors import ExportError, UnsupportedModelError
from kopt.core.files import sha256
from kopt.core.schemes import SCHEMES

pytestmark = pytest.mark.long

COUNT = 32  # examples; all of them calibrate, so that no range is exceeded and only rounding is left
FORMATS = [*SCHEMES, "onnx", "onnx-float16", "onnx-int8", "saved_model"]

# What the large networks add: many operators in a row, and weights beyond what is frozen into the trace.
FEWER = {"efficientnet_b0": ("float32", "int8", "onnx"), "resnet50": ("float32", "int8", "onnx")}

# Root-mean-square difference from Keras as a fraction of the root mean square of the Keras output. Float paths reorder
# sums (1e-7 an operation); half precision has 11 bits (5e-4); int8 and "dynamic" have 1/256 of a
# range per tensor, int4 1/16, and such errors add up over fifty layers.
BOUNDS = {
    "float32": 1e-5,
    "float16": 3e-3,
    "dynamic": 2e-2,
    "weight_only": 2e-2,
    "int8": 5e-2,
    "int16x8": 5e-2,
    "int4": 0.4,
    "onnx": 1e-5,
    "onnx-float16": 3e-3,
    "onnx-int8": 5e-2,
    "saved_model": 1e-6,
}

RNN_INT8 = (UnsupportedModelError, r"its loop crashes the TFLite calibrator \(tensorflow#75140\)")
RNN_16 = (UnsupportedModelError, "TFLite has no int16x8 operator for RNNs")
REFUSED = {
    ("lstm", "int16x8"): RNN_16,
    ("gru", "int8"): RNN_INT8,
    ("gru", "int16x8"): RNN_16,
    ("transformer", "int16x8"): (UnsupportedModelError, r"are no floats: 'tokens' \(int32\)"),
    ("conv1d", "int8"): (ExportError, r"1 operator\(s\) of the int8 file still compute in float: ELU"),
    ("conv1d", "int16x8"): (ExportError, "Quantization to 16x8-bit not yet supported for op: 'ELU'"),
    ("conv3d", "int8"): (ExportError, "CONV_3D"),
    ("conv3d", "int16x8"): (ExportError, "CONV_3D"),
}


@functools.lru_cache(maxsize=1)
def case(name):
    """The model, its inputs, and its trace, kept while the tests of one model run."""
    model = zoo.build(name)
    arrays = zoo.inputs(model, COUNT)
    with export.traced(model) as source:
        return model, arrays, source


def write(source, path, scheme, arrays):
    if scheme == "onnx":
        return export.onnx(source, path, data=arrays)
    if scheme == "onnx-float16":
        return export.onnx(source, path, scheme="float16", data=arrays)
    if scheme == "onnx-int8":
        return export.onnx(source, path, scheme="int8", calibration=arrays, samples=COUNT)
    if scheme == "saved_model":
        return export.saved_model(source, path, data=arrays)
    return export.tflite(source, path, scheme=scheme, calibration=arrays, samples=COUNT)


def parameters():
    for name in zoo.BUILDERS:
        marks = [pytest.mark.slow, pytest.mark.xdist_group(name)]
        for scheme in FEWER.get(name, FORMATS):
            yield pytest.param(name, scheme, marks=marks, id=f"{name}-{scheme}")


@pytest.mark.parametrize(("name", "scheme"), list(parameters()))
def test_exports_and_matches_keras_or_is_refused(name, scheme, tmp_path):
    model, arrays, source = case(name)
    path = tmp_path / ("m.onnx" if scheme.startswith("onnx") else {"saved_model": "m"}.get(scheme, "m.tflite"))
    if (name, scheme) in REFUSED:
        error, reason = REFUSED[name, scheme]
        with pytest.raises(error, match=reason):
            write(source, path, scheme, arrays)
        assert list(tmp_path.iterdir()) == []
        return
    artifact = write(source, path, scheme, arrays)
    check_numbers(model, arrays, artifact, BOUNDS[scheme])
    check_manifest(artifact, source)
    if scheme == "int8":
        check_integers_inside(artifact)


def check_numbers(model, arrays, artifact, bound):
    """The file against `model.predict`, which shares no code with the exporters' own check."""
    found = measure.load(artifact.path).predict(arrays)
    expected = keras.tree.flatten(model.predict(arrays, verbose=0))
    found = [found[info.name] for info in artifact.outputs] if isinstance(found, dict) else [found]
    for ours, theirs in zip(found, expected, strict=True):
        rms = np.sqrt(np.mean(np.square(theirs)))
        assert np.sqrt(np.mean(np.square(ours - theirs))) <= bound * rms
    assert all(output.nonfinite_a == 0 for output in artifact.parity.outputs)


def check_manifest(artifact, source):
    assert export.read_manifest(artifact.path) == artifact
    assert artifact.sha256 == sha256(artifact.path)
    assert artifact.source_sha256 == source.sha256
    assert [info.name for info in artifact.inputs] == [info.name for info in source.inputs]
    assert [info.name for info in artifact.outputs] == [info.name for info in source.outputs]
    assert sum(operator.count for operator in artifact.operators) > 0
    if artifact.format != "tflite":
        assert all(info.shape[0] is None for info in artifact.inputs)


def check_integers_inside(artifact):
    inside = [operator for operator in artifact.operators if operator.name not in ("QUANTIZE", "DEQUANTIZE")]
    assert not [operator for operator in inside if operator.dtype.startswith("float")]
    edges = sum(operator.count for operator in artifact.operators if operator.dtype.startswith("float"))
    assert edges <= len(artifact.outputs)
