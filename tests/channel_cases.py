"""Channels that are zero, to be pruned without a trace."""

import keras
import numpy as np

import kopt
from kopt.graph.channels import channel_graph

ZEROED = ("kernel", "bias", "scale", "offset", "mean")


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give every weight a value that tells channels apart, and all signals a size of about one (He et al., 2015)."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if variable.name in ("gamma", "moving_variance", "scale"):
            variable.assign(generator.uniform(0.5, 1.5, shape))
        elif variable.name in ("beta", "bias", "moving_mean", "alpha"):
            variable.assign(generator.normal(0, 0.1, shape))
        elif "kernel" in variable.name:
            is_depthwise = len(shape) == 4 and (shape[-1] == 1 or variable.name == "depthwise_kernel")
            fan_in = np.prod(shape[:2]) if is_depthwise else np.prod(shape[:-1])
            variable.assign(generator.normal(0, np.sqrt(2 / fan_in), shape))
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(generator.uniform(0.5, 1.5, layer.gamma.shape))
    return model


def with_zeros(model: keras.Model, keep: float, settle=lambda model: model, **settings):
    """Prune; then make the channels that went zero in the model, and prune that again.

    Groups with a remark are protected: in them even a zero counts. `settle` is called with the model with zeros and
    returns what is pruned, e.g. with statistics that fit what is left.

    Returns:
        The model with zeros, the smaller one, and the report.
    """
    protect = [group.layers[0] for group in channel_graph(model).groups if group.remark]
    protect += list(settings.pop("protect", ()))
    graph = channel_graph(model, protect=protect)
    _, report = kopt.prune.channels(model, keep=keep, protect=protect, **settings)
    gone, generator = np.zeros(graph.unit_count, bool), np.random.default_rng(1)
    for group, row in zip(graph.groups, report.groups, strict=True):
        left = row.after // group.channels_per_unit
        gone[generator.permutation(group.units)[left:]] = True
    for weight in graph.weights:
        if weight.role in ZEROED:
            values = np.moveaxis(weight.variable.numpy(), weight.axis, 0)
            values[gone[weight.units]] = 0
            weight.variable.assign(np.moveaxis(values, 0, weight.axis))
        elif weight.role == "input":  # so that signals stay about one
            left = 1 - gone[weight.units].mean()
            weight.variable.assign(weight.variable.numpy() / np.sqrt(left))
    model = settle(model)
    smaller, report = kopt.prune.channels(model, keep=keep, protect=protect, **settings)
    return model, smaller, report


def examples(model: keras.Model, seed: int = 0, scale: float = 1.0):
    """Return two random examples: whole numbers below 7 where the input takes whole numbers; open sizes become 5."""
    generator = np.random.default_rng(seed)
    x = [
        generator.integers(0, 7, shape) if "int" in tensor.dtype else (generator.normal(size=shape) * scale)
        for tensor in model.inputs
        for shape in [(2, *(size or 5 for size in tensor.shape[1:]))]
    ]
    x = [value.astype(tensor.dtype) for value, tensor in zip(x, model.inputs, strict=True)]
    return x if len(x) > 1 else x[0]


def outputs(model: keras.Model, x) -> list[np.ndarray]:
    return [np.asarray(value) for value in keras.tree.flatten(model(x, training=False))]


def largest_difference(one: keras.Model, other: keras.Model, seed: int = 0, scale: float = 1.0) -> float:
    """Return the largest difference of the outputs on the same random examples, as a share of the largest output."""
    return relative_difference(one, other, examples(one, seed, scale))


def relative_difference(one: keras.Model, other: keras.Model, x) -> float:
    """Return the largest difference of the outputs, as a share of the largest output.

    The outputs must differ from example to example, or they would be equal whatever was removed.
    """
    ours, theirs = outputs(one, x), outputs(other, x)
    for value in ours:
        assert np.abs(value[0] - value[1]).max() > 1e-3 * np.abs(value).max(), "outputs of two examples are alike"
    assert [value.shape for value in ours] == [value.shape for value in theirs]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(ours, theirs, strict=True))
