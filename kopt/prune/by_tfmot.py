"""Pruning by tensorflow-model-optimization itself, on the tf_keras twin of a Keras 3 model, and the way back."""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tf_keras

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.pruning_records import Pattern, PrunedVariable
from kopt.core.records import LayerAction
from kopt.graph import Adapter, OwnedVariable, Twin, TwinLayer, adapted_twin, copy_model, layer_paths, owned_variables
from kopt.graph.internals import flatten_layers
from kopt.graph.tfmot import load_tfmot
from kopt.prune.schedules import Schedule

Chosen = Sequence[tuple[OwnedVariable, float]]


@dataclasses.dataclass(frozen=True)
class _Origin:
    """Where a pruned twin comes from."""

    model: keras.Model
    layers: tuple[TwinLayer, ...]
    targets: dict[str, float]
    pattern: Pattern
    schedule: Schedule


_ORIGINS: weakref.WeakKeyDictionary[Any, _Origin] = weakref.WeakKeyDictionary()


def pruned_twin(
    model: keras.Model, chosen: Chosen, left: list[LayerAction], pattern: Pattern, schedule: Schedule
) -> tuple[Any, list[LayerAction]]:
    """Return the tf_keras twin with tfmot's wrappers round the chosen layers, and what is left dense with the reason.

    Raises:
        ConfigError: a pattern that tfmot does not have, or it can prune none of the layers.
        UnsupportedModelError: a subclassed model.
    """
    settings = _settings(pattern)
    tfmot = load_tfmot()
    source = copy_model(model)
    # Not that of the copy, in which masks have become tensors like others.
    twin = adapted_twin(model)
    copies = {path: layer for layer, path in _by_path(source)}
    wanted = {one.layer_path: target for one, target in chosen}
    by_twin = {id(one.twin): one for one in twin.layers}
    wrapped: dict[str, Any] = {}
    targets: dict[str, float] = {}

    def wrap(layer: Any) -> Any:
        known = by_twin.get(id(layer))
        target = None if known is None else _target(known.path, wanted)
        if known is None or target is None or _has_mask(layer) or not _is_supported(tfmot, layer):
            return layer
        follows = _as_tfmot(tfmot, schedule, target)
        wrapped[known.path] = tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=follows, **settings)
        targets[known.path] = target
        return wrapped[known.path]

    pruned = tf_keras.models.clone_model(twin.model, clone_function=wrap)
    beyond = [one for one, _ in chosen if not any(_within(one.layer_path, path) for path in wrapped)]
    more = [LayerAction(one.layer_path, type(one.layer).__name__, _reason(one, twin)) for one in beyond]
    if not wrapped:
        reasons = "; ".join(f"{one.layer} ({one.type}): {one.detail}" for one in (*more, *left)[:5])
        raise ConfigError(f"tfmot can prune nothing in the model {model.name!r}: {reasons}.")
    layers = tuple(one._replace(layer=copies[one.path]) for one in twin.layers)
    _ORIGINS[pruned] = _Origin(source, layers, targets, pattern, schedule)
    _with_steps(pruned, tfmot)
    return pruned, [*left, *more]


def _by_path(model: keras.Model) -> list[tuple[keras.layers.Layer, str]]:
    paths = layer_paths(model)
    return [(layer, paths[id(layer)]) for layer in flatten_layers(model) if id(layer) in paths]


def origin_of(model: Any) -> _Origin | None:
    """Return where a model of `pruned_twin` comes from; `None` of any other."""
    return _ORIGINS.get(model) if isinstance(model, tf_keras.Model) else None


def stripped(model: Any) -> tuple[keras.Model, list[PrunedVariable]]:
    """Return the Keras 3 model with the weights of a twin of `pruned_twin`, bit for bit, and its pruned variables."""
    origin = _ORIGINS[model]
    for layer in model.layers:
        for weight, mask, _ in getattr(layer, "pruning_vars", ()):
            weight.assign(weight * mask)
    for one in origin.layers:
        _bring_back(one)
    rows = rows_of(model)
    return copy_model(origin.model), rows


