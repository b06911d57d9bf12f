"""Kernels of 4 bits in an integer file: two weights a byte. Runs in the conversion child process only."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kopt.export.layout import KERNELS, builtin_of, input_at, packed

_LARGEST_8, _LARGEST_4 = 127, 7
# How far integers of 8 bits are from the grid of 4 bits that they stand for.
_ROUNDING = 0.51


def with_narrow_kernels(content: bytes, patterns: Sequence[str]) -> bytes:
    """Return the file with the kernels of some layers stored in 4 bits.

    The converter knows integers of 8 bits alone. Weights that were trained on a grid of 4 bits lie on every 18th of
    them, so that nothing is lost.

    Args:
        content: of a file of 8 bits.
        patterns: regular expressions; each matches the output tensor of operators whose kernels are on 4 bits.

    Raises:
        ValueError: no operator matches, or its weights are on no grid of 4 bits.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for pattern in patterns:
        found = 0
        for operator in graph.operators:
            kind = builtin_of(model, operator)
            if kind in KERNELS and re.search(pattern, graph.tensors[operator.outputs[0]].name.decode()):
                places = KERNELS[kind]
                _narrow(model, graph, operator, *places)
                found += 1
        if not found:
            raise ValueError(f"no operator with a kernel matches {pattern!r}")
    return packed(model, len(content))


def packed_nibbles(integers: np.ndarray) -> np.ndarray:
    """Return integers from -8 to 7 two a byte, the first in the low half."""
    flat = np.append(integers.ravel(), np.zeros(integers.size % 2, integers.dtype)).astype(np.uint8) & 0xF
    return flat[0::2] | (flat[1::2] << 4)


def _narrow(model: Any, graph: Any, operator: Any, kernel_place: int, bias_place: int) -> None:
    kernel, bias = input_at(graph, operator, kernel_place), input_at(graph, operator, bias_place)
    if kernel.type == schema.TensorType.INT4:  # of a layer that is called more than once
        return
    wide = np.asarray(model.buffers[kernel.buffer].data, np.uint8).view(np.int8)
    integers = np.rint(wide * (_LARGEST_4 / _LARGEST_8))
    if np.abs(integers * (_LARGEST_8 / _LARGEST_4) - wide).max() > _ROUNDING:
        raise ValueError(f"the weights of {kernel.name.decode()!r} are on no grid of 4 bits")
    steps = (np.asarray(kernel.quantization.scale) * (_LARGEST_8 / _LARGEST_4)).astype(np.float32)
    model.buffers[kernel.buffer].data = packed_nibbles(integers.astype(np.int8))
    kernel.type, kernel.quantization.scale = schema.TensorType.INT4, steps
    if bias is not None:
        buffer = model.buffers[bias.buffer]
        values = np.asarray(buffer.data, np.uint8).view(np.int32) * np.asarray(bias.quantization.scale)
        taken = graph.tensors[operator.inputs[0]].quantization.scale[0]
        bias.quantization.scale = (taken * steps).astype(np.float32)
        buffer.data = np.rint(values / bias.quantization.scale).astype(np.int32).view(np.uint8)
