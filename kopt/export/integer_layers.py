"""Layers written another way, so that all of their operators have integer kernels in TFLite."""

from typing import Any

import keras
from keras import ops


class IntegerLayerNormalization(keras.layers.LayerNormalization):
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta`, written without a negation.

    Keras computes `x * s + (beta - mean * s)`; TFLite has no integer kernel for its NEG.
    """

    def call(self, inputs: Any) -> Any:
        """Normalize `inputs` over the layer's axes."""
        centered = inputs - ops.mean(inputs, axis=self.axis, keepdims=True)
        variance = ops.mean(ops.square(centered), axis=self.axis, keepdims=True)
        outputs = centered * ops.rsqrt(variance + self.epsilon)
        axes = [axis % inputs.ndim for axis in ([self.axis] if isinstance(self.axis, int) else self.axis)]
        shape = [inputs.shape[axis] if axis in axes else 1 for axis in range(inputs.ndim)]
        if self.gamma is not None:
            outputs = outputs * ops.reshape(self.gamma, shape)
        return outputs if self.beta is None else outputs + ops.reshape(self.beta, shape)


def integer_twin(layer: Any) -> Any:
    """Return the integer form of `layer` with its config, or `None` if the layer has integer kernels as it is."""
    if type(layer) is keras.layers.LayerNormalization and not layer.rms_scaling:
        return IntegerLayerNormalization.from_config(layer.get_config())
    return None
