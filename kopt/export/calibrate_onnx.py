"""Float32 `.onnx` to pairs of QuantizeLinear and DequantizeLinear. Runs in the conversion child process only."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from kopt.export import arrays_file

# What runtimes compute in integers; other operators would only be rounded before and after.
_OPERATORS = ["Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "AveragePool", "GlobalAveragePool", "MaxPool", "Concat"]
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
        extra_options=options,
    )


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
