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

# Layers that move, compare, add or scale values, and augmentation, which does nothing in inference.
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
    Rescaling Normalization CenterCrop Resizing Discretization CategoryEncoding HashedCrossing Hashing IntegerLookup
    StringLookup AugMix AutoContrast CutMix Equalization MaxNumBoundingBoxes MixUp RandAugment RandomBrightness
    RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip
    RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
    RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom Solarization
"""
# Operations of `keras.ops` that do the same.
_OPERATIONS = """
    Divide TrueDivide FloorDivide Mod Negative Absolute Power Square Sqrt Rsqrt Reciprocal Exp Expm1 Log Log1p Sin Cos
    Erf Sign Floor Ceil Round Clip Where Mean Sum Max Min Prod Var Std Any All Argmax Argmin Cumsum Logsumexp
    Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr LogicalNot
    ExpandDims Squeeze Transpose Stack Split GetItem BroadcastTo Pad Cast Tile Repeat Roll Flip Take TakeAlongAxis
    Swapaxes Moveaxis OneHot ZerosLike OnesLike Arange Shape StopGradient Ravel
    Relu Relu6 Sigmoid Tanh Gelu Silu HardSigmoid HardSilu Softplus Softsign LeakyRelu Elu Selu LogSoftmax
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


def product(dimensions: Iterable[int | None]) -> int | None:
    """Return the product, or `None` if a factor is unknown."""
    known = []
    for dimension in dimensions:
        if dimension is None:
            return None
        known.append(dimension)
    return math.prod(known)


def divide_axes(shape: Shape, config: Config) -> tuple[Shape, int | None]:
    """Return the spatial dimensions and the number of channels."""
    if config["data_format"] == "channels_first":
        return shape[2:], shape[1]
    return shape[1:-1], shape[-1]


