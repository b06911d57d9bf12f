"""A number and a shift for each channel, which TFLite computes exactly as a depthwise convolution of one point."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable("kopt")
class Affine(keras.layers.Layer):
    """`kernel * x + bias` along the last axis: what is left of a normalization or a rescaling that no kernel took in.

    A kernel of one weight a channel has no rounding error: the weight is the largest of its channel.
    """

    def __init__(
        self,
        use_bias: bool = True,
        *,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **settings: Any,
    ):
        """Take whether there is a bias, and what holds in training; see `keras.layers.Dense`."""
        super().__init__(**settings)
        self.use_bias = use_bias
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.activation = keras.activations.linear

    def build(self, input_shape: Any) -> None:
        """Create a kernel of ones and a bias of zeros, which training leaves alone unless it is made trainable."""
        shape = (input_shape[-1],)
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer="ones",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=shape,
                initializer="zeros",
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def call(self, inputs: Any) -> Any:
        """Return `kernel * inputs + bias`."""
        outputs = inputs * self.kernel
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {
            **super().get_config(),
            "use_bias": self.use_bias,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


def unfit(rank: int) -> str:
    """Return why a tensor of `rank` axes cannot be scaled by channel in integers; empty if it can."""
    return "" if rank <= 4 else f"TFLite has no depthwise convolution over {rank - 2} axes"


def affine_twin(layer: Any, shape: Any, kernel: np.ndarray, bias: np.ndarray) -> Callable[[Any], Any]:
    """Return `kernel * x + bias` as a depthwise convolution; of one channel as a dense layer, the one with integers."""
    rank, channels = len(shape), kernel.shape[0]
    if channels == 1 and rank < 4 and None not in shape[1:]:
        dense = filled(keras.layers.Dense(1, name=layer.name), (None, 1), kernel.reshape(1, 1), bias)
        return lambda inputs: keras.ops.reshape(dense(keras.ops.reshape(inputs, (-1, 1))), (-1, *shape[1:]))
    settings = {"depthwise_initializer": "ones", "name": layer.name, "dtype": "float32"}
    if rank == 4:
        return filled(keras.layers.DepthwiseConv2D(1, **settings), shape, kernel.reshape(1, 1, channels, 1), bias)
    inner = (None, 1, channels) if rank == 2 else shape
    twin = filled(keras.layers.DepthwiseConv1D(1, **settings), inner, kernel.reshape(1, channels, 1), bias)
    if rank == 3:
        return twin
    return lambda inputs: keras.ops.reshape(twin(keras.ops.reshape(inputs, (-1, 1, channels))), (-1, channels))


def filled(layer: Any, shape: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
    """Return a layer built for inputs of `shape` with this kernel and bias, which lets masks through."""
    layer.supports_masking = True
    layer.build(shape)
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    return layer
