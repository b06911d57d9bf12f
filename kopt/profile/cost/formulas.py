"""Which formula belongs to which layer of Keras and which operation of `keras.ops`.

A multiply-accumulate (MAC) is a product with the addition that follows it. Counted are products of inputs with weights,
and of activations with each other inside attention, as is usual where published figures come from (MobileNetV2 at
224x224: 300 million; Sandler et al. 2018, table 4). What counts besides, and how, is said in `elementwise`.
"""

from collections.abc import Mapping
from typing import Any

from kopt.profile.cost import attention, contraction, convolution, elementwise, recurrent
from kopt.profile.cost.shapes import Config, Cost, Formula, Shape, known, product


def layer_cost(type_name: str, config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """Return what one call of a layer costs.

    Args:
        type_name: class name of a layer that comes with Keras.
        config: its `get_config()`.
        inputs: shapes of its inputs with the batch axis; for attention those of query, value and key.
        output: shape of its first output.

    Returns:
        The cost of the whole batch; `None` if there is no formula.

    Raises:
        OpenSizeError: a size that it needs is `None`.
    """
    formula = LAYERS.get(type_name)
    return formula(config, inputs, output) if formula else None


def operation_cost(type_name: str, config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """Return what one call of an operation of `keras.ops` costs; see `layer_cost`.

    Args:
        type_name: class name of the operation.
        config: the settings it was made with, by name.
        inputs: shapes of all operands, constants too.
        output: shape of its first output.
    """
    formula = OPERATIONS.get(type_name)
    if formula is None or len(inputs) < _OPERANDS.get(type_name, 1):
        return None
    return formula(config, inputs, output)


def _bidirectional(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """Both directions; of the merged output, an operation an entry where it is not concatenated."""
    concatenated = config["merge_mode"] == "concat"  # along the last axis, whatever it numbers
    one_way = (*output[:-1], known(output[-1]) // 2) if concatenated else output
    forward = _wrapped(config["layer"], inputs, one_way)
    backward = _wrapped(config.get("backward_layer") or config["layer"], inputs, one_way)
    if forward is None or backward is None:
        return None
    merged = {"sum": 1, "mul": 1, "ave": 2}.get(config["merge_mode"], 0)
    return forward.plus(backward).plus(Cost(0, merged * product(output) if merged else 0))


def _time_distributed(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    step = _wrapped(config["layer"], ((inputs[0][0], *inputs[0][2:]),), (output[0], *output[2:]))
    return None if step is None else step.times(known(inputs[0][1]))


def _inside(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """The layer that is wrapped: its kernel is normalized in training only."""
    return _wrapped(config["layer"], inputs, output)


def _wrapped(serialized: Mapping[str, Any], inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """Return the cost of a layer in the serialized form that wrappers keep; `None` for a class of the user."""
    if serialized["module"] != "keras.layers":
        return None
    return layer_cost(serialized["class_name"], serialized["config"], inputs, output)


LAYERS: dict[str, Formula] = {
    **elementwise.LAYERS,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), convolution.convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), convolution.depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), convolution.separable),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), convolution.transposed),
    "Dense": contraction.dense,
    "EinsumDense": contraction.einsum_dense,
    "Dot": contraction.dot_layer,
    "MultiHeadAttention": attention.multi_head,
    "GroupedQueryAttention": attention.grouped,
    "Attention": attention.plain,
    "AdditiveAttention": attention.additive,
    **{kind: recurrent.layer(kind) for kind in ("LSTM", "GRU", "SimpleRNN")},
    **{f"{kind}Cell": recurrent.cell(kind) for kind in ("LSTM", "GRU", "SimpleRNN")},
    "RNN": recurrent.rnn,
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), recurrent.convolutional),
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
    "SpectralNormalization": _inside,
}
OPERATIONS: dict[str, Formula] = {
    **elementwise.OPERATIONS,
    **dict.fromkeys(("Matmul", "Dot", "Inner"), contraction.matrix_product),
    "Outer": contraction.outer_product,
    "Vdot": contraction.inner_product_of_all,
    "Tensordot": contraction.tensordot,
    "Einsum": contraction.einsum,
    "Conv": convolution.convolution_operation,
    "DepthwiseConv": convolution.depthwise_operation,
    "SeparableConv": convolution.separable_operation,
    "ConvTranspose": convolution.transposed_operation,
    "DotProductAttention": attention.operation,
}
# How many operands a formula looks at.
_OPERANDS = {
    **dict.fromkeys(("Matmul", "Dot", "Inner", "Conv", "DepthwiseConv", "ConvTranspose"), 2),
    "SeparableConv": 3,
    "DotProductAttention": 3,
}
