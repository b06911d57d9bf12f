"""Floating-point operations besides multiply-accumulates, by arithmetic on configs and shapes.

One operation on one entry counts one: an addition, a comparison, an exponential, a whole activation function. So a
layer takes `2 * macs + elementwise` operations. Moving and casting numbers counts nothing. Counted are inference steps:
dropout and augmentation do nothing, batch normalization is a scale and a shift.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from kopt.profile.cost.macs import Config, Shape, product, wrapped_layer

Count: TypeAlias = Callable[[Config, tuple[Shape, ...], Shape], int | None]

# Operations on an entry of the output.
_OUTPUT_ENTRY = {
    "ReLU": 1, "LeakyReLU": 2, "PReLU": 2, "ELU": 3, "Softmax": 3, "Rescaling": 2, "Normalization": 2,
    "BatchNormalization": 2, "LayerNormalization": 7, "GroupNormalization": 7, "RMSNormalization": 4,
    "UnitNormalization": 3, "Embedding": 0,
    # `keras.ops`: arithmetic and functions of one entry.
    "Add": 1, "Subtract": 1, "Multiply": 1, "Divide": 1, "TrueDivide": 1, "FloorDivide": 1, "Mod": 1, "Negative": 1,
    "Absolute": 1, "Power": 1, "Square": 1, "Sqrt": 1, "Rsqrt": 2, "Reciprocal": 1, "Exp": 1, "Expm1": 1, "Log": 1,
    "Log1p": 1, "Sin": 1, "Cos": 1, "Erf": 1, "Sign": 1, "Floor": 1, "Ceil": 1, "Round": 1, "Clip": 2, "Where": 1,
    "Maximum": 1, "Minimum": 1, "Equal": 1, "NotEqual": 1, "Greater": 1, "GreaterEqual": 1, "Less": 1, "LessEqual": 1,
    "LogicalAnd": 1, "LogicalOr": 1, "LogicalNot": 1, "Relu": 1, "Relu6": 2, "Sigmoid": 1, "Tanh": 1, "Gelu": 1,
    "Silu": 1, "HardSigmoid": 3, "HardSilu": 4, "Softplus": 1, "Softsign": 1, "LeakyRelu": 2, "Elu": 3, "Selu": 3,
    "LogSoftmax": 4,
}  # fmt: skip
# Operations on an entry of the input: reductions.
_INPUT_ENTRY = {
    "Mean": 1, "Sum": 1, "Max": 1, "Min": 1, "Prod": 1, "Var": 3, "Std": 3, "Any": 1, "All": 1, "Argmax": 1,
    "Argmin": 1, "Cumsum": 1, "Logsumexp": 3, "GlobalMaxPooling1D": 1, "GlobalMaxPooling2D": 1,
    "GlobalMaxPooling3D": 1, "GlobalAveragePooling1D": 1, "GlobalAveragePooling2D": 1, "GlobalAveragePooling3D": 1,
    "AdaptiveMaxPooling1D": 1, "AdaptiveMaxPooling2D": 1, "AdaptiveMaxPooling3D": 1, "AdaptiveAveragePooling1D": 1,
    "AdaptiveAveragePooling2D": 1, "AdaptiveAveragePooling3D": 1,
}  # fmt: skip
_LINEAR = (None, "linear")


def layer_elementwise(type_name: str, config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Return the operations of one call of a layer for one example, besides its multiply-accumulates.

    Args:
        type_name: class name of a layer or operation that comes with Keras.
        config: its `get_config()`; empty for an operation.
        inputs: shapes of its inputs, batch axis first.
        output: shape of its first output.

    Returns:
        The count; `None` if a dimension that it needs is `None`.
    """
    special = _FORMULAS.get(type_name)
    if special is not None:
        return special(config, inputs, output)
    if config and type_name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"):
        return _times(len(inputs) - 1 + (type_name == "Average"), output)
    if type_name in _INPUT_ENTRY:
        return _times(_INPUT_ENTRY[type_name], inputs[0])
    return _times(_OUTPUT_ENTRY.get(type_name, 0), output)