def _convolution(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count output positions x filters x kernel size x input channels of a group."""
    positions, filters = divide_axes(output, config)
    channels = divide_axes(inputs[0], config)[1]
    total = product((*positions, filters, *config["kernel_size"], channels))
    return None if total is None else total // config["groups"]


def _depthwise(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count output positions x output channels x kernel size: every output channel reads one input channel."""
    positions = divide_axes(output, config)[0]
    channels = divide_axes(inputs[0], config)[1]
    return product((*positions, channels, config["depth_multiplier"], *config["kernel_size"]))


def _separable(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the depthwise convolution and the 1x1 convolution after it."""
    depthwise = _depthwise(config, inputs, output)
    positions, filters = divide_axes(output, config)
    channels = divide_axes(inputs[0], config)[1]
    pointwise = product((*positions, channels, config["depth_multiplier"], filters))
    return None if depthwise is None or pointwise is None else depthwise + pointwise


def _transposed_convolution(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count input positions x kernel size x channels in and out: every input value is spread over a kernel."""
    positions, channels = divide_axes(inputs[0], config)
    return product((*positions, channels, config["filters"], *config["kernel_size"]))


def _dense(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    return product((*output[1:], inputs[0][-1]))


def _einsum_dense(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the size of the index space of the equation, every index once, with a batch of one."""
    left, result = config["equation"].replace(" ", "").split("->")
    operand = left.split(",")[0]
    made, read = _index_sizes(result, (1, *output[1:])), _index_sizes(operand, (1, *inputs[0][1:]))
    # Keras gives `None` for an axis of the output that it takes over from the input.
    return product(read.get(index) or made.get(index) for index in {**made, **read})


def einsum_dense_output(config: Config, given: Shape, output: Shape) -> Shape:
    """Return the shape of the output with the sizes that Keras leaves open and takes over from the input."""
    left, result = config["equation"].replace(" ", "").split("->")
    operand = left.split(",")[0]
    if "..." in result:
        return output
    sizes = dict(zip(operand, given, strict=True))
    return tuple(sizes.get(index) if size is None else size for index, size in zip(result, output, strict=True))


def _index_sizes(term: str, shape: Shape) -> dict[str, int | None]:
    if "..." not in term:
        return dict(zip(term, shape, strict=True))
    head, tail = term.split("...")
    split = len(shape) - len(tail)
    return {
        **dict(zip(head, shape, strict=False)),
        "...": product(shape[len(head) : split]),
        **dict(zip(tail, shape[split:], strict=True)),
    }


def _attention(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the four projections, the scores of every pair of positions and the weighted sums."""
    query, value, key = (*inputs, inputs[1])[:3]
    heads, key_size, value_size = config["num_heads"], config["key_dim"], config["value_dim"] or config["key_dim"]
    axes = config["attention_axes"] or range(1, len(query) - 1)
    attended = (axes,) if isinstance(axes, int) else tuple(axes)
    others = [axis for axis in range(1, len(query) - 1) if axis not in attended]
    pairs = product(
        (*(query[axis] for axis in attended), *(value[axis] for axis in attended), *(query[axis] for axis in others))
    )
    projections = (
        product((*query[1:], heads, key_size)),
        product((*key[1:], heads, key_size)),
        product((*value[1:], heads, value_size)),
        product((*query[1:-1], heads, value_size, *output[len(query) - 1 :])),
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
    return None if step is None else product((inputs[0][1], step))


def wrapped_layer(
    count: Callable[[str, Config, tuple[Shape, ...], Shape], int | None],
    serialized: Config,
    inputs: tuple[Shape, ...],
    output: Shape,
) -> int | None:
    """Return the count of a layer in the serialized form that wrappers keep; `None` for a class of the user."""
    if serialized["module"] != "keras.layers":
        return None
    return count(serialized["class_name"], serialized["config"], inputs, output)


def _wrapped(serialized: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    return wrapped_layer(layer_macs, serialized, inputs, output)


def _plain_attention(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the scores of every pair of positions and the weighted sums; nothing is projected."""
    query, value = inputs[0], inputs[1]
    pairs = product((query[1], value[1]))
    widths = product((query[-1],)), product((value[-1],))
    return None if pairs is None or None in widths else pairs * sum(width or 0 for width in widths)


def _grouped_attention(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the four projections, of which keys and values have fewer heads, the scores and the weighted sums."""
    query, value, key = (*inputs, inputs[1])[:3]
    heads, groups, size = config["num_query_heads"], config["num_key_value_heads"], config["head_dim"]
    counts = (
        product((*query[1:], heads, size)),
        product((*key[1:], groups, size)),
        product((*value[1:], groups, size)),
        product((*query[1:], heads, size)),
        product((query[1], value[1], heads, 2 * size)),
    )
    return None if None in counts else sum(count or 0 for count in counts)


def _conv_lstm(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count four gates of a convolution of the input and of the state, in every step."""
    state = output[2:] if config["return_sequences"] else output[1:]
    positions, filters = (state[1:], state[0]) if config["data_format"] == "channels_first" else (state[:-1], state[-1])
    steps, channels = inputs[0][1], divide_axes((None, *inputs[0][2:]), config)[1]
    if channels is None or filters is None:
        return None
    return product((steps, 4, *positions, filters, *config["kernel_size"], channels + filters))


def _dot_layer(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the entries of the output times the length of the axis that is summed over."""
    axes = config["axes"]
    axis = axes if isinstance(axes, int) else axes[0]
    return product((*output[1:], inputs[0][axis]))


def _einsum(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the size of the index space, every index once, with a batch of one."""
    operands, result = config["subscripts"].replace(" ", "").split("->")
    sizes = _index_sizes(result, (1, *output[1:]))
    for term, shape in zip(operands.split(","), inputs, strict=True):
        sizes = {**_index_sizes(term, tuple(1 if size is None else size for size in shape)), **sizes}
    return product(sizes.values())


def _convolution_operation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count output positions times the entries of the kernel, the second operand."""
    channels_first = config["data_format"] == "channels_first"
    return product((*(output[2:] if channels_first else output[1:-1]), *inputs[1]))


def _rnn(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count steps x gates x units x (features + units) of each of the cells."""
    steps, features = inputs[0][1:]
    cells = [config["cell"]]
    if cells[0]["class_name"] == "StackedRNNCells":
        cells = cells[0]["config"]["cells"]
    total = 0
    for cell in cells:
        gates = _GATES.get(cell["class_name"]) if cell["module"] == "keras.layers" else None
        if gates is None or steps is None or features is None:
            return None
        units = int(cell["config"]["units"])
        total += steps * gates * units * (features + units)
        features = units
    return total


_GATES = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1}


def _inside(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the layer that is wrapped: its kernel is normalized in training only."""
    return _wrapped(config["layer"], inputs, output)


def _matrix_product(config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Count the entries of the output times the last axis of the first operand."""
    return product((*output[1:], inputs[0][-1]))


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
    "GroupedQueryAttention": _grouped_attention,
    "Attention": _plain_attention,
    "AdditiveAttention": _plain_attention,
    "ConvLSTM1D": _conv_lstm,
    "ConvLSTM2D": _conv_lstm,
    "ConvLSTM3D": _conv_lstm,
    "Dot": _dot_layer,
    "RNN": _rnn,
    "SpectralNormalization": _inside,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "SimpleRNN": _recurrent(1),
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
}
# Operations of `keras.ops`, whose config is what they were made with and whose inputs are all operands.
_OPERATION_FORMULAS: dict[str, Callable[[Config, tuple[Shape, ...], Shape], int | None]] = {
    "Matmul": _matrix_product,
    "Dot": _matrix_product,
    "Einsum": _einsum,
    "Conv": _convolution_operation,
    "DepthwiseConv": _convolution_operation,
}


def operation_macs(type_name: str, config: Config, inputs: tuple[Shape, ...], output: Shape) -> int | None:
    """Return the multiply-accumulates of an operation of `keras.ops`; arguments as of `layer_macs`."""
    if type_name in WITHOUT_MACS:
        return 0
    formula = _OPERATION_FORMULAS.get(type_name)
    return formula(config, inputs, output) if formula else None
