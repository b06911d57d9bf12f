"""Copies of a model that compute the same function in a way that converters take."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kopt.graph import copy_weights, rewrite
from kopt.graph.internals import flatten_layers, graph_of

_OTHER_FLOATS = ("float16", "bfloat16", "float64")


class IntegerLayerNormalization(keras.layers.LayerNormalization):
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta`, written without a negation.

    Keras computes `x * s + (beta - mean * s)`; TFLite has no integer kernel for its NEG.
    """

    def call(self, inputs: Any) -> Any:
        """Normalize `inputs` over the layer's axes."""
        centered = inputs - ops.mean(inputs, axis=self.axis, keepdims=True)
        # As a product: of a square of a difference the converter makes an operator that has no 16 bits.
        variance = ops.mean(centered * centered, axis=self.axis, keepdims=True)
        outputs = centered * ops.rsqrt(variance + self.epsilon)
        axes = [axis % inputs.ndim for axis in ([self.axis] if isinstance(self.axis, int) else self.axis)]
        shape = [inputs.shape[axis] if axis in axes else 1 for axis in range(inputs.ndim)]
        if self.gamma is not None:
            outputs = outputs * ops.reshape(self.gamma, shape)
        return outputs if self.beta is None else outputs + ops.reshape(self.beta, shape)


def integer_twin(model: Any) -> Any:
    """Return a copy of `model` whose layers all have integer kernels in TFLite; `model` itself if they have anyway."""
    if graph_of(model) is None or not any(map(_integer_layer, flatten_layers(model))):
        return model
    return _rebuilt(model, _integer_layer)


def is_trained_for_integers(model: Any) -> bool:
    """Return whether a model holds ranges that training found, as those of `kopt.quantize.aware` do."""
    return any(hasattr(layer, "for_converter") for layer in flatten_layers(model))


def trained_twin(model: Any) -> Any:
    """Return a copy of a model that was trained for integers: plain layers with rounded weights, and fixed ranges.

    Layers say themselves what converters get in their place: a method `for_converter` returns what is called there.

    Raises:
        InputError: a range is not there yet, because the model was not trained.
    """
    twin, _ = rewrite(model, lambda layer: layer.for_converter() if hasattr(layer, "for_converter") else None)
    return twin


def float32_twin(model: Any) -> Any:
    """Return `model`, or a copy that computes in float32 if any layer computes in a lower precision.

    The converters refuse half-precision graphs; the weights are float32 in both.
    """
    if not any(layer.compute_dtype in _OTHER_FLOATS for layer in flatten_layers(model)):
        return model
    return _rebuilt(model, _in_float32)


def _integer_layer(layer: Any) -> Any:
    if type(layer) is keras.layers.LayerNormalization and not layer.rms_scaling:
        return IntegerLayerNormalization.from_config(layer.get_config())
    return None


def _in_float32(layer: Any) -> Any:
    """Return a copy of a layer that computes in another type of reals, or has such a layer inside."""
    computes = any(one.compute_dtype in _OTHER_FLOATS for one in flatten_layers(layer))
    return type(layer).from_config(_with_float32(layer.get_config())) if computes else None


def _with_float32(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: "float32" if key == "dtype" and _is_real(value) else _with_float32(value)
            for key, value in config.items()
        }
    return [_with_float32(item) for item in config] if isinstance(config, (list, tuple)) else config


def _is_real(dtype: Any) -> bool:
    """Return whether the `dtype` of a config, a name or a serialized policy, is of reals."""
    name = dtype.get("config", {}).get("name", "") if isinstance(dtype, dict) else str(dtype)
    return "float" in name


def _rebuilt(model: Any, make: Callable[[Any], Any]) -> Any:
    """Return a copy of `model` with the layers that `make` returns in place of the given ones, weights copied."""
    pairs: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        twin = make(layer)
        if twin is not None:
            pairs.append((layer, twin))
        return twin

    twin_model, _ = rewrite(model, replace)
    for layer, twin in pairs:
        copy_weights(layer, twin)
    return twin_model