def _times(count: int, shape: Shape) -> int | None:
    entries = product(shape[1:]) if count else 0
    return None if entries is None else count * entries


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _activation(config: Config) -> int:
    """Return operations on an entry: a softmax takes an exponential, a sum and a division."""
    activation = config.get("activation")
    if isinstance(activation, Mapping):  # A function or layer of its own.
        return 1
    return 0 if activation in _LINEAR else 3 if activation == "softmax" else 1


def _bias_and_activation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    bias = config.get("use_bias", config.get("bias_axes") is not None)
    return _times(int(bool(bias)) + _activation(config), output)


def _only_activation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    return _times(_activation(config), output)


def _pooling(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    return _times(math.prod(config["pool_size"]), output)


def _attention(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count a scale and a softmax on each score; biases of the projections are left out."""
    query, value = inputs[0], (*inputs, inputs[0])[1]
    axes = config.get("attention_axes") or range(1, len(query) - 1)
    attended = (axes,) if isinstance(axes, int) else tuple(axes)
    scores = product((*query[1:-1], *(value[axis] for axis in attended)))
    return None if scores is None else 4 * scores * int(config.get("num_heads") or config.get("num_query_heads") or 1)


def _recurrent(on_unit: int) -> Count:
    """Count operations on a unit in each step: biases and sums of the gates, their functions, the new state."""

    def count(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
        steps = inputs[0][1]
        return None if steps is None else steps * on_unit * int(config["units"])

    return count


def _upsampling(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    return _times(0 if config.get("interpolation", "nearest") == "nearest" else 7, output)


def _bidirectional(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    forward = wrapped_layer(layer_elementwise, config["layer"], inputs, output)
    other = config.get("backward_layer") or config["layer"]
    return _sum(forward, wrapped_layer(layer_elementwise, other, inputs, output))


def _time_distributed(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    one_step = ((inputs[0][0], *inputs[0][2:]),)
    step = wrapped_layer(layer_elementwise, config["layer"], one_step, (output[0], *output[2:]))
    return None if step is None else product((inputs[0][1], step))


def _conv_lstm(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count on each entry of the state, in each step, what an LSTM does on a unit."""
    state = (1, *(output[2:] if config["return_sequences"] else output[1:]))
    return _sum(*(_times(17, state) for _ in range(inputs[0][1] or 0))) if inputs[0][1] else None


_CONVOLUTIONS = [f"{kind}Conv{axes}D" for kind in ("", "Depthwise", "Separable") for axes in (1, 2, 3)]
_TRANSPOSED = [f"Conv{axes}DTranspose" for axes in (1, 2, 3)]
_FORMULAS: dict[str, Count] = {
    **dict.fromkeys([*_CONVOLUTIONS, *_TRANSPOSED, "Dense", "EinsumDense"], _bias_and_activation),
    "Activation": _only_activation,
    **dict.fromkeys([f"{kind}Pooling{axes}D" for kind in ("Max", "Average") for axes in (1, 2, 3)], _pooling),
    **dict.fromkeys(["MultiHeadAttention", "GroupedQueryAttention", "Attention", "AdditiveAttention"], _attention),
    **dict.fromkeys(["UpSampling2D", "Resizing"], _upsampling),
    # Sums of the input's, the state's product and the bias in each gate, the functions, and the new state.
    "LSTM": _recurrent(4 * 2 + 5 + 4),
    "GRU": _recurrent(3 * 2 + 3 + 4),
    "SimpleRNN": _recurrent(2 + 1),
    "ConvLSTM1D": _conv_lstm,
    "ConvLSTM2D": _conv_lstm,
    "ConvLSTM3D": _conv_lstm,
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
}


def wrapped_elementwise(serialized: Mapping[str, Any], inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Return the operations of a layer from its serialized form, as wrappers keep it."""
    return wrapped_layer(layer_elementwise, serialized, inputs, output)
