"""Arithmetic of TensorFlow operations, for what has no formula: a layer of the user, or what its `call` does itself.

The same definition as for layers: an operation on one entry counts one, moving and casting count nothing, and a
multiply-accumulate two.
"""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import tensorflow as tf

from kopt.profile.cost.internals import function_graph
from kopt.profile.cost.shapes import names

# Operations on an entry of the output.
_OUTPUT_ENTRY = {
    **dict.fromkeys(
        names(
            """
            Add AddV2 Sub Mul Div RealDiv DivNoNan FloorDiv FloorMod Mod Maximum Minimum Pow Square Sqrt Exp Expm1 Log
            Log1p Tanh Sinh Cosh Sin Cos Tan Atan Atan2 Asin Acos Sigmoid Relu Softplus Softsign Erf Erfc Erfinv Neg
            Abs Sign Floor Ceil Round Rint Reciprocal Inv BiasAdd Equal NotEqual Greater GreaterEqual Less LessEqual
            Select SelectV2 LogicalAnd LogicalOr LogicalNot IsNan IsInf IsFinite Rsqrt Relu6 ClipByValue LeakyRelu Elu
            Selu
            """
        ),
        1,
    ),
    **dict.fromkeys(names("SquaredDifference FusedBatchNorm FusedBatchNormV3"), 2),
    **dict.fromkeys(names("Softmax LogSoftmax Cross"), 3),
    "ResizeBilinear": 7,
}
# Operations on an entry of the input.
_INPUT_ENTRY = dict.fromkeys(names("Sum Mean Max Min Prod All Any ArgMax ArgMin Cumsum Cumprod L2Loss"), 1)
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_POOLING = ("MaxPool", "MaxPool3D", "AvgPool", "AvgPool3D")
_NOTHING = frozenset(
    names(
        """
        Identity IdentityN StopGradient PreventGradient NoOp Const Placeholder ReadVariableOp VariableShape Cast
        Reshape Transpose ExpandDims Squeeze Shape ShapeN Size Rank ConcatV2 ConcatOffset Pack Unpack Split SplitV
        Slice StridedSlice Gather GatherV2 GatherNd ResourceGather ResourceGatherNd Pad PadV2 MirrorPad Tile
        BroadcastTo BroadcastArgs BroadcastDynamicShape Fill ZerosLike OnesLike Range LinSpace OneHot ReverseV2 Roll
        ExtractImagePatches SpaceToDepth DepthToSpace SpaceToBatchND BatchToSpaceND MatrixDiagV3 MatrixDiagPartV3
        MatrixBandPart Where EnsureShape Assert Real Imag Complex ResizeNearestNeighbor StatelessRandomUniformV2
        StatelessRandomNormalV2 StatelessTruncatedNormalV2 RandomUniform RandomStandardNormal
        """
    )
)


class Arithmetic(NamedTuple):
    """What operations compute for the shapes they were traced with.

    Attributes:
        macs: multiply-accumulates.
        elementwise: operations besides.
        unknown: kinds of operations that are not counted.
        read_bytes: of what these operations take.
        made_bytes: of what they give.
    """

    macs: int = 0
    elementwise: int = 0
    unknown: tuple[str, ...] = ()
    read_bytes: int = 0
    made_bytes: int = 0


def arithmetic(operations: Iterable[Any]) -> Arithmetic:
    """Return what these `tf.Operation`s compute, on numbers that are not integers."""
    macs = elementwise = read = made = 0
    unknown: dict[str, None] = {}
    pending = list(operations)
    while pending:
        operation = pending.pop()
        if operation.type in _CALLS:
            inside = function_graph(operation)
            pending.extend(needed(inside.outputs, inside.get_operations()))
            continue
        if operation.type in _NOTHING or not _computes(operation):
            continue
        product = _PRODUCTS.get(operation.type)
        count = product(operation) if product else _elementwise(operation)
        if count is None:
            unknown[operation.type] = None
            continue
        read += _bytes(operation.inputs)
        made += _bytes(operation.outputs)
        if product:
            macs += count
        else:
            elementwise += count
    return Arithmetic(macs, elementwise, tuple(unknown), read, made)


