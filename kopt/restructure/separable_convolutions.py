"""Convolutions as depthwise-separable ones, with weights fitted to the original."""

from typing import Any

import keras

from kopt.core.randomness import preserved_random_state
from kopt.core.records.actions import LayerAction
from kopt.core.settings import choice, number, whole
from kopt.graph import FreshNames, GraphView, require_finite
from kopt.restructure import factors
from kopt.restructure.accounting import Change, Costs, Restructuring, make_report
from kopt.restructure.kinds import altered
from kopt.restructure.selection import Layers, chosen, require_applied, require_unconstrained
from kopt.restructure.sites import Site, sites_of
from kopt.restructure.substitution import Substitute, changed, fresh_names, like, substituted, values

L = keras.layers
_FORMS = ("separable", "depthwise")


@preserved_random_state()
def depthwise_separable(
    model: keras.Model,
    *,
    layers: Layers = None,
    depth_multiplier: int = 1,
    form: str = "separable",
    max_error: float = 1.0,
    force: bool = False,
) -> tuple[keras.Model, Restructuring]:
    """Return a copy of `model` whose convolutions are depthwise-separable, with weights fitted to the original ones.

    Use it on layers whose error in the report is small, or as the start of a fine-tuning: a 3x3 convolution of many
    channels takes about a ninth of the arithmetic afterwards.

    Formula: the kernel `K[:, :, c, :]` of each input channel, a matrix `(height * width, filters)`, is cut to the rank
    `depth_multiplier` by its singular values, `sum over j of d_j p_j`: the `d_j` are its depthwise kernels and
    the `p_j` its rows of the pointwise kernel. No depthwise-separable kernel is nearer to `K` in the Frobenius norm.

    Args:
        model: built Functional or Sequential model, nested models included; not changed.
        layers: names or paths, or a function of the layer; all Conv2D layers by default.
        depth_multiplier: depthwise kernels for each input channel; `height * width` of them reproduce any kernel.
        form: `"separable"` (one `SeparableConv2D`) or `"depthwise"` (`DepthwiseConv2D` and a 1x1 `Conv2D`, which can be
            pruned and quantized one by one).
        max_error: a layer whose relative error would be above it is left, in (0, 1].
        force: also replace layers that become no smaller.

    Returns:
        The copy, a plain Functional model, not compiled, and a report with the relative error of every fit; `left`
        lists the layers that stay, with the reason.

    Raises:
        ConfigError: a setting is out of range, or an unknown name.
        NonFiniteError: NaN or infinity in the weights.
        UnsupportedModelError: a subclassed model, or no layer could be replaced.

    Example:
        >>> light, report = kopt.restructure.depthwise_separable(model, layers=["conv2"])
        >>> [(layer.type, layer.parameters_before, layer.parameters_after) for layer in report.applied]
        [('Conv2D', 1168, 216)]
        >>> type(light.get_layer("conv2")).__name__
        'SeparableConv2D'

    Source: Guo et al., "Network Decoupling: From Regular to Depthwise Separable Convolutions", 2018.
    """
    whole("depth_multiplier", depth_multiplier)
    choice("form", form, _FORMS)
    number("max_error", max_error, least=0.0, most=1.0, open_below=True)
    view = GraphView.of(model)
    require_finite(model)
    require_unconstrained(model)
    costs, names = Costs.of(model), fresh_names(model)
    left: dict[str, LayerAction] = {}
    made: dict[Site, tuple[Substitute, float]] = {}
    for site in chosen(sites_of(view), layers, lambda layer: type(layer) is L.Conv2D):
        reason = _unfit(site, depth_multiplier)
        if not reason and not force:
            reason = _not_smaller(site.layer, depth_multiplier)
        if not reason:
            *kernels, error = factors.separable(values(site.layer.kernel), depth_multiplier)
            if error <= max_error:
                made[site] = _substitute(site.layer, kernels, form, names), error
                continue
            reason = f"its relative error would be {error:.3f}, above `max_error` of {max_error:g}"
        left[site.path] = LayerAction(site.path, type(site.layer).__name__, reason)
    require_applied("depthwise_separable", model.name, len(made), left.values(), "Conv2D")
    light = substituted(model, {id(site.layer): new for site, (new, _) in made.items()})
    changes = [_change(site, new, error) for site, (new, error) in made.items()]
    return light, make_report("depthwise_separable", costs, Costs.of(light), changes, left)


def _unfit(site: Site, multiplier: int) -> str:
    """Return why a layer cannot be replaced; empty if it can."""
    layer = site.layer
    if type(layer) is not L.Conv2D:
        return "it is no Conv2D layer"
    if reason := altered(layer):
        return reason
    if layer.groups != 1:
        return f"it works in {layer.groups} groups"
    if all(size == 1 for size in layer.kernel_size):
        return "its kernel is 1x1, which is pointwise already"
    if layer.strides[0] != layer.strides[1]:
        return f"its strides are {layer.strides}, and depthwise convolutions take equal ones only"
    height, width, _, filters = layer.kernel.shape
    if multiplier > min(height * width, filters):
        return f"`depth_multiplier` of {multiplier} is above its rank of {min(height * width, filters)}"
    return ""


def _not_smaller(layer: Any, multiplier: int) -> str:
    height, width, inputs, filters = layer.kernel.shape
    new, old = multiplier * inputs * (height * width + filters), height * width * inputs * filters
    return f"it would take {new:,} kernel parameters of {old:,} now" if new >= old else ""


def _substitute(layer: Any, kernels: list[Any], form: str, names: FreshNames) -> Substitute:
    depthwise, pointwise = kernels
    bias = {} if layer.bias is None else {"bias": values(layer.bias)}
    spread = {
        "kernel_size": layer.kernel_size,
        "strides": layer.strides,
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "data_format": layer.data_format,
        "depth_multiplier": depthwise.shape[-1],
        "depthwise_regularizer": layer.kernel_regularizer,
    }
    if form == "depthwise":
        first = like(layer, L.DepthwiseConv2D, name=names(f"{layer.name}_depthwise"), use_bias=False, **spread)
        last = changed(
            layer, kernel_size=(1, 1), strides=(1, 1), dilation_rate=(1, 1), padding="valid", kernel_constraint=None
        )
        return Substitute((first, last), ({"kernel": depthwise}, {"kernel": pointwise, **bias}))
    whole_layer = like(
        layer,
        L.SeparableConv2D,
        filters=layer.filters,
        activation=layer.activation,
        use_bias=layer.use_bias,
        pointwise_regularizer=layer.kernel_regularizer,
        bias_regularizer=layer.bias_regularizer,
        activity_regularizer=layer.activity_regularizer,
        bias_constraint=layer.bias_constraint,
        **spread,
    )
    return Substitute((whole_layer,), ({"depthwise_kernel": depthwise, "pointwise_kernel": pointwise, **bias},))


def _change(site: Site, new: Substitute, error: float) -> Change:
    names = tuple(layer.name for layer in new.layers)
    multiplier = new.layers[0].depth_multiplier
    kinds = " and ".join(type(layer).__name__ for layer in new.layers)
    times = f", {multiplier} kernels a channel" if multiplier > 1 else ""
    return Change(site.path, "Conv2D", f"{kinds}{times}", names, error)
