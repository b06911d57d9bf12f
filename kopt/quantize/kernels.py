"""Layers with a kernel: where its output channels are, what the layer computes, and what converters get instead."""

import dataclasses
import math
import string
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kopt.graph.configs import config_of
from kopt.quantize.affine import Affine, affine_twin, filled

L = keras.layers
Twin = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class KernelKind:
    """A row of the table of layers with a kernel.

    Attributes:
        apply: from the layer, an input and a kernel to the output without bias and activation.
        channels: from the layer and the rank of its kernel to the axes that number the output channels.
        twin: from the layer, the shape of its input, and kernel and bias as arrays, to a function that converters get.
        unfit: from the layer to why it cannot be computed in integers; empty if it can.
        inputs: from the layer to the axis of its kernel that numbers the channels of its input, or of a group of them;
            `None` if they have more than one axis.
        least_bits: that a weight can have in a file.
    """

    apply: Callable[[Any, Any, Any], Any]
    channels: Callable[[Any, int], tuple[int, ...]]
    twin: Callable[[Any, Any, Any, Any], Twin]
    unfit: Callable[[Any], str]
    inputs: Callable[[Any], int | None]
    least_bits: int = 4


def kind_of(layer: Any) -> KernelKind | None:
    """Return the row of a layer's class; `None` if it has none."""
    return KERNELS.get(type(layer))


def _convolve(layer: Any, inputs: Any, kernel: Any) -> Any:
    padding = layer.padding
    if padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        inputs, padding = tf.pad(inputs, [[0, 0], [before, 0], [0, 0]]), "valid"
    return ops.conv(inputs, kernel, list(layer.strides), padding, layer.data_format, layer.dilation_rate)


def _convolve_depthwise(layer: Any, inputs: Any, kernel: Any) -> Any:
    settings = (layer.strides, layer.padding, layer.data_format, layer.dilation_rate)
    return ops.depthwise_conv(inputs, kernel, *settings)


def _convolve_transposed(layer: Any, inputs: Any, kernel: Any) -> Any:
    return ops.conv_transpose(
        inputs,
        kernel,
        strides=list(layer.strides),
        padding=layer.padding,
        output_padding=layer.output_padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )


def _same_class(layer: Any, shape: Any, kernel: Any, bias: Any) -> Twin:
    config = {**config_of(layer), "use_bias": True, "activation": None, "dtype": "float32"}
    twin = type(layer).from_config({key: value for key, value in config.items() if not key.endswith("_constraint")})
    return filled(twin, shape, kernel, bias)


def _dense_twin(layer: Any, shape: Any, kernel: Any, bias: Any) -> Twin:
    """Return a dense layer; over more than two axes an einsum, which becomes one operator."""
    if len(shape) == 2:
        return _same_class(layer, shape, kernel, bias)
    batch = string.ascii_lowercase[: len(shape) - 1]
    twin = L.EinsumDense(f"{batch}y,yz->{batch}z", (*shape[1:-1], kernel.shape[-1]), bias_axes="z", name=layer.name)
    return filled(twin, shape, kernel, bias)


def _einsum_channels(layer: Any, rank: int) -> tuple[int, ...]:
    _, kernel, output = operands(layer)
    return tuple(axis for axis, letter in enumerate(kernel) if letter in output)


def operands(layer: Any) -> tuple[str, str, str]:
    """Return the axes of input, kernel and output in the equation of an einsum, without its ellipsis."""
    taken, output = layer.equation.replace("...", "").replace(" ", "").split("->")
    first, second = taken.split(",")
    return first, second, output


def _einsum_unfit(layer: Any) -> str:
    first, kernel, output = operands(layer)
    summed = [letter for letter in kernel if letter not in output]
    made = [letter for letter in kernel if letter in output]
    plain = "".join(summed + made) == kernel and first.endswith("".join(summed)) and output.endswith("".join(made))
    if plain and not set(made) & set(first):
        return ""
    return f"TFLite has no dense operator for the equation {layer.equation!r}"


def _einsum_twin(layer: Any, shape: Any, kernel: Any, bias: Any) -> Twin:
    """Return an einsum as reshape, dense operator, reshape."""
    _, letters, output = operands(layer)
    summed = sum(letter not in output for letter in letters)
    outer = list(shape[1 : len(shape) - summed])
    made = list(kernel.shape[summed:])
    matrix = kernel.reshape(math.prod(kernel.shape[:summed]), math.prod(made))
    dense = _dense_twin(
        L.Dense(matrix.shape[1], name=layer.name), (None, *outer, matrix.shape[0]), matrix, bias.reshape(-1)
    )

    def twin(inputs: Any) -> Any:
        flat = ops.reshape(inputs, (-1, *outer, matrix.shape[0])) if summed > 1 else inputs
        outputs = dense(flat)
        return ops.reshape(outputs, (-1, *outer, *made)) if len(made) > 1 else outputs

    return twin


def _unfit_convolution(layer: Any) -> str:
    if layer.data_format != "channels_last":
        return "TFLite has no integer convolution for channels_first"
    if isinstance(layer, L.Conv3D):
        return "TFLite has no integer CONV_3D"
    if max(layer.dilation_rate) > 1:
        return "the TFLite converter takes a dilated convolution with trained ranges apart"
    return ""


def _last(layer: Any, rank: int) -> tuple[int, ...]:
    return (rank - 1,)


def _last_but_one(layer: Any) -> int:
    return len(layer.kernel.shape) - 2


def _last_axis(layer: Any) -> int:
    return len(layer.kernel.shape) - 1


def _einsum_input(layer: Any) -> int | None:
    _, kernel, output = operands(layer)
    summed = [axis for axis, letter in enumerate(kernel) if letter not in output]
    return summed[0] if len(summed) == 1 else None


def _last_two(layer: Any, rank: int) -> tuple[int, ...]:
    return (rank - 2, rank - 1)


_CONVOLUTION = KernelKind(_convolve, _last, _same_class, _unfit_convolution, _last_but_one)
_DEPTHWISE = KernelKind(_convolve_depthwise, _last_two, _same_class, _unfit_convolution, _last_but_one)

KERNELS: dict[type, KernelKind] = {
    L.Conv1D: _CONVOLUTION,
    L.Conv2D: _CONVOLUTION,
    L.Conv3D: _CONVOLUTION,
    L.DepthwiseConv1D: _DEPTHWISE,
    L.DepthwiseConv2D: _DEPTHWISE,
    L.Conv2DTranspose: KernelKind(
        _convolve_transposed,
        lambda layer, rank: (rank - 2,),
        _same_class,
        _unfit_convolution,
        _last_axis,
        least_bits=8,
    ),
    L.Dense: KernelKind(
        lambda layer, x, kernel: ops.matmul(x, kernel), _last, _dense_twin, lambda layer: "", _last_but_one
    ),
    L.EinsumDense: KernelKind(
        lambda layer, x, kernel: ops.einsum(layer.equation, x, kernel),
        _einsum_channels,
        _einsum_twin,
        _einsum_unfit,
        _einsum_input,
    ),
    # One weight a channel has no error with any number of bits, and no size.
    Affine: KernelKind(lambda layer, x, kernel: x * kernel, _last, affine_twin, lambda layer: "", _last_axis, 8),
}
