"""Which rule follows channels through which layer of Keras and which operation of `keras.ops`."""

from collections.abc import Callable, Sequence

import keras

from kopt.graph.channels import convolutions, normalizations, projections, shapes, wrappers
from kopt.graph.channels.ledger import Visit
from kopt.graph.channels.maps import Channels

Rule = Callable[[Visit], Channels | Sequence[Channels]]

_DIMENSIONS = ("1D", "2D", "3D")


def _every(*names: str) -> list[str]:
    return [f"{name}{dimensions}" for name in names for dimensions in _DIMENSIONS]


LAYERS: dict[str, Rule] = {
    **dict.fromkeys(_every("Conv"), convolutions.convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), convolutions.depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), convolutions.separable),
    **{f"Conv{dimensions}Transpose": convolutions.transposed for dimensions in _DIMENSIONS},
    "Dense": projections.dense,
    "EinsumDense": projections.einsum_dense,
    "Embedding": projections.embedding,
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), projections.recurrent),
    "MultiHeadAttention": projections.multi_head_attention,
    "BatchNormalization": normalizations.batch_normalization,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), normalizations.layer_normalization),
    "GroupNormalization": normalizations.group_normalization,
    "PReLU": normalizations.prelu,
    "LayerScale": normalizations.layer_scale,
    "Rescaling": normalizations.rescaling,
    "Activation": shapes.activation,
    "Softmax": shapes.softmax,
    **dict.fromkeys(("ReLU", "LeakyReLU", "ELU", "Identity", "ActivityRegularization", "StochasticDepth"), shapes.same),
    **dict.fromkeys(("Dropout", "AlphaDropout"), shapes.dropout),
    **dict.fromkeys(("GaussianDropout", "GaussianNoise"), shapes.same),
    **dict.fromkeys(_every("SpatialDropout"), shapes.spatial),
    **dict.fromkeys(_every("AveragePooling", "MaxPooling", "ZeroPadding", "Cropping", "UpSampling"), shapes.spatial),
    **dict.fromkeys(_every("GlobalAveragePooling", "GlobalMaxPooling"), shapes.global_pooling),
    "Flatten": shapes.flatten,
    "Reshape": shapes.reshape,
    "Permute": shapes.permute,
    "RepeatVector": shapes.repeat_vector,
    "Concatenate": shapes.concatenate,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), shapes.elementwise),
    "CustomScaleLayer": shapes.elementwise,  # of InceptionResNetV2: the first input and a part of the second
}
_BINARY = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "DivideNoNan", "Maximum", "Minimum", "Power")
_UNARY = (
    *("Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "HardSigmoid", "HardSilu", "HardTanh", "Gelu", "Elu", "Selu", "Celu"),
    *("LeakyRelu", "Softplus", "Softsign", "LogSigmoid", "SoftShrink", "HardShrink", "TanhShrink", "Squareplus"),
    *("Abs", "Absolute", "Negative", "Square", "Sqrt", "Rsqrt", "Exp", "Log", "Log1p", "Expm1", "Clip", "Cast"),
    *("Sign", "Round", "Floor", "Ceil", "Reciprocal", "Sin", "Cos", "StopGradient", "Erf"),
)
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(_BINARY, shapes.elementwise),
    **dict.fromkeys(_UNARY, shapes.same),
    **dict.fromkeys(("Softmax", "LogSoftmax"), shapes.softmax),
    **dict.fromkeys(("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Prod", "Var", "Std"), shapes.reduction),
    "Reshape": shapes.reshape_operation,
    "Transpose": shapes.transpose,
    "ExpandDims": shapes.expand_dims,
    "Squeeze": shapes.squeeze,
    "GetItem": shapes.getitem,
    "Pad": shapes.pad,
    "Concatenate": shapes.concatenate,
}


def _time_distributed(visit: Visit) -> list[Channels]:
    return wrappers.time_distributed(visit, rule_of(visit.operation.layer))


LAYERS["TimeDistributed"] = _time_distributed
LAYERS["Bidirectional"] = wrappers.bidirectional


def rule_of(operation: keras.Operation) -> Rule | None:
    """Return the rule of a layer or operation of Keras; `None` if there is none, or for a class of the user."""
    kind = type(operation)
    if not kind.__module__.startswith("keras."):
        return None  # A user's class may bear the name of a Keras layer and do something else.
    return (LAYERS if isinstance(operation, keras.layers.Layer) else OPERATIONS).get(kind.__name__)
