"""Float32 `.onnx` to pairs of QuantizeLinear and DequantizeLinear. Runs in the conversion child process only."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from kopt.export import arrays_file

# What runtimes compute in integers; other operators would only be rounded before and after.
_OPERATORS = ["Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "AveragePool", "GlobalAveragePool", "MaxPool", "Concat"]
_MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
# What stands between the mean of squares and the difference that is squared.
_ELEMENTWISE = ("Add", "Mul", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_MASK = 1e4  # Keras masks with -3e4 in half precision, with more in others
_BATCH = 32


class _Examples(CalibrationDataReader):
    """Feeds of the calibration, in batches."""

    def __init__(self, arrays: dict[str, np.ndarray], batch_size: int | None):
        self._batches = _batches(arrays, batch_size)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feeds; `None` at the end."""
        return next(self._batches, None)


def calibrate(path: str, examples: str, runtime: str) -> None:
    """Replace a float32 file by one with ranges that examples show: the least and the largest value of each tensor.

    Args:
        path: of the file.
        examples: path of arrays by input name.
        runtime: `"tensorrt"` has zero at 0 in every grid and biases in float; `"onnxruntime"` integers of both.
    """
    arrays = arrays_file.read(examples)
    for_tensorrt = runtime == "tensorrt"
    options: dict[str, Any] = {
        "ActivationSymmetric": for_tensorrt,
        "WeightSymmetric": True,
        "QuantizeBias": not for_tensorrt,
    }
    quantize_static(
        path,
        path,
        _Examples(arrays, _fixed_batch(path)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_OPERATORS,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=names_in_float(onnx.load(path).graph),
        extra_options=options,
    )


def names_in_float(graph: Any) -> list[str]:
    """Return the nodes that integers do harm to.

    A mask is a large number that is added to scores: integers that reach to it cannot tell the scores apart. The
    moments of a normalization are a difference of large numbers, and what is left of a small variance is divided by.
    """
    makers = {output: node for node in graph.node for output in node.output}
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        if node.op_type == "Add" and any(_reaches_far(name, makers, constants) for name in node.input):
            found[node.name] = None
        elif node.op_type == "Sqrt":
            found |= dict.fromkeys(_moments(node.input[0], makers))
    return list(found)


def _reaches_far(name: str, makers: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> bool:
    """Return whether a tensor is a mask: a constant with a large number, or what such a one is multiplied with."""
    maker = makers.get(name)
    names = [name] if maker is None else list(maker.input) if maker.op_type == "Mul" else []
    values = [constants[one] for one in names if one in constants]
    return any(one.dtype.kind == "f" and one.size and np.abs(one).max() >= _MASK for one in values)


def _moments(name: str, makers: Mapping[str, Any]) -> Iterator[str]:
    """Yield the nodes between what is normalized and a square root."""
    node = makers.get(name)
    if node is None:
        return
    if node.op_type == "Sub":  # what is normalized, less its mean
        yield from (makers[one].name for one in node.input if one in makers and makers[one].op_type in _MEANS)
    elif node.op_type in (*_MEANS, *_ELEMENTWISE):
        yield node.name
        for one in node.input:
            yield from _moments(one, makers)


def _fixed_batch(path: str) -> int | None:
    """Return how many examples every call of a file takes; `None` for any number."""
    first = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return first[0].dim_value or None if first else None


def _batches(arrays: dict[str, np.ndarray], fixed: int | None) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches; where their size is fixed, the last one is filled up from the beginning, which adds no range."""
    count, size = len(next(iter(arrays.values()))), fixed or _BATCH
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count if fixed else np.arange(start, min(start + size, count))
        yield {name: array[rows] for name, array in arrays.items()}
