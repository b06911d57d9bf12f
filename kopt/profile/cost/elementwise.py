"""Operations on single entries, and layers that only move entries.

One operation on one entry counts one: an addition, a comparison, a function of one number however it is computed
(exponential, root, any activation function). A softmax counts three: exponential, sum, division. So a layer takes
`2 * macs + elementwise` operations. Moving, casting and drawing numbers count nothing. Counted are inference steps:
dropout and augmentation do nothing, and batch normalization is a scale and a shift.
"""

from collections.abc import Callable

from kopt.profile.cost.shapes import Config, Cost, Formula, Shape, activation, names, product

# Layers that move entries, or do nothing in inference; strings and integers are looked up, not computed with.
MOVING_LAYERS = frozenset(
    names(
        """
        InputLayer ActivityRegularization Identity Masking Embedding Dropout SpatialDropout1D SpatialDropout2D
        SpatialDropout3D GaussianDropout GaussianNoise AlphaDropout Concatenate Flatten Reshape Permute RepeatVector
        Cropping1D Cropping2D Cropping3D ZeroPadding1D ZeroPadding2D ZeroPadding3D UpSampling1D UpSampling3D
        CenterCrop Discretization CategoryEncoding HashedCrossing Hashing IntegerLookup StringLookup TextVectorization
        AugMix CutMix MaxNumBoundingBoxes MixUp RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter
        RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale
        RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness
        RandomShear RandomTranslation RandomZoom
        """
    )
)
# Operations of `keras.ops` that move entries.
MOVING_OPERATIONS = frozenset(
    names(
        """
        ExpandDims Squeeze Reshape Ravel Transpose Moveaxis Swapaxes Concatenate Append Stack Hstack Vstack Dstack
        Split ArraySplit Hsplit Vsplit Dsplit Unstack GetItem Slice BroadcastTo Pad Cast SaturateCast Tile Repeat Roll
        Flip Fliplr Flipud Rot90 Take TakeAlongAxis OneHot ZerosLike OnesLike FullLike EmptyLike Full Arange Copy View
        Shape Size Ndim StopGradient ConvertToTensor Diag Diagonal Diagflat Tril Triu Rearrange DepthToSpace
        SpaceToDepth Unfold ExtractPatches CropImages PadImages Real Imag Meshgrid
        """
    )
)
# Operations on an entry of the output.
_OUTPUT_ENTRY_OF_OPERATIONS = {
    **dict.fromkeys(
        names(
            """
            Add Subtract Multiply Divide TrueDivide FloorDivide DivideNoNan Mod Fmod Negative Abs Absolute Fabs Power
            Square Sqrt Cbrt Rsqrt Reciprocal Exp Exp2 Expm1 Log Log10 Log1p Log2 Logaddexp Logaddexp2 Sin Cos Tan
            Arcsin Arccos Arctan Arctan2 Sinh Cosh Tanh Arcsinh Arccosh Arctanh Sinc Hypot Erf Erfc Erfinv Sign
            Signbit Floor Ceil Round Trunc Clip Where Maximum Minimum Fmax Fmin Heaviside NanToNum Equal NotEqual
            Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr LogicalNot LogicalXor Isnan Isinf Isfinite
            Isposinf Isneginf Deg2rad Rad2deg Relu Relu6 Sigmoid Tanh Gelu Silu Celu Elu Selu Glu HardSigmoid HardSilu
            HardTanh HardShrink SoftShrink TanhShrink LeakyRelu LogSigmoid Softplus Softsign Squareplus SparsePlus
            SparseSigmoid Threshold
            """
        ),
        1,
    ),
    "Softmax": 3,
    "LogSoftmax": 3,
    "BatchNorm": 2,
}
# Operations on an entry of the input: reductions.
_INPUT_ENTRY_OF_OPERATIONS = {
    **dict.fromkeys(
        names("Mean Average Sum Max Min Amax Amin Prod Any All Argmax Argmin Cumsum Cumprod CountNonzero"), 1
    ),
    "Var": 3,
    "Std": 3,
    "Moments": 4,
    "Logsumexp": 2,
    "Normalize": 3,
    "Norm": 2,
    "LayerNorm": 7,
    "RMSNorm": 4,
}
_OUTPUT_ENTRY_OF_LAYERS = {
    **dict.fromkeys(names("ReLU LeakyReLU PReLU ELU"), 1),
    "Softmax": 3,
    "Rescaling": 2,
    "Normalization": 2,
    "BatchNormalization": 2,
    "RMSNormalization": 4,  # Square, sum, division, scale.
    "UnitNormalization": 3,  # Square, sum, division.
}


# The batch stays the first axis of what these give; of others, the shape tells only when a batch of one is put in.
KEEPING_THE_BATCH = frozenset((*_OUTPUT_ENTRY_OF_OPERATIONS, *_INPUT_ENTRY_OF_OPERATIONS, "Matmul", "Conv"))


def _on_output(count: int) -> Formula:
    return lambda config, inputs, output: Cost(0, count * product(output))


def _on_input(count: int) -> Formula:
    return lambda config, inputs, output: Cost(0, count * product(inputs[0]))


def _nothing(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    return Cost()


def _activation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    each = activation(config)
    return Cost(0, each * product(output) if each else 0)


def _merge(of_entry: int = 0) -> Formula:
    """Return the formula of a layer that joins all its inputs entry by entry, with so many operations at the end."""
    return lambda config, inputs, output: Cost(0, (len(inputs) - 1 + of_entry) * product(output))


def _pooling(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """A whole window for every entry of the output."""
    return Cost(0, product(config["pool_size"]) * product(output))


def _normalization(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """Mean, difference, square, mean, division; scale and shift if there are any."""
    return Cost(0, (5 + bool(config["scale"]) + bool(config["center"])) * product(output))


def _resizing(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """Three interpolations of two operations and more for a bilinear entry."""
    each = {"nearest": 0, "bilinear": 7}.get(config["interpolation"])
    return None if each is None else Cost(0, each * product(output) if each else 0)


def _each(kinds: str, axes: tuple[int, ...] = (1, 2, 3)) -> list[str]:
    return [f"{kind}{dimension}D" for kind in names(kinds) for dimension in axes]


def _rows(counts: dict[str, int], formula: Callable[[int], Formula]) -> dict[str, Formula]:
    return {name: formula(count) for name, count in counts.items()}


LAYERS: dict[str, Formula] = {
    **dict.fromkeys(MOVING_LAYERS, _nothing),
    **_rows(_OUTPUT_ENTRY_OF_LAYERS, _on_output),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Maximum", "Minimum"), _merge()),
    "Average": _merge(1),
    "Activation": _activation,
    "LayerNormalization": _normalization,
    "GroupNormalization": _normalization,
    **dict.fromkeys(_each("MaxPooling AveragePooling"), _pooling),
    **dict.fromkeys(
        _each("GlobalMaxPooling GlobalAveragePooling AdaptiveMaxPooling AdaptiveAveragePooling"), _on_input(1)
    ),
    "UpSampling2D": _resizing,
    "Resizing": _resizing,
}
OPERATIONS: dict[str, Formula] = {
    **dict.fromkeys(MOVING_OPERATIONS, _nothing),
    **_rows(_OUTPUT_ENTRY_OF_OPERATIONS, _on_output),
    **_rows(_INPUT_ENTRY_OF_OPERATIONS, _on_input),
}
