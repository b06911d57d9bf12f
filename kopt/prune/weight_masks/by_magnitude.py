"""Magnitude pruning on Keras 3: small weights become zero and stay so."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.magnitude_pruning import MagnitudePruning, Pattern, PrunedVariable
from kopt.core.settings import choice, whole
from kopt.graph import OwnedVariable, from_tf_keras, require_built, require_finite
from kopt.graph.naming import input_axis
from kopt.graph.wrapped_twin import is_wrapped
from kopt.prune.plain import require_plain
from kopt.prune.schedules import Constant, Schedule, as_schedule
from kopt.prune.weight_masks.by_tfmot import pruned_twin, rows_of
from kopt.prune.weight_masks.masks import Masks, removed
from kopt.prune.weight_masks.selection import Ratios, choose
from kopt.prune.weight_masks.sparse_speed import obstacles, speed_note
from kopt.report.changes.pruning import MAGNITUDE
from kopt.report.look import Shown
from kopt.train.weight_constraints import constrainable, constraints_of

# Granularities whose zeros XNNPACK could make use of.
_SPARSE = ("element", "block")


@dataclasses.dataclass(frozen=True)
class Magnitude(Shown, MagnitudePruning):
    """What `magnitude` or `finalize` did, with ways to show it.

    Example:
        >>> report = kopt.prune.magnitude(model, 0.75)[1]
        >>> [(variable.path, variable.sparsity) for variable in report.variables]
        [('conv1/kernel', 0.75), ('conv2/kernel', 0.75), ('classes/kernel', 0.75)]
    """

    look = MAGNITUDE


def magnitude(
    model: keras.Model,
    schedule_or_sparsity: Any,
    *,
    granularity: str = "element",
    block_size: tuple[int, int] = (4, 1),
    block_pooling: str = "AVG",
    n_m: tuple[int, int] = (2, 4),
    scope: str = "layer",
    sparsity_by_layer: Ratios = None,
    layers: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    policy: str = "all",
    backend: str = "keras",
) -> tuple[keras.Model, Magnitude]:
    """Return a copy of a model whose smallest weights become zero as it trains, and what was put under masks.

    The copy trains like any model, in `fit` or a loop of your own, compiled or not, in mixed precision, on several
    replicas: masks are applied by the optimizer itself, and no callback is needed. It saves to `.keras` and loads with
    its masks and its place in the schedule. Compile it anew; `finalize` makes a plain model of it.

    Args:
        model: built, or called once; not changed. A subclassed one must rebuild from its config; its file opens where
            its class is registered with Keras. A model of tf_keras becomes one of Keras 3 first.
        schedule_or_sparsity: a sparsity in [0, 1), which is applied at once and whose masks stay as they are; or a
            schedule of `kopt.prune.schedules` or `tfmot.sparsity.keras`. A step is an update of the optimizer; step `s`
            comes before the `s`-th.
        granularity: what is zero together: `"element"`, `"block"` (`block_size` of the kernel as a matrix of inputs
            times outputs), `"n:m"` along the input channels (layers with no more than `n` stay dense), or `"channel"`
            (whole output channels).
        block_size: height and width of a block.
        block_pooling: what ranks a block: `"AVG"` or `"MAX"` of its magnitudes.
        n_m: `(n, m)`: `n` of every `m` weights are kept. Their masks are computed at once, from the weights as they
            are, as tfmot does at its first step (whose `sparsity_m_by_n` counts zeros).
        scope: `"layer"`: every kernel gets its sparsity; `"global"`: the smallest of all weights together, so that
            layers with large weights stay denser.
        sparsity_by_layer: final sparsity by name of the layer (`*` is a wildcard), by a function of the layer (`None`:
            as the others), or a plan of `kopt.profile.sensitivity(...).plan()`; a schedule is scaled to it.
        layers: names of the only layers to prune.
        skip: names of layers to leave dense.
        backend: `"keras"`: as described; `"tfmot"`: the model is a tf_keras twin under tfmot's own wrappers, to be
            compiled and trained with tf_keras; `finalize` makes a Keras 3 model of it, weights bit for bit. Layers that
            tfmot does not know stay dense and are listed.
        policy: `"all"`, `"keep_first_last"` (these stay dense), or `"xnnpack"` (only 1 x 1 convolutions).

    Returns:
        The model, and the record of its masks and of the layers that stay dense, with `.table()`.

    Raises:
        ConfigError: a sparsity outside [0, 1), an unknown name, or nothing to prune.
        UnsupportedModelError: a layer or a subclassed model that does not rebuild from its config, a subclassed model
            with the backend `"tfmot"`, or a tf_keras model that Keras 3 does not have.
        InputError: the model is not built.
        NonFiniteError: a weight is NaN or infinite.

    Example:
        >>> schedule = kopt.prune.schedules.Polynomial(0.8, begin=1, end=32, frequency=4)  # counted in updates
        >>> pruned, report = kopt.prune.magnitude(model, schedule, skip=["conv1"])
        >>> pruned.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = pruned.fit(x_train, y_train, epochs=3, verbose=0)
        >>> plain, report = kopt.prune.finalize(pruned)
        >>> [(variable.path, round(variable.sparsity, 2)) for variable in report.variables]
        [('conv2/kernel', 0.8), ('classes/kernel', 0.8)]

    Source: Zhu and Gupta, 2017, https://arxiv.org/abs/1710.01878; tfmot's `prune_low_magnitude`.
    """
    if is_wrapped(model):
        raise InputError(f"The model {model.name!r} is pruned already: `kopt.prune.finalize` it first.")
    model = from_tf_keras(model)
    require_built(model)
    require_finite(model)
    require_plain(model)
    sizes = _pair("block_size", block_size), _pair("n_m", n_m)
    pattern = _pattern(granularity, sizes[0], block_pooling, sizes[1], scope)
    schedule = _schedule(schedule_or_sparsity, pattern, sizes[1])
    if pattern.scope == "global" and sparsity_by_layer is not None:
        raise ConfigError('`sparsity_by_layer` and `scope="global"` exclude each other.')
    chosen, left = choose(
        model,
        schedule.final_sparsity,
        layers=layers,
        skip=skip,
        ratios=sparsity_by_layer,
        policy=policy,
        pattern=pattern,
    )
    if schedule.final_sparsity == 0.0:
        schedule = _of_layers_alone(schedule, chosen)
    _require_units(pattern, chosen)
    if choice("backend", backend, ("keras", "tfmot")) == "tfmot":
        twin, origin, left = pruned_twin(model, chosen, left, pattern, schedule)
        return twin, record_of(model, pattern, schedule, rows_of(origin), left)
    copy = constrainable(model)
    # The paths of the copy: models inside it may have become Functional, names stay.
    masks = Masks(copy, [one.path for one, _ in chosen], [target for _, target in chosen], pattern, schedule)
    copy.constrain_by(masks)
    masks.start()
    return copy, report_of(copy, left, _rests(masks))


def _require_units(pattern: Pattern, chosen: Sequence[tuple[OwnedVariable, float]]) -> None:
    """Raise if the final sparsity is less than half a unit of every variable."""
    owned, targets = zip(*chosen, strict=True)
    if not removed(pattern, owned, targets):
        unit = {"element": "weight", "block": "block", "channel": "channel"}[pattern.granularity]
        raise ConfigError(
            f"A sparsity of {max(targets):g} is less than half a {unit} of every kernel, so "
            f"that nothing would be pruned. Ask for more, or for smaller units with `granularity`."
        )


def _of_layers_alone(schedule: Schedule, chosen: Sequence[tuple[OwnedVariable, float]]) -> Schedule:
    """Return the schedule of single layers' sparsity where the others stay dense."""
    if not isinstance(schedule, Constant):
        raise ConfigError(
            f"{schedule!r} leads to a sparsity of 0, so that `sparsity_by_layer` has no course to follow. Give it the "
            f"largest of these numbers, and 0 to the layers that stay dense."
        )
    most = max(target for _, target in chosen)
    return Constant(most, schedule.begin, schedule.end, schedule.frequency)


