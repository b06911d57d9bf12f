"""Which operators of a `.tflite` file the kernels of the XNNPACK delegate stand for.

The delegate reports its kernels in the order in which they run and does not say where they come from. It may compute an
operator with several kernels, or several operators with one. So kernels of a kind are paired with the operators of that
kind in their order only where there are as many of both, and every pair makes sense.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kopt.export.layout import operator_name

_TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
_PRODUCTS = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"))
# Kinds by how the names of their kernels begin, and the operators that are of the kind.
_KINDS = {
    "Add": frozenset(("ADD",)),
    "Average Pooling": frozenset(("AVERAGE_POOL_2D",)),
    "Batch Matrix Multiply": frozenset(("BATCH_MATMUL",)),
    "Clamp": frozenset(("RELU", "RELU6", "RELU_N1_TO_1")),
    "Convert": frozenset(("QUANTIZE", "DEQUANTIZE")),
    "Convolution": _PRODUCTS,
    "Deconvolution": frozenset(("TRANSPOSE_CONV",)),
    "Divide": frozenset(("DIV",)),
    "Fully Connected": _PRODUCTS,
    "GELU": frozenset(("GELU",)),
    "HardSwish": frozenset(("HARD_SWISH",)),
    "Max Pooling": frozenset(("MAX_POOL_2D",)),
    "Mean": frozenset(("MEAN",)),
    "Multiply": frozenset(("MUL",)),
    "Sigmoid": frozenset(("LOGISTIC",)),
    "Softmax": frozenset(("SOFTMAX",)),
    "Subtract": frozenset(("SUB",)),
    "TanH": frozenset(("TANH",)),
    "Transpose": frozenset(("TRANSPOSE",)),
}


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator of a file: its name, that of its first output, and the bytes of its outputs, `None` if open."""

    name: str
    output: str
    output_bytes: int | None


def operators_of(path: Path, batch_size: int) -> list[list[Operator]]:
    """Read the operators of every subgraph of a `.tflite` file; an open first dimension counts as `batch_size`."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    return [[_operator(model, graph, one, batch_size) for one in graph.operators or ()] for graph in model.subgraphs]


def paired(kernels: list[str], operators: list[Operator]) -> list[Operator | None]:
    """Return for every kernel the operator it stands for, or `None` where that cannot be told.

    Args:
        kernels: of the delegate, in the order in which they run.
        operators: that the delegate took over, in the order of the file.
    """
    found: list[Operator | None] = [None] * len(kernels)
    kinds = [_kind(kernel) for kernel in kernels]
    for kind in {kind for kind in kinds if kind is not None}:
        places = [place for place, one in enumerate(kinds) if one == kind]
        candidates = [operator for operator in operators if operator.name in kind]
        if len(places) == len(candidates):
            pairs = list(zip(places, candidates, strict=True))
            if all(_fits(kernels[place], operator) for place, operator in pairs):
                for place, operator in pairs:
                    found[place] = operator
    return found


def _kind(kernel: str) -> frozenset[str] | None:
    return next((kind for begin, kind in _KINDS.items() if kernel.startswith(begin)), None)


def _fits(kernel: str, operator: Operator) -> bool:
    if "DWConv" in kernel:
        return operator.name == "DEPTHWISE_CONV_2D"
    if kernel.startswith("Fully Connected"):
        return operator.name in ("FULLY_CONNECTED", "CONV_2D")  # a 1x1 convolution is one
    return not kernel.startswith("Convolution") or operator.name != "FULLY_CONNECTED"


def _operator(model: Any, graph: Any, operator: Any, batch_size: int) -> Operator:
    name = operator_name(model, operator)
    tensors = [graph.tensors[index] for index in (() if operator.outputs is None else operator.outputs) if index >= 0]
    sizes = [_bytes(tensor, batch_size) for tensor in tensors]
    known = [size for size in sizes if size is not None]
    return Operator(name, tensors[0].name.decode() if tensors else "", sum(known) if len(known) == len(sizes) else None)


def _bytes(tensor: Any, batch_size: int) -> int | None:
    signature = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    shape = [] if signature is None else [int(size) for size in signature]
    if shape and shape[0] < 0:
        shape[0] = batch_size
    try:
        width = np.dtype(_TYPES[tensor.type]).itemsize
    except TypeError:
        return None  # Strings, resources, and integers narrower than a byte.
    return None if any(size < 0 for size in shape) else math.prod(shape) * width
