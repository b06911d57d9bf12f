"""Which kernels of a model go under masks, how sparse each becomes, and why the others stay dense."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from kopt.core.errors import ConfigError
from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.magnitude_pruning import Pattern
from kopt.core.records.profiles.sensitivity_plan import SensitivityPlan
from kopt.core.settings import choice, number
from kopt.graph import OwnedVariable, layer_paths, owned_variables
from kopt.graph.channels import end_layers
from kopt.graph.internals import graph_of
from kopt.graph.layer_names import Wanted, all_named, nothing_chosen
from kopt.graph.naming import input_axis, is_kernel

POLICIES = ("all", "keep_first_last", "xnnpack")
Ratios = Mapping[str, float] | Callable[[keras.layers.Layer], float | None] | SensitivityPlan | None

_DEPTHWISE_REASON = "a depthwise kernel has few weights, and accuracy depends on each; name it in `layers` to prune it"


def choose(
    model: keras.Model,
    target: float,
    *,
    layers: Iterable[str] | None,
    skip: Iterable[str],
    ratios: Ratios,
    policy: str,
    pattern: Pattern,
) -> tuple[list[tuple[OwnedVariable, float]], list[LayerAction]]:
    """Return the variables to put under masks with the final sparsity of each, and what is left dense with the reason.

    Args:
        model: built.
        target: final sparsity where `ratios` says nothing else.
        layers: names or patterns of the only layers to prune; all if `None`.
        skip: names or patterns of layers to leave dense.
        ratios: sparsity by layer.
        policy: `"all"`, `"keep_first_last"` or `"xnnpack"`.
        pattern: which weights are pruned together.

    Raises:
        ConfigError: an unknown layer or policy, a ratio outside [0, 1), or nothing to prune.
    """
    choice("policy", policy, POLICIES)
    paths = [path for identity, path in layer_paths(model).items() if identity != id(model)]
    wanted = Wanted.of(paths, layers, skip)
    by_layer = _by_layer(ratios, paths)
    kernels = [one for one in owned_variables(model) if _considered(one, wanted)]
    named = _with_ratios(ratios, paths, kernels)
    ends: dict[str, str] = {}
    if kernels and (policy == "keep_first_last" or pattern.granularity == "channel"):
        ends = _ends(model, kernels, policy)
    chosen, left = [], []
    for one in kernels:
        sparsity = by_layer(one, target)
        reason = _reason(one, wanted, named, ends, policy, pattern)
        if not reason and sparsity == 0.0:
            reason = "its ratio is 0"
        if reason:
            left.append(LayerAction(one.layer_path, type(one.layer).__name__, reason))
        else:
            chosen.append((one, sparsity))
    if not chosen:
        raise nothing_chosen(model.name, "pruned", left)
    return chosen, left


def _ends(model: keras.Model, kernels: Sequence[OwnedVariable], policy: str) -> dict[str, str]:
    """Return layers that stay dense for their place, with the reason: several where there are several ends."""
    first, last = {kernels[0].layer_path}, {kernels[-1].layer_path}
    if graph_of(model) is not None:
        found = end_layers(model)
        first, last = first | found[0], last | found[1]
    if policy == "keep_first_last":
        return dict.fromkeys((*first, *last), "the first or last layer with a kernel")
    return dict.fromkeys(last, "its channels are those of the output")


def _considered(one: OwnedVariable, wanted: Wanted) -> bool:
    """Return whether a variable is a kernel, or has two axes in a layer that was asked for by name."""
    asked = wanted.only is not None and one.layer_path in wanted.only
    return is_kernel(one.variable) or (asked and len(one.variable.shape) > 1)


def _with_ratios(ratios: Ratios, paths: list[str], kernels: Sequence[OwnedVariable]) -> set[str]:
    """Return the layers that have a ratio of their own.

    Raises:
        ConfigError: a name is of layers without a kernel.
    """
    if isinstance(ratios, SensitivityPlan):
        return {layer.layer for layer in ratios.layers}
    if not isinstance(ratios, Mapping):
        return set()
    found = {name: all_named(paths, [name], "sparsity_by_layer") for name in ratios}
    with_kernels = {one.layer_path for one in kernels}
    empty = [name for name, inside in found.items() if not with_kernels & inside]
    if empty:
        raise ConfigError(f"`sparsity_by_layer`: {', '.join(map(repr, empty))} has no kernel to prune.")
    return {path for inside in found.values() if len(inside) == 1 for path in inside}  # a name of one layer alone


def _reason(
    one: OwnedVariable, wanted: Wanted, named: set[str], ends: dict[str, str], policy: str, pattern: Pattern
) -> str:
    """Return why a kernel stays dense; empty if it does not."""
    layer = one.layer
    kind = type(layer).__name__
    refusal = wanted.refusal(one.layer_path)
    if refusal:
        return refusal
    if not one.trainable:
        return "frozen: training does not change it"
    asked = wanted.only is not None or one.layer_path in named
    if not asked and ("Depthwise" in kind or one.variable.name.startswith("depthwise")):
        return _DEPTHWISE_REASON
    if one.layer_path in ends and wanted.only is None:
        return ends[one.layer_path]
    if policy == "xnnpack" and not _is_pointwise(layer):
        return "XNNPACK computes only 1 x 1 convolutions sparsely"
    if pattern.granularity == "n:m":
        return _unfit(one, *pattern.n_m)
    return ""


def _unfit(one: OwnedVariable, kept: int, group: int) -> str:
    """Return why the groups of N:M sparsity do not fit a kernel; empty if they do."""
    if isinstance(one.layer, keras.layers.Embedding):
        return "N:M sparsity goes along input channels, of which an embedding has none"
    shape = tuple(one.variable.shape)
    inputs = shape[input_axis(one.layer, one.variable.name, len(shape))]
    return f"it has {inputs} input channel(s), and {kept} of {group} are kept" if inputs <= kept else ""


def _is_pointwise(layer: keras.layers.Layer) -> bool:
    if not isinstance(layer, keras.layers.Conv2D):
        return False
    return set(layer.kernel_size) == {1} and set(layer.strides) == {1} and layer.groups == 1


def _by_layer(ratios: Ratios, paths: list[str]) -> Callable[[OwnedVariable, float], float]:
    if ratios is None:
        return lambda one, target: target
    if isinstance(ratios, SensitivityPlan):
        allowed = {layer.layer: layer.sparsity for layer in ratios.layers}
        return lambda one, target: allowed.get(one.layer_path, 0.0)
    if isinstance(ratios, Mapping):
        found: dict[str, float] = {}
        for name, ratio in ratios.items():
            value = _ratio(name, ratio)
            found.update(dict.fromkeys(all_named(paths, [name], "sparsity_by_layer"), value))
        return lambda one, target: found.get(one.layer_path, target)
    if not callable(ratios):
        raise ConfigError(
            f"`sparsity_by_layer` must be a mapping of names, a function of a layer or a plan of "
            f"`kopt.profile.sensitivity`. Received: {ratios!r}."
        )
    function = ratios

    def asked(one: OwnedVariable, target: float) -> float:
        answer = function(one.layer)
        return target if answer is None else _ratio(one.layer_path, answer)

    return asked


def _ratio(name: str, value: Any) -> float:
    ratio = number(f"sparsity_by_layer[{name!r}]", value, least=0.0)
    if ratio >= 1.0:
        raise ConfigError(f"The sparsity of {name!r} must be in [0, 1). Received: {value!r}.")
    return ratio
