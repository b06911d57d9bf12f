"""Weights that a student takes over from its teacher."""

import keras
import numpy as np

from kopt.graph import layer_paths
from kopt.graph.internals import flatten_layers


def inherit(teacher: keras.Model, student: keras.Model) -> dict[str, tuple[str, ...]]:
    """Copy the weights of layers that both have at the same path: all, or the first channels where there are fewer.

    The first channels of every layer make a part of the teacher that fits together: what one layer gives up, the next
    does not take.

    Args:
        teacher: not changed.
        student: gets the weights.

    Returns:
        Paths of the student's layers with weights: `"copied"`, `"cut"`, and `"fresh"` for the rest.
    """
    theirs = _weighted(teacher)
    found: dict[str, list[str]] = {"copied": [], "cut": [], "fresh": []}
    for path, layer in _weighted(student).items():
        found[_copy(theirs.get(path), layer)].append(path)
    return {key: tuple(paths) for key, paths in found.items()}


def _weighted(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Return the innermost layers with weights by path."""
    paths = layer_paths(model)
    inside = [layer for layer in flatten_layers(model) if layer is not model and not isinstance(layer, keras.Model)]
    return {paths[id(layer)]: layer for layer in inside if layer.weights and not _outer(layer)}


def _outer(layer: keras.layers.Layer) -> bool:
    return any(inner.weights for inner in flatten_layers(layer)[1:])


def _copy(source: keras.layers.Layer | None, target: keras.layers.Layer) -> str:
    if source is None or len(source.weights) != len(target.weights):
        return "fresh"
    shapes = [(tuple(one.shape), tuple(other.shape)) for one, other in zip(source.weights, target.weights, strict=True)]
    if any(len(one) != len(other) or np.less(one, other).any() for one, other in shapes):
        return "fresh"
    for one, other in zip(source.weights, target.weights, strict=True):
        other.assign(one.numpy()[tuple(slice(size) for size in other.shape)])
    if hasattr(target, "finalize_state"):  # what a normalization works out of its variables
        target.finalize_state()
    return "copied" if all(one == other for one, other in shapes) else "cut"
