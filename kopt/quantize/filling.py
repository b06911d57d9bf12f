"""Layers for kernels: new ones that take the place of a layer or of a part of it, and what fills in their weights.

Their variables are float32 whatever those of the layer are: a grid of 8 bits is as fine as a bfloat16.
"""

from typing import Any

import keras
import numpy as np

from kopt.graph.configs import config_of
from kopt.quantize.affine import Affine
from kopt.quantize.kernels import operands

L = keras.layers
SEPARABLE: dict[type, tuple[type, type]] = {
    L.SeparableConv1D: (L.DepthwiseConv1D, L.Conv1D),
    L.SeparableConv2D: (L.DepthwiseConv2D, L.Conv2D),
}


class Fill:
    """Sets the weights of a layer that takes the place of another, or of a part of it."""

    def __init__(self, kernel: Any, bias: Any = None, constant: bool = False):
        """Take the weights.

        Args:
            kernel: array that can be broadcast to the kernel.
            bias: likewise; `None`: zeros.
            constant: training does not change them.
        """
        self.kernel = np.asarray(kernel, "float32")
        self._bias, self.constant = np.asarray(0.0 if bias is None else bias, "float32"), constant

    def __call__(self, layer: Any) -> None:
        """Fill in the weights of a built layer."""
        layer.kernel.assign(np.broadcast_to(self.kernel, layer.kernel.shape))
        if layer.bias is not None:
            layer.bias.assign(np.broadcast_to(self._bias, layer.bias.shape))


def with_bias(layer: Any) -> Any:
    """Return a layer with a bias for every output channel; the layer itself if it has one."""
    config = config_of(layer)
    if isinstance(layer, L.EinsumDense):
        _, kernel, output = operands(layer)
        return type(layer).from_config({**config, "bias_axes": "".join(one for one in output if one in kernel)})
    return layer if layer.use_bias else type(layer).from_config({**config, "use_bias": True})


def without_activation(layer: Any) -> tuple[Any, Fill]:
    """Return a layer that gives what another gives before its activation."""
    config = {**config_of(layer), "activation": None, "dtype": "float32"}
    return type(layer).from_config(config), Fill(
        layer.kernel.numpy(), None if layer.bias is None else layer.bias.numpy()
    )


def depthwise_of(layer: Any) -> tuple[Any, Fill]:
    """Return the first half of a separable convolution."""
    kind, _ = SEPARABLE[type(layer)]
    names = ("kernel_size", "strides", "padding", "depth_multiplier", "depthwise_regularizer", "depthwise_constraint")
    settings = {name: getattr(layer, name) for name in names}
    return kind(**settings, use_bias=False, dtype="float32"), Fill(layer.depthwise_kernel.numpy())


def pointwise_of(layer: Any) -> tuple[Any, Fill]:
    """Return the second half of a separable convolution."""
    _, kind = SEPARABLE[type(layer)]
    new = kind(
        layer.filters,
        1,
        use_bias=layer.use_bias,
        kernel_regularizer=layer.pointwise_regularizer,
        kernel_constraint=layer.pointwise_constraint,
        bias_regularizer=layer.bias_regularizer,
        bias_constraint=layer.bias_constraint,
        dtype="float32",
    )
    return new, Fill(layer.pointwise_kernel.numpy(), layer.bias.numpy() if layer.use_bias else None)


def affine_of(layer: Any) -> tuple[Any, Fill]:
    """Return the number and shift for each channel that a normalization or rescaling is."""
    if type(layer) is L.BatchNormalization:
        channels = layer.moving_mean.shape
        return Affine(use_bias=False, dtype="float32"), Fill(np.ones(channels, "float32"), constant=True)
    if type(layer) is L.Rescaling:
        return Affine(dtype="float32"), Fill(
            np.asarray(layer.scale, "float32"), np.asarray(layer.offset, "float32"), constant=True
        )
    if type(layer) is L.Normalization:
        kernel = 1.0 / np.maximum(np.sqrt(np.ravel(layer.variance)), keras.config.epsilon())
        return Affine(dtype="float32"), Fill(kernel, -np.ravel(layer.mean) * kernel, constant=True)
    return Affine(use_bias=False, dtype="float32"), Fill(layer.gamma.numpy())
