"""A tf_keras twin whose layers tfmot has wrapped, and the way of its weights back to Keras 3."""

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tf_keras

from kopt.core.errors import UnsupportedModelError
from kopt.graph.internals import flatten_layers
from kopt.graph.naming import layer_paths
from kopt.graph.rewrite import copy_model
from kopt.graph.twin import Adapter, TwinLayer, adapted_twin


@dataclasses.dataclass(frozen=True)
class WrappedLayer:
    """A layer of a twin, what tfmot has put round it, and its layer in Keras 3.

    Attributes:
        path: of the layer in the Keras 3 model.
        layer: of a copy of that model.
        weights: of the twin, in the order of `layer.weights`.
        wrapper: of tfmot; `None` where there is none.
    """

    path: str
    layer: Any
    weights: tuple[Any, ...]
    wrapper: Any = None

    def values(self) -> list[Any]:
        """Return the weights of the twin as arrays."""
        return [weight.numpy() for weight in self.weights]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a wrapped twin comes from.

    Attributes:
        model: a copy of the Keras 3 model.
        layers: with weights or without.
        method: what the wrapping was for, a record of the one that asked for it.
    """

    model: keras.Model
    layers: tuple[WrappedLayer, ...]
    method: Any


_ORIGINS: weakref.WeakKeyDictionary[Any, Origin] = weakref.WeakKeyDictionary()


def wrapped_twin(
    model: keras.Model, wrap: Callable[[TwinLayer], Any], method: Any
) -> tuple[Any, Origin, dict[str, str]]:
    """Return a tf_keras twin with tfmot's wrappers, where it comes from, and why layers could not get one, by path.

    Args:
        model: not changed.
        wrap: returns the wrapper of a layer, the reason why there is none, or `None` for a layer that should not get
            one.
        method: kept, see `origin_of`.

    Raises:
        UnsupportedModelError: a subclassed model.
    """
    source = copy_model(model)
    # Not that of the copy, in which masks have become tensors like others.
    twin = adapted_twin(model)
    paths = layer_paths(source)
    copies = {paths[id(layer)]: layer for layer in flatten_layers(source) if id(layer) in paths}
    by_twin = {id(one.twin): one for one in twin.layers}
    # A wrapper may take the variables of its layer away.
    weights = {one.path: tuple(_operation(one).weights) for one in twin.layers}
    wrappers: dict[str, Any] = {}
    reasons: dict[str, str] = {}

    def wrapped(layer: Any) -> Any:
        known = by_twin.get(id(layer))
        answer = None if known is None else _obstacle(known) or wrap(known)
        if known is None or answer is None:
            return layer
        if isinstance(answer, str):
            reasons[known.path] = answer
            return layer
        wrappers[known.path] = answer
        return answer

    result = tf_keras.models.clone_model(twin.model, clone_function=wrapped)
    layers = tuple(
        WrappedLayer(one.path, copies[one.path], weights[one.path], wrappers.get(one.path)) for one in twin.layers
    )
    origin = _ORIGINS[result] = Origin(source, layers, method)
    return result, origin, reasons


def is_wrapped(model: Any) -> bool:
    """Return whether a model is one of `wrapped_twin`."""
    return isinstance(model, tf_keras.Model) and model in _ORIGINS


def origin_of(model: Any) -> Origin | None:
    """Return where a model of `wrapped_twin` comes from; `None` of any other model of Keras 3.

    Raises:
        UnsupportedModelError: a tf_keras model that is not of `wrapped_twin`.
    """
    if not isinstance(model, tf_keras.Model):
        return None
    if model not in _ORIGINS:
        raise UnsupportedModelError(
            f'The tf_keras model {model.name!r} was not made with `backend="tfmot"`, so its way back to Keras 3 is not '
            f"known."
        )
    return _ORIGINS[model]


def brought_back(origin: Origin, values: Callable[[WrappedLayer], list[Any]]) -> keras.Model:
    """Return the Keras 3 model with the weights of its twin, each in the place it came from.

    Args:
        origin: of the twin.
        values: returns the final weights of a layer, in the order of its weights.
    """
    for one in origin.layers:
        for variable, value in zip(one.layer.weights, values(one), strict=True):
            variable.assign(value)
    return copy_model(origin.model)


def within(path: str, outer: str) -> bool:
    """Return whether a path is `outer` or inside it."""
    return path == outer or path.startswith(f"{outer}/")


def _operation(one: TwinLayer) -> Any:
    return one.twin.operation if isinstance(one.twin, Adapter) else one.twin


def _obstacle(one: TwinLayer) -> str:
    """Return why a layer cannot be wrapped; empty if it can."""
    if isinstance(one.twin, Adapter):
        return "it has no tf_keras twin"
    nodes = one.twin.inbound_nodes
    tensors = [tensor for node in nodes for tensor in (*node.keras_inputs, *keras.tree.flatten(node.outputs))]
    if any(getattr(tensor, "_keras_mask", None) is not None for tensor in tensors):
        return "a mask goes through it, which tfmot's wrapper would lose"
    return ""
