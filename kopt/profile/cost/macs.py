"""Multiply-accumulates of Keras layers, by arithmetic on configs and shapes.

One multiply-accumulate (MAC) is one multiplication with the addition that follows it. Counted are the products of
inputs with weights, and of activations with each other inside attention; additions of biases, activation functions,
normalization and pooling are not, as is usual where published figures come from (MobileNetV2 at 224x224: 300 million;
Sandler et al. 2018, table 4). All shapes carry the batch axis first and all counts are for one example.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int | None, ...]
Config: TypeAlias = Mapping[str, Any]

# Layers that move, compare, add or scale values.
_LAYERS = """
    InputLayer Activation ReLU LeakyReLU PReLU ELU Softmax ActivityRegularization Identity Masking Embedding
    Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout GaussianNoise AlphaDropout
    BatchNormalization LayerNormalization GroupNormalization RMSNormalization UnitNormalization
    Add Subtract Multiply Average Maximum Minimum Concatenate
    Flatten Reshape Permute RepeatVector Cropping1D Cropping2D Cropping3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    UpSampling1D UpSampling2D UpSampling3D
    MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D
    AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
    Rescaling Normalization CenterCrop RandomCrop RandomFlip RandomBrightness RandomContrast
"""
# Operations of `keras.ops` that do the same.
_OPERATIONS = """
    Divide TrueDivide Negative Absolute Power Square Sqrt Rsqrt Exp Log Clip Where Mean Sum Max Min
    ExpandDims Squeeze Transpose Stack Split GetItem BroadcastTo Pad Cast
    Relu Relu6 Sigmoid Tanh Gelu Silu HardSigmoid HardSilu Softplus LeakyRelu Elu
"""
WITHOUT_MACS = frozenset((_LAYERS + _OPERATIONS).split())


def layer_macs(type_name: str, config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Return the multiply-accumulates of one call of a layer for one example.

    Args:
        type_name: class name of a layer that comes with Keras.
        config: its `get_config()`.
        inputs: shapes of its inputs, batch axis first; for `MultiHeadAttention` query, value and key.
        output: shape of its first output.

    Returns:
        The count; `None` if there is no formula for the type or a dimension that it needs is `None`.
    """
    if type_name in WITHOUT_MACS:
        return 0
    formula = _FORMULAS.get(type_name)
    return formula(config, inputs, output) if formula else None


def _product(dimensions: Iterable[int | None]) -> int | None:
    """Return the product, or `None` if a factor is unknown."""
    known = []
    for dimension in dimensions:
        if dimension is None:
            return None
        known.append(dimension)
    return math.prod(known)


def _divide_axes(shape: Shape, config: Config) -> tuple[Shape, int | None]:
    """Return the spatial dimensions and the number of channels."""
    if config["data_format"] == "channels_first":
        return shape[2:], shape[1]
    return shape[1:-1], shape[-1]


def _convolution(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count output positions x filters x kernel size x input channels of a group."""
    positions, filters = _divide_axes(output, config)
    channels = _divide_axes(inputs[0], config)[1]
    total = _product((*positions, filters, *config["kernel_size"], channels))
    return None if total is None else total // config["groups"]


def _depthwise(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count output positions x output channels x kernel size: every output channel reads one input channel."""
    positions = _divide_axes(output, config)[0]
    channels = _divide_axes(inputs[0], config)[1]
    return _product((*positions, channels, config["depth_multiplier"], *config["kernel_size"]))


def _separable(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the depthwise convolution and the 1x1 convolution after it."""
    depthwise = _depthwise(config, inputs, output)
    positions, filters = _divide_axes(output, config)
    channels = _divide_axes(inputs[0], config)[1]
    pointwise = _product((*positions, channels, config["depth_multiplier"], filters))
    return None if depthwise is None or pointwise is None else depthwise + pointwise


def _transposed_convolution(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count input positions x kernel size x channels in and out: every input value is spread over a kernel."""
    positions, channels = _divide_axes(inputs[0], config)
    return _product((*positions, channels, config["filters"], *config["kernel_size"]))


def _dense(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    return _product((*output[1:], inputs[0][-1]))


def _einsum_dense(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the size of the index space of the equation, every index once, with a batch of one."""
    left, result = config["equation"].replace(" ", "").split("->")
    operand = left.split(",")[0]
    made, read = _index_sizes(result, (1, *output[1:])), _index_sizes(operand, (1, *inputs[0][1:]))
    # Keras gives `None` for an axis of the output that it takes over from the input.
    return _product(read.get(index) or made.get(index) for index in {**made, **read})


def _index_sizes(term: str, shape: Shape) -> dict[str, int | None]:
    if "..." not in term:
        return dict(zip(term, shape, strict=True))
    head, tail = term.split("...")
    split = len(shape) - len(tail)
    return {
        **dict(zip(head, shape, strict=False)),
        "...": _product(shape[len(head) : split]),
        **dict(zip(tail, shape[split:], strict=True)),
    }


def _attention(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the four projections, the scores of every pair of positions and the weighted sums."""
    query, value, key = (*inputs, inputs[1])[:3]
    heads, key_size, value_size = config["num_heads"], config["key_dim"], config["value_dim"] or config["key_dim"]
    axes = config["attention_axes"] or range(1, len(query) - 1)
    attended = (axes,) if isinstance(axes, int) else tuple(axes)
    others = [axis for axis in range(1, len(query) - 1) if axis not in attended]
    pairs = _product(
        (*(query[axis] for axis in attended), *(value[axis] for axis in attended), *(query[axis] for axis in others))
    )
    projections = (
        _product((*query[1:], heads, key_size)),
        _product((*key[1:], heads, key_size)),
        _product((*value[1:], heads, value_size)),
        _product((*query[1:-1], heads, value_size, *output[len(query) - 1 :])),
    )
    if pairs is None or None in projections:
        return None
    return sum(count or 0 for count in projections) + pairs * heads * (key_size + value_size)


def _recurrent(gates: int) -> Callable[[Config, tuple[Shape, ...], Shape], int | None]:
    """Count steps x gates x units x (features + units)."""

    def count(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
        steps, features = inputs[0][1:]
        if steps is None or features is None:
            return None
        return steps * gates * int(config["units"]) * (features + int(config["units"]))

    return count


def _bidirectional(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    forward = _wrapped(config["layer"], inputs, output)
    backward = _wrapped(config.get("backward_layer") or config["layer"], inputs, output)
    return None if forward is None or backward is None else forward + backward


def _time_distributed(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    step = _wrapped(config["layer"], ((inputs[0][0], *inputs[0][2:]),), (output[0], *output[2:]))
    return None if step is None else _product((inputs[0][1], step))


def _wrapped(serialized: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    if serialized["module"] != "keras.layers":
        return None
    return layer_macs(serialized["class_name"], serialized["config"], inputs, output)


_FORMULAS: dict[str, Callable[[Config, tuple[Shape, ...], Shape], int | None]] = {
    "Conv1D": _convolution,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "Conv1DTranspose": _transposed_convolution,
    "Conv2DTranspose": _transposed_convolution,
    "Conv3DTranspose": _transposed_convolution,
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    "MultiHeadAttention": _attention,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "SimpleRNN": _recurrent(1),
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
}