def needed(outputs: Iterable[Any], operations: Collection[Any]) -> list[Any]:
    """Return those of `operations`, in their order, that `outputs` depend on: what TensorFlow runs of them."""
    pending, seen = [output.op for output in outputs if tf.is_symbolic_tensor(output)], set()
    while pending:
        operation = pending.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            pending.extend(tensor.op for tensor in operation.inputs)
    return [operation for operation in operations if operation.name in seen]


def _computes(operation: Any) -> bool:
    # Arithmetic on shapes and indices is done on integers.
    return any(
        tensor.dtype.is_floating or tensor.dtype.is_complex for tensor in (*operation.inputs, *operation.outputs)
    )


def _elementwise(operation: Any) -> int | None:
    kind = operation.type
    if kind in _OUTPUT_ENTRY:
        return _times(_OUTPUT_ENTRY[kind], operation.outputs[0])
    if kind in _INPUT_ENTRY:
        return _times(_INPUT_ENTRY[kind], operation.inputs[0])
    if kind in _POOLING:
        return _times(math.prod(operation.get_attr("ksize")), operation.outputs[0])
    return None


def _times(count: int, tensor: Any) -> int | None:
    entries = tensor.shape.num_elements()
    return None if entries is None else count * int(entries)


def _bytes(tensors: Iterable[Any]) -> int:
    sizes = ((tensor.shape.num_elements() or 0) * tensor.dtype.size for tensor in tensors)
    return sum(map(int, sizes))


def _entries(*tensors: Any) -> int | None:
    """Return the product of the numbers of entries."""
    counts = [tensor.shape.num_elements() for tensor in tensors]
    return None if None in counts else math.prod(map(int, counts))


def _matrix_product(operation: Any) -> int | None:
    """Count the entries of the result times the length of the axis that is summed over."""
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    length = operation.inputs[0].shape[-2 if transposed else -1]
    entries = _entries(operation.outputs[0])
    return None if entries is None or length is None else entries * int(length)


def _convolution(operation: Any) -> int | None:
    """Count the positions of the output times the entries of the kernel."""
    kernel, channels = operation.inputs[1], operation.inputs[1].shape[-1]
    entries = _entries(operation.outputs[0], kernel)
    return None if entries is None or not channels else entries // int(channels)


def _depthwise(operation: Any) -> int | None:
    """Count every entry of the output times the size of a window."""
    return _times(math.prod(operation.inputs[1].shape[:-2]), operation.outputs[0])


def _transposed_convolution(operation: Any) -> int | None:
    """Count the positions of the input, which stands third, times the entries of the kernel."""
    kernel, given = operation.inputs[1], operation.inputs[2]
    entries = _entries(given, kernel)
    return None if entries is None or not kernel.shape[-1] else entries // int(kernel.shape[-1])


def _einsum(operation: Any) -> int | None:
    """Count the size of the index space, every index once."""
    operands, _ = operation.get_attr("equation").decode().split("->")
    sizes: dict[str, int] = {}
    for term, tensor in zip(operands.split(","), operation.inputs, strict=True):
        if not tensor.shape.is_fully_defined():
            return None
        shape, (head, dots, tail) = tuple(tensor.shape), term.partition("...")
        split = len(shape) - len(tail)
        sizes.update(zip((*head, *tail), (*shape[: len(head)], *shape[split:]), strict=True))
        if dots:
            sizes["..."] = max(math.prod(shape[len(head) : split]), sizes.get("...", 1))
    return math.prod(sizes.values())


_PRODUCTS: dict[str, Callable[[Any], int | None]] = {
    "MatMul": _matrix_product,
    "BatchMatMulV2": _matrix_product,
    "Einsum": _einsum,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed_convolution,
    "Conv3DBackpropInputV2": _transposed_convolution,
}
