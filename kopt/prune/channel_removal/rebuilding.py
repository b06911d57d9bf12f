"""The smaller model: the same classes with smaller configs, and the weights that are left."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kopt.core.errors import UnsupportedModelError
from kopt.core.randomness import preserved_random_state
from kopt.graph.channels import ChannelGraph, WeightAxis
from kopt.graph.configs import rebuilding
from kopt.graph.internals import flatten_layers, graph_of, safe_mode_scope
from kopt.graph.rewrite import copy_model_settings, copy_state
from kopt.graph.values import values_of
from kopt.prune.channel_removal.configs import shrunk
from kopt.prune.sparse_learning.penalties import PenalizedModel

Kept = npt.NDArray[np.bool_]


@preserved_random_state()
def rebuild(model: keras.Model, graph: ChannelGraph, kept: Kept) -> keras.Model:
    """Return a model of the same class, layers and names that has only the units with `True` in `kept`.

    It is made of the config of `model`, as a saved file is, and shares nothing with it. It is not compiled, and has no
    penalties.

    Raises:
        UnsupportedModelError: the model does not rebuild from its config.
    """
    smaller = _from_config(model, graph, kept)
    axes: dict[int, list[WeightAxis]] = {}
    for weight in graph.weights:
        axes.setdefault(id(weight.variable), []).append(weight)
    copy_model_settings(model, smaller)
    for path, old, new in _pairs(model, smaller, ""):
        for ours, theirs in zip(old.variables, new.variables, strict=True):
            values = _sliced(values_of(ours), axes.get(id(ours), []), kept)
            if tuple(theirs.shape) != values.shape:
                raise UnsupportedModelError(
                    f"Weight {ours.name!r} of layer {path!r} ({type(old).__qualname__}) has the shape "
                    f"{tuple(theirs.shape)} in the smaller model where {values.shape} was expected: its `get_config` "
                    f"does not give everything that its `__init__` needs. Protect the layers before it."
                )
            theirs.assign(values)
        copy_state(old, new)
    return smaller


def _from_config(model: keras.Model, graph: ChannelGraph, kept: Kept) -> keras.Model:
    inside = [*flatten_layers(model), *(flow.call.operation for flow in graph.flows)]
    classes = {type(one).__name__: type(one) for one in inside if not type(one).__module__.startswith("keras.")}
    kind: Any = type(model)
    config = model.get_config
    if isinstance(model, PenalizedModel):
        kind, config = model.plain, model.plain_config
    with rebuilding(model), safe_mode_scope(False), keras.saving.custom_object_scope(classes):
        return kind.from_config(shrunk(config(), graph.settings, kept))


def _pairs(old: Any, new: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield every layer of the old model with that of the new one, nested models opened, each once."""
    twins = {operation.name: operation for operation in _operations(new)}
    for operation in _operations(old):
        if not isinstance(operation, keras.layers.Layer) or isinstance(operation, keras.layers.InputLayer):
            continue
        path, twin = f"{prefix}{operation.name}", twins[operation.name]
        if graph_of(operation) is None:
            yield path, operation, twin
        else:
            copy_model_settings(operation, twin)
            yield from _pairs(operation, twin, f"{path}/")


def _operations(model: keras.Model) -> list[Any]:
    graph = graph_of(model)
    return [] if graph is None else list(graph.operations)


def _sliced(values: npt.NDArray[Any], axes: list[WeightAxis], kept: Kept) -> npt.NDArray[Any]:
    for weight in axes:
        if not kept[weight.units].all():
            values = np.compress(kept[weight.units], values, axis=weight.axis)
    return values
