"""Copies of a model that compute the same function in a way that converters take."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from kopt.graph import copy_subclassed, copy_weights, rewrite
from kopt.graph.configs import rebuilding
from kopt.graph.internals import flatten_layers, graph_of

_OTHER_FLOATS = ("float16", "bfloat16", "float64")


def has_normalization(model: Any) -> bool:
    """Return whether a model holds a layer that `integer_normalization` computes otherwise, at any depth."""
    return any(map(_is_normalization, flatten_layers(model)))


@contextlib.contextmanager
def integer_normalization() -> Iterator[None]:
    """Trace every `LayerNormalization` as `gamma * (x - mean) / sqrt(variance + epsilon) + beta`, without a negation.

    Keras computes `x * s + (beta - mean * s)`; TFLite has no integer kernel for its NEG.
    """
    kind = keras.layers.LayerNormalization
    original = kind.call

    def call(layer: Any, inputs: Any) -> Any:
        return _normalized(layer, inputs) if _is_normalization(layer) else original(layer, inputs)

    kind.call = call
    try:
        yield
    finally:
        kind.call = original


def _is_normalization(layer: Any) -> bool:
    return type(layer) is keras.layers.LayerNormalization and not layer.rms_scaling


def _normalized(layer: Any, inputs: Any) -> Any:
    centered = inputs - ops.mean(inputs, axis=layer.axis, keepdims=True)
    # As a product: of a square of a difference the converter makes an operator that has no 16 bits.
    variance = ops.mean(centered * centered, axis=layer.axis, keepdims=True)
    outputs = centered * ops.rsqrt(variance + layer.epsilon)
    axes = [axis % inputs.ndim for axis in ([layer.axis] if isinstance(layer.axis, int) else layer.axis)]
    shape = [inputs.shape[axis] if axis in axes else 1 for axis in range(inputs.ndim)]
    if layer.gamma is not None:
        outputs = outputs * ops.reshape(layer.gamma, shape)
    return outputs if layer.beta is None else outputs + ops.reshape(layer.beta, shape)


def is_trained_for_integers(model: Any) -> bool:
    """Return whether a model holds ranges that training found, as those of `kopt.quantize.aware` do."""
    return any(hasattr(layer, "for_converter") for layer in flatten_layers(model))


def trained_twin(model: Any) -> Any:
    """Return a copy of a model that was trained for integers: plain layers with rounded weights, and fixed ranges.

    Layers say themselves what converters get in their place: a method `for_converter` returns what is called there.

    Raises:
        InputError: a range is not there yet, because the model was not trained.
    """
    twin, _ = rewrite(
        model, lambda layer: layer.for_converter() if hasattr(layer, "for_converter") else None, for_inference=True
    )
    return twin


def float32_twin(model: Any) -> Any:
    """Return `model`, or a copy that computes in float32 if any layer computes in a lower precision.

    The converters refuse half-precision graphs; the weights are float32 in both.
    """
    if not any(layer.compute_dtype in _OTHER_FLOATS for layer in flatten_layers(model)):
        return model
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for layers that a user's own one makes
    try:
        twin = copy_subclassed(model) if graph_of(model) is None else _rebuilt_in_float32(model)
    finally:
        keras.config.set_dtype_policy(before)
    for layer in flatten_layers(twin):
        _set_float32(layer)
    return twin


def _set_float32(layer: Any) -> None:
    if layer.compute_dtype in _OTHER_FLOATS:
        layer.dtype_policy = "float32"


def _in_float32(layer: Any) -> Any:
    """Return a copy of a layer that computes in another type of reals, or has such a layer inside."""
    if not any(one.compute_dtype in _OTHER_FLOATS for one in flatten_layers(layer)):
        return None
    with rebuilding(layer):
        twin = type(layer).from_config(_with_float32(layer.get_config()))
    for inner in flatten_layers(twin):
        _set_float32(inner)
    return twin


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


def _rebuilt_in_float32(model: Any) -> Any:
    pairs: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        twin = _in_float32(layer)
        if twin is not None:
            pairs.append((layer, twin))
        return twin

    twin_model, _ = rewrite(model, replace, inner_dtypes=dict.fromkeys(_OTHER_FLOATS, "float32"), for_inference=True)
    for layer, twin in pairs:
        copy_weights(layer, twin)
    return twin_model