def rows_of(model: Any) -> list[PrunedVariable]:
    """Return the variables under tfmot's masks, with the share of zeros they have now."""
    origin = _ORIGINS[model]
    masked = {id(weight) for layer in model.layers for weight, _, _ in getattr(layer, "pruning_vars", ())}
    owned = {id(one.variable): one for one in owned_variables(origin.model)}
    return [
        PrunedVariable(
            path=owned[id(variable)].path,
            layer=one.path,
            layer_type=type(one.layer).__name__,
            shape=tuple(variable.shape),
            target=origin.targets[one.path],
            sparsity=float(np.mean(weight.numpy() == 0)),
        )
        for one in origin.layers
        for variable, weight in zip(one.layer.weights, _weights(one), strict=True)
        if id(weight) in masked
    ]


def _weights(one: TwinLayer) -> list[Any]:
    return list(one.twin.operation.weights if isinstance(one.twin, Adapter) else one.twin.weights)


def _bring_back(one: TwinLayer) -> None:
    """Copy the weights of a twin to its layer, each to the one of its place, which is how they came."""
    for variable, weight in zip(one.layer.weights, _weights(one), strict=True):
        variable.assign(weight.numpy())


def _settings(pattern: Pattern) -> dict[str, Any]:
    if pattern.scope != "layer" or pattern.granularity == "channel":
        raise ConfigError(
            f"tfmot prunes elements, blocks and N:M, layer by layer. Received: granularity={pattern.granularity!r}, "
            f'scope={pattern.scope!r}; the backend "keras" has both.'
        )
    if pattern.granularity == "block":
        return {"block_size": pattern.block, "block_pooling_type": pattern.pooling}
    if pattern.granularity == "n:m":
        kept, group = pattern.n_m
        return {"sparsity_m_by_n": (group - kept, group)}
    return {}


def _is_supported(tfmot: Any, layer: Any) -> bool:
    try:
        wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, tfmot.sparsity.keras.ConstantSparsity(0.5, 0))
    except (ValueError, TypeError):
        return False
    return bool(wrapper.layer.get_prunable_weights())


def _has_mask(layer: Any) -> bool:
    """Return whether a mask goes through a layer of a tf_keras model; tfmot's wrapper would lose it, silently."""
    tensors = [tensor for node in layer.inbound_nodes for tensor in (*node.keras_inputs, *_listed(node.outputs))]
    return any(getattr(tensor, "_keras_mask", None) is not None for tensor in tensors)


def _listed(tensors: Any) -> list[Any]:
    return list(keras.tree.flatten(tensors))


def _reason(one: OwnedVariable, twin: Twin) -> str:
    twins = [layer.twin for layer in twin.layers if _within(one.layer_path, layer.path)]
    if any(isinstance(layer, Adapter) for layer in twins):
        return "it has no tf_keras twin"
    if any(_has_mask(layer) for layer in twins):
        return "a mask goes through it, which tfmot's wrapper would lose"
    return "tfmot does not prune this kind of layer"


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}/")


def _target(path: str, wanted: dict[str, float]) -> float | None:
    """Return the sparsity of a layer, that of the first kernel inside it."""
    return next((target for inner, target in wanted.items() if _within(inner, path)), None)


def _as_tfmot(tfmot: Any, schedule: Schedule, target: float) -> Any:
    """Return a schedule as an object of tfmot's class, scaled to `target`."""
    share = target / schedule.final_sparsity if schedule.final_sparsity else 1.0

    class Following(tfmot.sparsity.keras.PruningSchedule):
        """Does what the schedule of kopt does."""

        def __call__(self, step: Any) -> Any:
            turn, sparsity = schedule(step)
            return turn, sparsity if share == 1.0 else sparsity * share

        def get_config(self) -> dict[str, Any]:
            return {"class_name": type(self).__name__, "config": {}}

    return Following()


def _with_steps(model: Any, tfmot: Any) -> None:
    """Let `fit` count tfmot's steps by itself; without its callback tfmot stops in the first step."""
    fit: Callable[..., Any] = model.fit

    def counted(*args: Any, callbacks: Any = None, **settings: Any) -> Any:
        given = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
        return fit(*args, callbacks=[tfmot.sparsity.keras.UpdatePruningStep(), *given], **settings)

    object.__setattr__(model, "fit", counted)


def require_twin(model: Any) -> None:
    """Raise for a tf_keras model that is not one of `pruned_twin`.

    Raises:
        UnsupportedModelError: it is not.
    """
    if isinstance(model, tf_keras.Model) and model not in _ORIGINS:
        raise UnsupportedModelError(
            f"The tf_keras model {model.name!r} was not made by `kopt.prune.magnitude(..., backend='tfmot')`, so its "
            f"way back to Keras 3 is not known."
        )