def _rests(masks: Masks) -> tuple[str, ...]:
    """Return what is to be said of kernels that groups of N:M sparsity do not fill."""
    if masks.pattern.granularity != "n:m":
        return ()
    kept, group = masks.pattern.n_m
    shapes = [(one, tuple(one.variable.shape)) for one in masks.owned]
    rests = [
        one.layer_path for one, shape in shapes if shape[input_axis(one.layer, one.variable.name, len(shape))] % group
    ]
    if not rests:
        return ()
    return (
        f"Input channels are no multiple of {group} in {', '.join(rests)}: up to {kept} of the rest are kept, so that "
        f"the sparsity is lower, and hardware that wants whole groups takes no profit there.",
    )


def masks_of(model: keras.Model) -> Masks | None:
    """Return the masks that a model carries; `None` without."""
    return next((one for one in constraints_of(model) if isinstance(one, Masks)), None)


def _pair(name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ConfigError(f"`{name}` must be two whole numbers, such as (4, 1). Received: {value!r}.")
    return whole(f"{name}[0]", value[0]), whole(f"{name}[1]", value[1])


def _pattern(granularity: str, block: Any, pooling: str, n_m: Any, scope: str) -> Pattern:
    return Pattern(
        granularity,
        block if granularity == "block" else (1, 1),
        pooling,
        n_m if granularity == "n:m" else (1, 1),
        scope,
    )


def _schedule(given: Any, pattern: Pattern, n_m: tuple[int, int]) -> Schedule:
    schedule = as_schedule(given)
    if pattern.granularity == "n:m":
        kept, group = n_m
        if not isinstance(schedule, Constant) or abs(schedule.final_sparsity - (1 - kept / group)) > 1e-6:
            raise ConfigError(
                f"Keeping {kept} of {group} weights is a sparsity of {1 - kept / group:g}, at once: pass that. "
                f"Received: {given!r}."
            )
    return schedule


def report_of(model: Any, left: Sequence[LayerAction], notes: tuple[str, ...] = ()) -> Magnitude:
    """Return what is under masks in a model, and what is left dense."""
    masks = model.pruning
    rows = [
        PrunedVariable(
            path=one.path,
            layer=one.layer_path,
            layer_type=type(one.layer).__name__,
            shape=tuple(one.variable.shape),
            target=target,
            sparsity=float(np.mean(one.variable.numpy() == 0)),
        )
        for one, target in zip(masks.owned, masks.targets, strict=True)
    ]
    return record_of(model, masks.pattern, masks.schedule, rows, left, notes)


def record_of(
    model: keras.Model,
    pattern: Pattern,
    schedule: Schedule,
    rows: Sequence[PrunedVariable],
    left: Sequence[LayerAction],
    notes: tuple[str, ...] = (),
) -> Magnitude:
    """Return the report; `model` is of Keras 3, with masks or without."""
    found: tuple[LayerAction, ...] = ()
    if pattern.granularity in _SPARSE:
        # What the masks lead to, or what they have come to where training is over.
        found = obstacles(model, {row.layer: row.target if masks_of(model) else row.sparsity for row in rows})
    return Magnitude(
        model=model.name,
        pattern=pattern,
        schedule=repr(schedule),
        variables=tuple(rows),
        skipped=tuple(left),
        notes=(*notes, speed_note(pattern.granularity, found)),
        obstacles=found,
    )
