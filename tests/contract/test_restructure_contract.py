"""Every restructured model is a plain Keras model: it keeps the signature, saves, loads, trains and exports."""

import keras
import numpy as np
import pytest
import zoo
from restructure_cases import bits, distance, fits_one_step, inverted_residual, randomize, residual

from kopt import export, restructure
from kopt.core.errors import UnsupportedModelError
from kopt.graph import signature

pytestmark = pytest.mark.long

TRANSFORMS = {
    "fold_batch_norm": lambda model: restructure.fold_batch_norm(model),
    "low_rank_tucker": lambda model: restructure.low_rank(model, rank=2, layers=_wide),
    "low_rank_channel": lambda model: restructure.low_rank(model, rank=2, layers=_wide, conv="channel"),
    "low_rank_spatial": lambda model: restructure.low_rank(model, rank=2, layers=_wide, conv="spatial"),
    "low_rank_target": lambda model: restructure.low_rank(model, target_macs=0.9),
    "separable": lambda model: restructure.depthwise_separable(model, force=True),
    "depthwise": lambda model: restructure.depthwise_separable(model, form="depthwise", force=True),
    "he_normal": lambda model: restructure.reinitialize(model),
    "share_layers": lambda model: restructure.share_layers(model),
    "scale": lambda model: restructure.scale(_build, width=1.5, depth=1.5, pixels=16),
}
# Models in which there is nothing of the kind: MobileNetV2's block has 1x1 kernels only, and repeats nothing.
NOTHING = {("separable", "inverted"), ("depthwise", "inverted"), ("share_layers", "inverted")}


def _wide(layer):
    return layer.name not in ("conv0", "project")


def _build(width, depth, resolution):
    x = inputs = keras.Input((resolution, resolution, 3))
    for _ in range(restructure.scaled_repeats(1, depth)):
        x = keras.layers.Conv2D(restructure.scaled_channels(8, width), 3, activation="relu")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="scaled")


CASES = [
    pytest.param(transform, build, id=f"{transform}-{build.__name__}")
    for transform in TRANSFORMS
    for build in (residual, inverted_residual)
    if (transform, build.__name__.removesuffix("_residual")) not in NOTHING
]


@pytest.mark.slow
@pytest.mark.parametrize(("transform", "build"), CASES)
def test_the_new_model_is_a_plain_one(transform, build, tmp_path):
    model = randomize(build())
    before = bits(model)
    new, report = TRANSFORMS[transform](model)
    assert bits(model) == before
    assert {id(v) for v in new.variables}.isdisjoint(id(v) for v in model.variables)
    assert all(type(layer).__module__.startswith("keras.") for layer in new._flatten_layers())
    if transform != "scale":
        assert (new.output_names, new.output_shape) == (model.output_names, model.output_shape)
    new.save(tmp_path / "new.keras")
    assert distance(new, keras.saving.load_model(tmp_path / "new.keras")) == 0.0
    largest = max(1.0, np.abs(np.asarray(new(np.ones((1, *new.input_shape[1:]))))).max())
    # The ONNX converter takes seconds; what it could trip over is in the first net.
    for write, ending in ((export.tflite, "tflite"), (export.onnx, "onnx"))[: 2 if build is residual else 1]:
        artifact = write(new, tmp_path / f"new.{ending}")
        assert artifact.parity.max_abs < 1e-4 * largest, ending
    fits_one_step(new)
    record = next(base for base in type(report).__mro__[1:] if base.__name__.endswith("Report"))
    assert record.from_json(report.to_json()).to_dict() == report.to_dict()
    assert report.plot(tmp_path / "plot.svg").stat().st_size > 1000
    assert all(len(line) <= 100 for line in report.table(width=100).splitlines())


# Those that compute what the model computes, with the largest difference as a fraction of the largest output.
EXACT = {
    "fold_batch_norm": (lambda model: restructure.fold_batch_norm(model), 1e-5),
    "low_rank": (lambda model: restructure.low_rank(model, energy=1.0, force=True), 1e-4),
    "separable": (
        lambda model: restructure.depthwise_separable(model, depth_multiplier=9, max_error=1e-6, force=True),
        1e-4,
    ),
}
ANEW = {
    "reinitialize": lambda model: restructure.reinitialize(model, data=zoo.inputs(model, 4)),
    "share_layers": lambda model: restructure.share_layers(model),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.BUILDERS)
def test_every_model_of_the_zoo_is_treated_or_refused(name):
    model = zoo.build(name)
    randomize(model)
    arrays = zoo.inputs(model, 4)
    before = bits(model)
    for transform, (call, bound) in EXACT.items():
        new = _treated(call, model)
        assert new is None or _difference(model, new, arrays) < bound, transform
    for call in ANEW.values():
        new = _treated(call, model)
        assert new is None or signature(new) == signature(model)
    assert bits(model) == before


def _treated(call, model):
    try:
        return call(model)[0]
    except UnsupportedModelError:
        return None


def _difference(model, new, arrays):
    ours, theirs = (keras.tree.flatten(m(arrays, training=False)) for m in (model, new))
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(ours, theirs, strict=True)]
    return max(np.abs(a - b).max() / max(1.0, np.abs(a).max()) for a, b in pairs)
