"""Other layers with given weights in the place of some layers of a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kopt.graph import FreshNames, rewrite
from kopt.graph.configs import rebuilding, without_arrays
from kopt.graph.internals import flatten_layers

Weights = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Substitute:
    """What stands in the place of a layer.

    Attributes:
        layers: new and not built, called one after the other; none if the input is passed on.
        weights: of each layer, by the name of the attribute, e.g. `"kernel"`; empty for one that keeps what it drew.
    """

    layers: tuple[keras.layers.Layer, ...] = ()
    weights: tuple[Weights, ...] = ()

    def __call__(self, inputs: Any) -> Any:
        """Call the layers one after the other."""
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs


def substituted(model: keras.Model, substitutes: Mapping[int, Substitute | keras.layers.Layer]) -> keras.Model:
    """Return a copy of `model` with other layers in the place of some.

    Args:
        model: Functional or Sequential; not changed.
        substitutes: by the id of the layer that they replace; a layer itself takes the arguments as they are, and what
            weights it gets is the caller's business.
    """
    twin, _ = rewrite(model, lambda layer: substitutes.get(id(layer)))
    for substitute in (value for value in substitutes.values() if isinstance(value, Substitute)):
        for layer, weights in zip(substitute.layers, substitute.weights, strict=True):
            assign(layer, weights)
    return twin


def assign(layer: keras.layers.Layer, weights: Weights) -> None:
    """Set variables of a built layer, by the names of their attributes."""
    for name, values in weights.items():
        getattr(layer, name).assign(values.astype(getattr(layer, name).dtype))


def fresh_names(model: keras.Model) -> FreshNames:
    """Return a maker of names that no layer of `model` has."""
    return FreshNames({layer.name for layer in flatten_layers(model)})


def like(layer: keras.layers.Layer, kind: type[keras.layers.Layer], **changes: Any) -> keras.layers.Layer:
    """Return a layer of another class with the name, dtype policy and trainable flag of `layer`, and `changes`."""
    return kind(**{"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable, **changes})


def changed(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """Return an unbuilt layer of the same class and config, with `changes`; its weights may have another shape."""
    with rebuilding(layer):
        return type(layer).from_config(without_arrays({**layer.get_config(), **changes}))


def values(variable: Any) -> np.ndarray:
    """Return a copy of a variable in float64, in which weights are worked out."""
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
