"""Layer configs of Keras 2 translated to Keras 3: pure functions on dicts, one entry of the table a quirk."""

from collections.abc import Callable
from typing import Any

import keras

from kopt.core.errors import LoadError

Config = dict[str, Any]

MODELS = ("Sequential", "Functional", "Model")

# Keys that Keras 2 wrote and Keras 3 does not know, and that change nothing in inference.
_DROPPED = (
    "batch_input_shape",
    "build_input_shape",
    "fused",
    "implementation",
    "input_dtype",
    "input_length",
    "input_spec",
    "renorm_clipping",
    "renorm_momentum",
    "rng_type",
    "time_major",
    "virtual_batch_size",
)
_REFUSED_FLAGS = ("ragged", "renorm", "time_major")
_ACTIVATION_KEYS = ("activation", "recurrent_activation")
_ACTIVATION_NAMES = {"softmax_v2": "softmax", "swish": "silu"}


def hard_sigmoid(x: Any) -> Any:
    """Return `clip(0.2 x + 0.5, 0, 1)`, the `hard_sigmoid` of Keras 2; that of Keras 3 is `relu6(x + 3) / 6`."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


# So that a model that uses it saves and reloads.
keras.saving.register_keras_serializable(package="kopt")(hard_sigmoid)


def translate_layer(class_name: str, config: Config) -> tuple[str, Config]:
    """Return the Keras 3 class name and config of a Keras 2 layer.

    Initializers are left out: the weights come from the file.

    Raises:
        LoadError: the layer has no counterpart in Keras 3, or uses something that Keras 3 dropped.
    """
    if class_name in _NO_COUNTERPART:
        raise LoadError(
            f"Layer {config.get('name')!r} is a {class_name}, which Keras 3 does not have: "
            f"{_NO_COUNTERPART[class_name]}"
        )
    for flag in _REFUSED_FLAGS:
        if config.get(flag):
            raise LoadError(f"Layer {config.get('name')!r} ({class_name}) sets `{flag}`, which Keras 3 dropped.")
    if keras.saving.get_registered_object(class_name):
        # Somebody's own layer: its settings are its own business.
        return class_name, _without("batch_input_shape")(config)
    config = {key: _value(key, value) for key, value in config.items() if not _is_dropped(key)}
    if class_name != "Embedding":
        config.pop("input_dim", None)
    if class_name in _QUIRKS:
        config = _QUIRKS[class_name](config)
    return _RENAMED.get(class_name, class_name), config


def batch_shape(config: Config) -> tuple[int | None, ...] | None:
    """Return the input shape that Keras 2 stored in the first layer, batch dimension first."""
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    return tuple(shape) if shape else None


def activation(value: Any) -> Any:
    """Return the Keras 3 activation for what Keras 2 wrote: a name, or a serialized function or layer."""
    if isinstance(value, dict) and value.get("class_name") == "function":
        value = value["config"]
    if isinstance(value, dict):
        class_name, config = translate_layer(value["class_name"], value["config"])
        return layer_class(class_name, config.get("name", "")).from_config(config)
    return hard_sigmoid if value == "hard_sigmoid" else _ACTIVATION_NAMES.get(value, value)


def layer_class(class_name: str, layer: str) -> Any:
    """Return the layer class called `class_name`: one in the scope of custom objects, registered, or of Keras.

    Raises:
        LoadError: there is none.
    """
    found = keras.saving.get_registered_object(class_name) or getattr(keras.layers, class_name, None)
    if isinstance(found, type) and issubclass(found, keras.layers.Layer):
        return found
    name = class_name.split(">")[-1]
    raise LoadError(
        f"Layer {layer!r} is of the class {name!r}, which Keras 3 does not know. Import the module that defines it, "
        f"decorated with `@keras.saving.register_keras_serializable()`, or pass `custom_objects={{{name!r}: {name}}}`."
    )


def _is_dropped(key: str) -> bool:
    return key in _DROPPED or key.endswith("_initializer")


def _value(key: str, value: Any) -> Any:
    if key in _ACTIVATION_KEYS:
        return activation(value)
    if key == "dtype" and isinstance(value, dict):
        return value["config"]["name"]
    if isinstance(value, dict) and value.get("type") == "ndarray":
        return value["value"]
    if isinstance(value, dict) and value.get("class_name") == "TensorShape":
        return value["items"]
    return value


def _without(*names: str) -> Callable[[Config], Config]:
    return lambda config: {key: value for key, value in config.items() if key not in names}


def _renamed(old: str, new: str) -> Callable[[Config], Config]:
    return lambda config: {new if key == old else key: value for key, value in config.items()}


def _batch_normalization(config: Config) -> Config:
    axis = config.get("axis", -1)
    if isinstance(axis, list) and len(axis) != 1:
        raise LoadError(f"Layer {config.get('name')!r} normalizes over the axes {axis}; Keras 3 takes one axis.")
    return {**_without("renorm")(config), "axis": axis[0] if isinstance(axis, list) else axis}


def _gru(config: Config) -> Config:
    # Written since Keras 2.1.3; before, the reset gate always came before the multiplication.
    return {"reset_after": False, **config}


def _cudnn_gru(config: Config) -> Config:
    return {**config, "reset_after": True, "recurrent_activation": "sigmoid"}


def _cudnn_lstm(config: Config) -> Config:
    return {**config, "recurrent_activation": "sigmoid"}


def _scalar(name: str) -> Callable[[Config], Config]:
    def quirk(config: Config) -> Config:
        return {**config, name: float(config[name])} if config.get(name) is not None else config

    return quirk


def _leaky_relu(config: Config) -> Config:
    return _scalar("negative_slope")(_renamed("alpha", "negative_slope")(config))


def _relu(config: Config) -> Config:
    for name in ("max_value", "negative_slope", "threshold"):
        config = _scalar(name)(config)
    return config


def _lambda(config: Config) -> Config:
    """Bring stored bytecode into the form of Keras 3; reached only with safe mode off."""
    config = _without("module", "function_type", "output_shape_type", "output_shape_module")(config)
    for key in ("function", "output_shape"):
        code = config.get(key)
        if isinstance(code, list) and len(code) == 3 and isinstance(code[0], str):
            parts = dict(zip(("code", "defaults", "closure"), code, strict=True))
            config[key] = {"class_name": "__lambda__", "config": parts}
    return config


_no_kernel_options = _without("groups", "kernel_regularizer", "kernel_constraint")

_QUIRKS: dict[str, Callable[[Config], Config]] = {
    "BatchNormalization": _batch_normalization,
    "BatchNormalizationV1": _batch_normalization,
    "BatchNormalizationV2": _batch_normalization,
    "Conv1DTranspose": _without("groups"),
    "Conv2DTranspose": _without("groups"),
    "Conv3DTranspose": _without("groups"),
    "Conv2DTransposeV1": _without("groups"),
    "ConvLSTM2D": _without("groups"),
    "CuDNNGRU": _cudnn_gru,
    "CuDNNLSTM": _cudnn_lstm,
    "DepthwiseConv1D": _no_kernel_options,
    "DepthwiseConv2D": _no_kernel_options,
    "GRU": _gru,
    "GRUCell": _gru,
    "InputLayer": _without("ragged"),
    "Lambda": _lambda,
    "LeakyReLU": _leaky_relu,
    "MultiHeadAttention": _without("query_shape", "key_shape", "value_shape", "softmax_robust_masking"),
    "ReLU": _relu,
    "SeparableConv1D": _no_kernel_options,
    "SeparableConv2D": _no_kernel_options,
    "SpatialDropout1D": _without("trainable", "noise_shape"),
    "SpatialDropout2D": _without("trainable", "noise_shape"),
    "SpatialDropout3D": _without("trainable", "noise_shape"),
    "ThresholdedReLU": _renamed("theta", "threshold"),
}

_RENAMED = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
    "ThresholdedReLU": "ReLU",
}

_REBUILD = "rebuild this part with the layers of Keras 3 and train or copy the weights again."
_NO_COUNTERPART = {
    "AtrousConvolution2D": "use Conv2D with `dilation_rate`; " + _REBUILD,
    "Highway": _REBUILD,
    "LocallyConnected1D": _REBUILD,
    "LocallyConnected2D": _REBUILD,
    "MaxoutDense": _REBUILD,
    "Merge": "merge layers became Add, Concatenate and others in Keras 2; " + _REBUILD,
    "TensorFlowOpLayer": "it holds a raw TensorFlow operation; write it with `keras.ops`.",
}
