"""Paths that tell the layers and variables of a model apart, however deep they are nested."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from kopt.graph.internals import flatten_layers, inner_layers

_DEPTHWISE = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


@dataclasses.dataclass(frozen=True)
class OwnedVariable:
    """A variable with the layer that holds it.

    Attributes:
        path: unique in the model, e.g. `"backbone/conv/kernel"`.
        layer_path: that of the layer, e.g. `"backbone/conv"`; the model's name for one that the model itself holds.
        layer: the innermost one that holds the variable; of a shared layer or variable the first.
        variable: `keras.Variable`.
        trainable: whether training changes it.

    Example:
        >>> variable = kopt.graph.owned_variables(model)[0]
        >>> variable.path, variable.layer_path, variable.trainable
        ('conv1/kernel', 'conv1', True)
    """

    path: str
    layer_path: str
    layer: keras.layers.Layer
    variable: Any
    trainable: bool


def layer_paths(model: keras.Model) -> dict[int, str]:
    """Return the path of every layer inside `model`, by the layer's id, parents first; the model itself has its name.

    A path is made of the names from the outside in, `"backbone/stage1/conv"`. A layer in several places has the path of
    the first; a second one of the same path gets `"#2"` after it, and so does a model in which a layer has its name.

    Example:
        >>> inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")], name="backbone")
        >>> outer = keras.Sequential([keras.Input((4,)), inner], name="outer")
        >>> list(kopt.graph.layer_paths(outer).values())[-1]
        'backbone/dense'
    """
    paths = {id(model): ""}
    taken: dict[str, int] = {}

    def visit(parent: keras.layers.Layer, prefix: str) -> None:
        for layer in inner_layers(parent):
            if id(layer) not in paths:
                paths[id(layer)] = _unique(f"{prefix}{layer.name}", taken)
                visit(layer, f"{paths[id(layer)]}/")

    visit(model, "")
    paths[id(model)] = _unique(model.name, taken)  # after those that people name
    return paths


def owned_variables(model: keras.Model) -> tuple[OwnedVariable, ...]:
    """Return every variable of `model` once, in the order of `model.variables`.

    Example:
        >>> [variable.path for variable in kopt.graph.owned_variables(model)][:3]
        ['conv1/kernel', 'norm1/gamma', 'norm1/beta']
    """
    owners = {id(variable): (layer, path) for layer, path, variable in _holders(model)}
    trainable = {id(variable) for variable in model.trainable_variables}
    taken: dict[str, int] = {}
    found = []
    for variable in model.variables:
        layer, layer_path = owners[id(variable)]
        prefix = "" if layer is model else f"{layer_path}/"
        path = _unique(f"{prefix}{variable.name}", taken)
        found.append(OwnedVariable(path, layer_path, layer, variable, id(variable) in trainable))
    return tuple(found)


class FreshNames:
    """Gives every name once, with a number after it where it is taken.

    Example:
        >>> fresh = kopt.graph.FreshNames({"conv"})
        >>> fresh("conv"), fresh("conv"), fresh("dense")
        ('conv_2', 'conv_3', 'dense')
    """

    def __init__(self, taken: set[str]):
        self._taken = set(taken)

    def __call__(self, wanted: str) -> str:
        """Return `wanted`, or `wanted_2` and so on."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def _holders(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, str, Any]]:
    """Yield each variable with the first layer in place that holds it without an inner one holding it."""
    paths, seen = layer_paths(model), set()
    for layer in flatten_layers(model):
        inside = {id(variable) for inner in inner_layers(layer) for variable in inner.variables}
        for variable in layer.variables:
            if id(variable) not in inside and id(variable) not in seen:
                seen.add(id(variable))
                yield layer, paths[id(layer)], variable


def _unique(path: str, taken: dict[str, int]) -> str:
    number = taken[path] = taken.get(path, 0) + 1
    return path if number == 1 else f"{path}#{number}"


def is_kernel(variable: Any) -> bool:
    """Return whether a variable is the kernel of a layer, or the vectors of an embedding."""
    return len(variable.shape) > 1 and variable.name.endswith(("kernel", "embeddings"))


def channel_axes(layer: keras.layers.Layer, name: str, rank: int) -> tuple[int, ...]:
    """Return the axes of a kernel that number its output channels.

    Those are the last axis of `Dense`, convolutions, embeddings and recurrent kernels (whose channels are units times
    gates); of a depthwise kernel the input channel and the multiplier; of a transposed convolution the last but one;
    of `EinsumDense` those that its equation keeps in the output.

    Args:
        layer: that holds the kernel.
        name: of the variable, e.g. `"kernel"`.
        rank: its number of axes, 2 at least.
    """
    if isinstance(layer, _DEPTHWISE) and name in ("kernel", "depthwise_kernel"):
        return rank - 2, rank - 1
    if isinstance(layer, _TRANSPOSED):
        return (rank - 2,)
    if isinstance(layer, keras.layers.EinsumDense) and name == "kernel":
        return _einsum_axes(layer.equation, rank)
    return (rank - 1,)


def input_axis(layer: keras.layers.Layer, name: str, rank: int) -> int:
    """Return the axis of a kernel that numbers its input channels; of several the last. Arguments as above."""
    if isinstance(layer, _DEPTHWISE) and name in ("kernel", "depthwise_kernel"):
        return rank - 2
    return max(set(range(rank)) - set(channel_axes(layer, name, rank)), default=rank - 1)


def _einsum_axes(equation: str, rank: int) -> tuple[int, ...]:
    operands, result = equation.replace(" ", "").split("->")
    kernel = operands.split(",")[1]
    axes = tuple(axis for axis, index in enumerate(kernel) if index in result)
    return axes if axes and len(kernel) == rank else (rank - 1,)
