"""What must hold of a model with fewer channels: checks return numbers, and `BOUNDS` says what they may be at most.

The contract runs them over one network of each family, `make sweep` over all.
"""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from bridge_checks import float64
from channel_cases import outputs, relative_difference, with_zeros

import kopt
from kopt.graph.channels import channel_graph
from kopt.prune.channel_removal.costs import PrunedCosts

BOUNDS = {
    # Share by which the count of the smaller model differs from the one predicted without making it.
    "macs": 0.01,
    # Differences as shares of the largest output: of a model whose removed channels were zero, of a file read again,
    # of runtimes that add in another order.
    "zeros": 1e-4,
    "zeros_float64": 1e-12,  # where rounding alone is more than that
    "reloaded": 1e-6,
    "tflite": 1e-4,
    "onnx": 1e-4,
    # Where rounding alone is more than that: how much farther the file is from the model in float64 than the model.
    "tflite_rounding": 1.5,
    "onnx_rounding": 1.5,
}


def pruned(model: keras.Model, keep: float) -> tuple[keras.Model, Any, float]:
    """Return the smaller model, the report and the seconds it took."""
    start = time.perf_counter()
    smaller, report = kopt.prune.channels(model, keep=keep)
    return smaller, report, time.perf_counter() - start


def runs(model: keras.Model, smaller: keras.Model, x: Any) -> None:
    """Check that the outputs keep their shapes and are finite, and that the layers keep their names."""
    ours, theirs = outputs(model, x), outputs(smaller, x)
    assert [value.shape for value in ours] == [value.shape for value in theirs]
    assert all(np.isfinite(value).all() for value in theirs)
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]


def macs(model: keras.Model, report: Any) -> float:
    """Return by what share the count differs from the prediction, which knows the widths alone."""
    graph = channel_graph(model)
    kept = np.zeros(graph.unit_count, bool)
    for group, row in zip(graph.groups, report.groups, strict=True):
        left = round(group.units.size * row.after / row.before)
        kept[group.units[:left]] = True
    predicted = PrunedCosts(model, graph, report.macs_before).macs(kept)
    return abs(report.macs_after / predicted - 1)


def zeros(model: keras.Model, keep: float, x: Any) -> float:
    """Return the difference between a model with channels of zeros and the same without them; `model` is changed."""
    model, smaller, _ = with_zeros(model, keep)
    return relative_difference(model, smaller, x)


def difference_in_double(model: keras.Model, smaller: keras.Model, x: Any) -> float:
    """Return the difference between the outputs of two models that compute in float64."""
    with float64():
        doubled = keras.tree.map_structure(lambda one: one.astype("float64"), x)
        return relative_difference(in_double(model), in_double(smaller), doubled)


def reloaded(smaller: keras.Model, x: Any, directory: Path) -> float:
    smaller.save(directory / "smaller.keras")
    return relative_difference(smaller, keras.saving.load_model(directory / "smaller.keras"), x)


def trains(smaller: keras.Model, x: Any) -> None:
    """Check that one step of `fit` changes weights, to finite numbers."""
    before = smaller.get_weights()
    y = keras.tree.map_structure(np.zeros_like, smaller.predict_on_batch(x))
    # One step is not worth a graph, which takes a minute to make for the large ones.
    smaller.compile(keras.optimizers.SGD(1e-3), "mse", run_eagerly=True)
    history = smaller.fit(x, y, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert any(not np.array_equal(old, new) for old, new in zip(before, smaller.get_weights(), strict=True))


def from_file(smaller: keras.Model, x: Any, path: Path) -> list[np.ndarray]:
    """Return the outputs of the exported model in its own runtime, run by `kopt.measure`."""
    artifact = (kopt.export.onnx if path.suffix == ".onnx" else kopt.export.tflite)(smaller, path)
    found = kopt.measure.load(path).predict(x)
    return [found[info.name] for info in artifact.outputs] if isinstance(found, dict) else [found]


def exported(smaller: keras.Model, x: Any, found: list[np.ndarray]) -> float:
    """Return the difference between outputs of a file and those of the model, as `reloaded` does."""
    return _difference(found, outputs(smaller, x))


def rounding(smaller: keras.Model, x: Any, found: list[np.ndarray]) -> float:
    """Return the distance of outputs of a file from the model in float64, over the distance of the model from it."""
    with float64():
        exact = outputs(in_double(smaller), keras.tree.map_structure(lambda one: one.astype("float64"), x))
    return _difference(found, exact) / _difference(outputs(smaller, x), exact)


def in_double(model: keras.Model) -> keras.Model:
    """Return the model in double precision, which is on where this is called."""

    def layer(one: keras.Layer) -> keras.Layer:
        return type(one).from_config({**one.get_config(), "dtype": "float64"})

    double = keras.models.clone_model(model, clone_function=layer)
    double.set_weights(model.get_weights())
    return double


def _difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True))
