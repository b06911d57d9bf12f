"""What layers and operations without a kernel do to ranges: a row for each class."""

from typing import Any

import keras

from kopt.graph.activation_functions import keras_activation
from kopt.quantize.activations import ending_of
from kopt.quantize.steps import (
    ARITHMETIC,
    AVERAGED,
    INTERPOLATED,
    NONE,
    OBSERVED,
    SAME,
    TIED,
    UNTIED,
    VANISHING,
    Role,
    left,
)

L = keras.layers
# Layers that move values without computing new ones.
_MOVING = (
    *("Flatten", "Reshape", "Permute", "RepeatVector"),
    *("Cropping1D", "Cropping2D", "Cropping3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "CenterCrop"),
    *("MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "UpSampling1D", "UpSampling3D"),
)
# Layers that inference passes through.
_VANISHING = (
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise"),
    *("AlphaDropout", "StochasticDepth", "Identity", "ActivityRegularization"),
)
_ONE_OPERATOR = ("LeakyReLU", "Embedding", "GlobalAveragePooling1D", "GlobalAveragePooling2D")
_OPERATIONS = {
    **dict.fromkeys(("Add", "Subtract", "Multiply"), ARITHMETIC),
    **dict.fromkeys(("Reshape", "Transpose", "Squeeze", "ExpandDims", "GetItem", "Pad", "Repeat", "Split"), SAME),
    **dict.fromkeys(("Max", "Min", "MaxPool"), SAME),
    "AveragePool": AVERAGED,
    **dict.fromkeys(("Concatenate", "Maximum", "Minimum", "Stack"), TIED),
    **dict.fromkeys(("Mean", "Matmul"), OBSERVED),
}
# Of 8 bits the kernels of LiteRT look these up in a table, or have integers for them.
_OF_8_BITS = {**dict.fromkeys(("Absolute", "Exp", "Log", "Rsqrt", "Sum"), OBSERVED), "Tile": SAME}
DIVISIONS = ("Divide", "TrueDivide")
_FUNCTIONS = ("relu", "relu6", "sigmoid", "softmax", "tanh", "silu", "hard_sigmoid", "hard_silu", "gelu", "leaky_relu")


def role_of(operation: Any, bits: int) -> Role:
    """Return the role of a layer or operation without a kernel."""
    role = _role_of(operation, bits)
    if role is TIED and bits == 16:
        return left(UNTIED)
    return role


def _role_of(operation: Any, bits: int) -> Role:
    if isinstance(operation, L.Layer):
        row = _LAYERS.get(type(operation)) or (_LAYERS.get(_name(operation)) if _is_keras(operation) else None)
        if row is None:
            return left("no rule says how TFLite computes it")
        return row(operation, bits) if callable(row) else row
    name = _name(operation)
    if name == "Flip":
        return left("TFLite reverses no integers") if bits == 8 else SAME
    if name in _OPERATIONS:
        return _OPERATIONS[name]
    if name in _OF_8_BITS and bits == 8:
        return _OF_8_BITS[name]
    function = activation_of(operation)
    return left("no rule says how TFLite computes it") if function is None else activation_role(function, bits)


def activation_of(operation: Any) -> Any:
    """Return the activation that a layer or operation is, if it has no settings that change it; else `None`."""
    if type(operation) is L.Activation:
        return keras_activation(operation.activation)
    if type(operation) is L.ReLU and not operation.negative_slope and not operation.threshold:
        ends = {None: keras.activations.relu, 6.0: keras.activations.relu6}
        return ends.get(operation.max_value)
    if type(operation) is L.Softmax:
        return keras.activations.softmax if operation.axis == -1 else None
    names = {name.replace("_", ""): name for name in _FUNCTIONS}
    name = names.get(_name(operation).lower())
    if isinstance(operation, L.Layer) or name is None:
        return None
    return getattr(keras.activations, name)


def activation_role(function: Any, bits: int) -> Role:
    """Return the role of an activation, a function or a layer."""
    if isinstance(function, L.Layer):
        return role_of(function, bits)
    if keras_activation(function) is keras.activations.linear:
        return VANISHING
    ending = ending_of(function, bits)
    if ending.unfit:
        return left(ending.unfit)
    return Role("fixed" if ending.range else "observed", ending.range, is_activation=ending.fuses)


def _activation(operation: Any, bits: int) -> Role:
    function = activation_of(operation)
    if function is None:
        return _bent_line(operation) if type(operation) is L.ReLU else left("TFLite computes it in several operators")
    return activation_role(function, bits)


def _bent_line(operation: Any) -> Role:
    """Return the role of a ReLU with settings: of a slope or a threshold there are integers, of another end not."""
    if operation.max_value is None:
        return OBSERVED
    return left(f"TFLite has no integer ReLU that ends at {operation.max_value:g}, or of 6 with a slope")


def _prelu(operation: Any, bits: int) -> Role:
    return OBSERVED if bits == 8 else left("the TFLite converter has no PReLU of 16 bits")


def _enlarging(operation: Any, bits: int) -> Role:
    if bits == 16 and operation.interpolation == "nearest":
        return left("the TFLite converter has no repetition of 16 bits")
    return SAME if operation.interpolation == "nearest" else INTERPOLATED


def _elu(operation: Any, bits: int) -> Role:
    return left("TFLite has no integer ELU")


def _is_keras(operation: Any) -> bool:
    return type(operation).__module__.startswith("keras.")


def _name(operation: Any) -> str:
    return type(operation).__name__


_LAYERS: dict[Any, Any] = {
    **dict.fromkeys(_MOVING, SAME),
    **dict.fromkeys(_VANISHING, VANISHING),
    **dict.fromkeys(_ONE_OPERATOR, OBSERVED),
    **dict.fromkeys(("AveragePooling1D", "AveragePooling2D"), AVERAGED),
    **dict.fromkeys(("Concatenate", "Maximum", "Minimum"), TIED),
    **dict.fromkeys(("Add", "Subtract", "Multiply"), ARITHMETIC),
    **{name: SAME for name in dir(L) if name.startswith("Random")},
    "PReLU": _prelu,
    "UpSampling2D": _enlarging,
    "Resizing": INTERPOLATED,
    "Activation": _activation,
    "ReLU": _activation,
    "Softmax": _activation,
    "ELU": _elu,
    "NotEqual": NONE,
}
