"""`.onnx` files in ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from kopt.core.errors import LoadError, MeasurementError
from kopt.core.records.artifacts import TensorInfo
from kopt.measure.runner import Runner, batch_of

PROVIDER = "CPUExecutionProvider"
# UnicodeDecodeError: names in the file that are no text.
_DAMAGED = (errors.InvalidProtobuf, errors.NoModel, errors.NoSuchFile, UnicodeDecodeError)
_REFUSED = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.NotImplemented,
    errors.RuntimeException,
    errors.EPFail,
)
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "object",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_WITHOUT_GRAPH = ("No graph was found", "does not have a graph")  # ONNX Runtime 1.31 and 1.23


class ONNXRunner(Runner):
    """Runs an `.onnx` file in ONNX Runtime on the CPU."""

    format = "onnx"
    device = "cpu"

    def __init__(self, path: Path, threads: int | None):
        self.name = path.name
        self.threads = threads
        self.runtime = f"ONNX Runtime {onnxruntime.__version__} {PROVIDER}"
        self._session = _open(path, threads)
        try:
            self.inputs = tuple(_tensor_info(path, node) for node in self._session.get_inputs())
            self.outputs = tuple(_tensor_info(path, node) for node in self._session.get_outputs())
        except UnicodeDecodeError as error:
            raise LoadError(f"{path} is damaged: a name in it is no text ({error}). Copy it again.") from error
        self.fixed_batch = batch_of(self.inputs)
        self._names = [info.name for info in self.outputs]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the session once."""
        try:
            return dict(zip(self._names, self._session.run(self._names, dict(feeds)), strict=True))
        except _REFUSED as error:
            raise MeasurementError(f"{self.runtime} cannot run {self.name}: {error}") from error


def _open(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Problems come as exceptions; what ONNX Runtime would print beside them is noise.
    options.log_severity_level = 4
    # Its threads otherwise go on spinning after a call and slow down whatever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        # Its fallback to other providers prints, tries the same one again and fails the same way.
        return onnxruntime.InferenceSession(str(path), options, providers=[PROVIDER], enable_fallback=0)
    except _DAMAGED as error:
        raise LoadError(f"{path} is not an ONNX file, or damaged ({error}). Export or copy it again.") from error
    except _REFUSED as error:
        if any(words in str(error) for words in _WITHOUT_GRAPH):
            raise LoadError(f"{path} holds no ONNX graph ({error}). Export or copy it again.") from error
        raise MeasurementError(f"ONNX Runtime {onnxruntime.__version__} refuses {path}: {error}") from error


def _tensor_info(path: Path, node: Any) -> TensorInfo:
    dtype = _DTYPES.get(node.type.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        raise MeasurementError(
            f"{path} has {node.name!r} of type {node.type}; only tensors of {', '.join(_DTYPES)} run."
        )
    return TensorInfo(node.name, tuple(size if isinstance(size, int) else None for size in node.shape), dtype)
