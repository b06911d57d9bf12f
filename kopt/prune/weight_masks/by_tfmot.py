"""Pruning by tensorflow-model-optimization itself, on the tf_keras twin of a Keras 3 model, and the way back."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tf_keras

from kopt.core.errors import ConfigError
from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.magnitude_pruning import Pattern, PrunedVariable
from kopt.graph import OwnedVariable, TwinLayer, owned_variables
from kopt.graph.tfmot import load_tfmot
from kopt.graph.wrapped_twin import Origin, brought_back, origin_of, within, wrapped_twin
from kopt.prune.schedules import Schedule
from kopt.prune.weight_masks.masks import removed
from kopt.prune.weight_masks.training_length import check_length

Chosen = Sequence[tuple[OwnedVariable, float]]


@dataclasses.dataclass(frozen=True)
class TwinPruning:
    """What a twin was wrapped for.

    Attributes:
        targets: final sparsity by path of the layer.
    """

    pattern: Pattern
    schedule: Schedule
    targets: dict[str, float]


def pruned_twin(
    model: keras.Model, chosen: Chosen, left: list[LayerAction], pattern: Pattern, schedule: Schedule
) -> tuple[Any, Origin, list[LayerAction]]:
    """Return the tf_keras twin with tfmot's wrappers round the chosen layers, and what is left dense with the reason.

    Raises:
        ConfigError: a pattern that tfmot does not have, or it can prune none of the layers.
        UnsupportedModelError: a subclassed model.
    """
    settings = _settings(pattern)
    tfmot = load_tfmot()
    wanted = {one.layer_path: target for one, target in chosen}
    method = TwinPruning(pattern, schedule, {})

    def wrap(one: TwinLayer) -> Any:
        target = _target(one.path, wanted)
        if target is None:
            return None
        if not _is_supported(tfmot, one.twin, settings):
            return "tfmot does not prune this kind of layer" + (" in blocks" if "block_size" in settings else "")
        method.targets[one.path] = target
        follows = _as_tfmot(tfmot, schedule, target)
        return tfmot.sparsity.keras.prune_low_magnitude(one.twin, pruning_schedule=follows, **settings)

    pruned, origin, reasons = wrapped_twin(model, wrap, method)
    beyond = [one for one, _ in chosen if not any(within(one.layer_path, path) for path in method.targets)]
    more = [LayerAction(one.layer_path, type(one.layer).__name__, _reason(one, reasons)) for one in beyond]
    if not method.targets:
        listed = "; ".join(f"{one.layer} ({one.type}): {one.detail}" for one in (*more, *left)[:5])
        raise ConfigError(f"tfmot can prune nothing in the model {model.name!r}: {listed}.")
    kept = [(one, target) for one, target in chosen if one not in beyond]
    _with_callbacks(pruned, lambda: [tfmot.sparsity.keras.UpdatePruningStep(), _length_check(origin, kept)])
    return pruned, origin, [*left, *more]


def stripped(origin: Origin) -> tuple[keras.Model, list[PrunedVariable]]:
    """Return the Keras 3 model with the weights of a twin of `pruned_twin`, bit for bit, and its pruned variables."""
    for one in origin.layers:
        for weight, mask, _ in getattr(one.wrapper, "pruning_vars", ()):
            weight.assign(weight * mask)
    plain = brought_back(origin, lambda one: one.values())
    return plain, rows_of(origin)


def rows_of(origin: Origin) -> list[PrunedVariable]:
    """Return the variables under tfmot's masks, with the share of zeros they have now."""
    owned = {id(one.variable): one for one in owned_variables(origin.model)}
    return [
        PrunedVariable(
            path=owned[id(variable)].path,
            layer=one.path,
            layer_type=type(one.layer).__name__,
            shape=tuple(variable.shape),
            target=origin.method.targets[one.path],
            sparsity=float(np.mean(weight.numpy() == 0)),
        )
        for one in origin.layers
        for variable, weight in zip(one.layer.weights, one.weights, strict=True)
        if any(weight is masked for masked, _, _ in getattr(one.wrapper, "pruning_vars", ()))
    ]


def twin_pruning_of(model: Any) -> Origin | None:
    """Return where a model of `pruned_twin` comes from; `None` of any other.

    Raises:
        UnsupportedModelError: a tf_keras model that was not made by kopt.
    """
    origin = origin_of(model)
    return origin if origin is not None and isinstance(origin.method, TwinPruning) else None


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


def _is_supported(tfmot: Any, layer: Any, settings: Mapping[str, Any]) -> bool:
    try:
        schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0)
        wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, schedule, **settings)
    except (ValueError, TypeError):
        return False
    kernels = wrapper.layer.get_prunable_weights()
    # tfmot finds out in the first step that its blocks are of matrices alone.
    return bool(kernels) and ("block_size" not in settings or all(len(one.shape) == 2 for one in kernels))


def _reason(one: OwnedVariable, reasons: dict[str, str]) -> str:
    return next(reason for path, reason in reasons.items() if within(one.layer_path, path))


def _target(path: str, wanted: dict[str, float]) -> float | None:
    """Return the sparsity of a layer, that of the first kernel inside it."""
    return next((target for inner, target in wanted.items() if within(inner, path)), None)


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


def _length_check(origin: Origin, chosen: Chosen) -> Any:
    """Return a callback of tf_keras that does what `LengthCheck` does."""
    schedule, pattern = origin.method.schedule, origin.method.pattern
    owned, targets = zip(*chosen, strict=True)

    def removes_nothing(sparsity: float) -> bool:
        return sparsity == 0.0 or not removed(pattern, owned, targets, sparsity / schedule.final_sparsity)

    def is_pruned() -> bool:
        pairs = (pair for one in origin.layers for pair in getattr(one.wrapper, "pruning_vars", ()))
        return any(not mask.numpy().all() for _, mask, _ in pairs)

    class Check(tf_keras.callbacks.Callback):
        """Looks where the training begins."""

        def on_train_begin(self, logs: Any = None) -> None:
            self._begins = True

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            steps, begins, self._begins = self.params.get("steps"), self._begins, False
            if begins and steps is not None:
                total, first = steps * (self.params["epochs"] - epoch), int(self.model.optimizer.iterations.numpy())
                check_length(schedule, first, total, removes_nothing, is_pruned=is_pruned())

    return Check()


def _with_callbacks(model: Any, own: Callable[[], list[Any]]) -> None:
    """Let `fit` count tfmot's steps by itself; without its callback tfmot stops in the first step."""
    fit: Callable[..., Any] = model.fit

    def counted(*args: Any, callbacks: Any = None, **settings: Any) -> Any:
        given = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
        return fit(*args, callbacks=[*own(), *given], **settings)

    object.__setattr__(model, "fit", counted)
