"""An existing model in another precision, on the same weights."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from kopt.core.errors import ConfigError, UnsupportedModelError, nearest
from kopt.core.randomness import preserved_random_state
from kopt.core.records.actions import LayerAction, TransformReport
from kopt.graph import GraphView, clone_layer, copy_subclassed, copy_weights, require_built, rewrite, signature
from kopt.graph.internals import flatten_layers, graph_of
from kopt.train.internals import share_value
from kopt.train.numerics.fragility import fragile_layer, output_reasons
from kopt.train.numerics.precision import POLICIES, resolve_policy

# What may be given as `keep`: a layer's name or path, its class, or a function that tells.
Keep = str | type | Callable[[keras.layers.Layer], bool]


@preserved_random_state()
def to_precision(
    model: keras.Model, policy: str, *, keep: Keep | Sequence[Keep] = ()
) -> tuple[keras.Model, TransformReport]:
    """Return a model that computes in another precision on the same weights, and what stayed in float32.

    For a model that exists already; a new one is better built inside `kopt.train.precision`. The two models hold the
    very same `tf.Variable` objects: training, loading or assigning one changes the other, and an optimizer that was
    built for one goes on with the other. `to_precision(mixed, "float32")` gives back a model that exporters take.

    What stays in float32, each with its reason in the report:
    - layers that give an output of the model, so that outputs and losses are float32;
    - softmax, log-softmax and exponential activations, and layers that feed `keras.ops` of that kind;
    - `UnitNormalization` and `SpectralNormalization`, which sum squares in the type they compute in, and layers with an
      activity regularizer, which do so in their output's type;
    - Keras' preprocessing layers, whose inputs are not scaled yet;
    - what `keep` names, and layers that were given a type of their own, such as float64.

    Batch, layer, group and RMS normalization compute their statistics in float32 in any case, so they are not held
    back. Attention layers compute their softmax in the policy's type.

    Args:
        model: Functional, Sequential or subclassed, with nested models and shared layers; not changed. The config of a
            subclassed model must rebuild it, and its outputs must come from layers that stay in float32.
        policy: `"mixed_bfloat16"`, `"mixed_float16"`, `"float32"`, or `"auto"`.
        keep: layers that stay in float32: names or paths (`"backbone/conv1"`), classes, or functions of a layer.

    Returns:
        An uncompiled model and the report. The model's own policy is `policy`, so that `compile` adds loss scaling for
        `"mixed_float16"`. Keras does not save that policy: give a reloaded model a `scaled_optimizer`. What a
        subclassed model or custom layer holds inside comes back from a file in the precision that its `__init__` gives
        it.

    Raises:
        ConfigError: an unknown policy, or a name in `keep` that no layer has.
        UnsupportedModelError: a layer that does not rebuild from its config; a subclassed model whose output would not
            be float32; nothing at all could be changed.

    Example:
        >>> mixed, report = kopt.train.to_precision(model, "mixed_bfloat16")
        >>> mixed.get_layer("conv2").compute_dtype, [action.layer for action in report.skipped]
        ('bfloat16', ['classes'])
    """
    name = resolve_policy(policy)
    require_built(model)
    recast = _Recast(model, name, (keep,) if isinstance(keep, str) or callable(keep) else tuple(keep))
    # The variables were made in this scope, and those of the copy belong there, too.
    with model.distribute_strategy.scope():
        twin = recast.subclassed(model) if graph_of(model) is None else recast.graph(model)
    twin.dtype_policy = keras.DTypePolicy(name)
    if not recast.applied and name != "float32":
        reasons = "; ".join(f"{action.layer}: {action.detail}" for action in recast.skipped)
        raise UnsupportedModelError(f"No layer of {model.name!r} can compute in {name}: {reasons}.")
    return twin, TransformReport("to_precision", tuple(recast.applied), tuple(recast.skipped))


class _Recast:
    """Holds what one change of precision knows: reasons to stay, layers and their copies, and what was done."""

    def __init__(self, model: keras.Model, policy: str, keep: tuple[Keep, ...]):
        self.applied: list[LayerAction] = []
        self.skipped: list[LayerAction] = []
        self._policy = keras.DTypePolicy(policy)
        self._keep = keep
        self._pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []
        self._paths = _paths(model)
        _check_names(keep, list(self._paths.values()))

    def graph(self, model: keras.Model) -> keras.Model:
        reasons = output_reasons(GraphView.of(model))

        def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
            twin = clone_layer(layer, self._paths[id(layer)])
            self._set_policies(layer, twin, reasons.get(id(layer)))
            self._pairs.append((layer, twin))
            return twin

        twin, _ = rewrite(model, replace)
        for layer, copy in self._pairs:
            copy_weights(layer, copy)
            _share(layer, copy)
        return twin

    def subclassed(self, model: keras.Model) -> keras.Model:
        twin = copy_subclassed(model)
        for layer, copy in zip(_children(model), _children(twin), strict=True):
            self._set_policies(layer, copy, None)
        twin.dtype_policy = self._policy
        for output in keras.tree.flatten(twin(_symbolic_input(model))):
            if output.dtype in ("float16", "bfloat16"):
                raise UnsupportedModelError(
                    f"The output of {model.name!r} ({type(model).__qualname__}) would be {output.dtype}: its `call` is "
                    f"Python code, so the layer that gives the output is not known. Name it, e.g. "
                    f"`keep=[{_children(model)[-1].name!r}]`."
                )
        _share(model, twin)
        return twin

    def _set_policies(self, layer: keras.layers.Layer, twin: keras.layers.Layer, reason: str | None) -> None:
        """Set the policy of a copy and of the layers inside it, and write down what was done."""
        path, kind = self._paths[id(layer)], type(layer).__name__
        reason = self._reason(layer, path) or reason
        changed = False
        for inner in flatten_layers(twin):
            if inner.dtype_policy.name in POLICIES:
                stays = reason or (inner is not twin and fragile_layer(inner))
                inner.dtype_policy = keras.DTypePolicy("float32") if stays else self._policy
                changed = changed or not stays
        if reason is not None and self._policy.name != "float32":
            self.skipped.append(LayerAction(path, kind, reason))
        elif not changed:
            self.skipped.append(LayerAction(path, kind, f"has the policy {layer.dtype_policy.name!r} of its own"))
        elif layer.dtype_policy.name != self._policy.name:
            self.applied.append(LayerAction(path, kind, f"computes in {self._policy.compute_dtype}"))

    def _reason(self, layer: keras.layers.Layer, path: str) -> str | None:
        if any(_matches(item, layer, path) for item in self._keep):
            return "kept in float32 as asked"
        return fragile_layer(layer)


def _share(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    for one, other in zip(source.variables, target.variables, strict=True):
        share_value(one, other)
        other.trainable = one.trainable
        # A constraint or regularizer may have been set on the variable after its layer was built.
        other.constraint, other.regularizer = one.constraint, one.regularizer


def _symbolic_input(model: keras.Model) -> Any:
    """Return what a model whose `call` is Python code takes, as it was called before."""
    signature(model)  # raises where the inputs are not known
    config = model.get_build_config()
    shapes = next(iter(config.get("shapes_dict", config).values()))
    return keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape[1:]), model.input_dtype), shapes
    )


def _children(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers that a subclassed model holds, each with what is inside it, but no models."""
    found: list[keras.layers.Layer] = []
    inside: set[int] = set()
    for layer in flatten_layers(model)[1:]:
        if id(layer) not in inside and not isinstance(layer, keras.Model):
            found.append(layer)
            inside.update(id(inner) for inner in flatten_layers(layer))
    return found


def _paths(model: keras.Model) -> dict[int, str]:
    if graph_of(model) is None:
        return {id(layer): layer.name for layer in _children(model)}
    return {id(operation): path for path, operation in GraphView.of(model).walk()}


def _matches(item: Any, layer: keras.layers.Layer, path: str) -> bool:
    if isinstance(item, str):
        return item in (layer.name, path)
    return isinstance(layer, item) if isinstance(item, type) else bool(item(layer))


def _check_names(keep: tuple[Any, ...], paths: list[str]) -> None:
    known = {*paths, *(path.rpartition("/")[2] for path in paths)}
    for item in keep:
        if isinstance(item, str) and item not in known:
            raise ConfigError(
                f"`keep` names {item!r}, which is no layer of the model.{nearest(item, known)} "
                f"Layers: {', '.join(paths[:20])}{', ...' if len(paths) > 20 else ''}."
            )
        if not isinstance(item, str) and not callable(item):
            raise ConfigError(
                f"`keep` takes names, classes and functions of a layer. Received: {item!r} "
                f"({type(item).__module__}.{type(item).__qualname__})."
            )
