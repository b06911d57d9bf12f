"""Engine files in TensorRT. Written from its documentation; kopt's own tests run it against a stand-in only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, LoadError, MeasurementError
from kopt.core.optional import require
from kopt.core.records.artifacts import TensorInfo
from kopt.measure.cuda_memory import CudaMemory
from kopt.measure.runner import Runner, batch_of


class TensorRTRunner(Runner):
    """Runs an engine on the first GPU; a timed call contains the copies to it and back."""

    format = "tensorrt"
    device = "gpu"
    threads = None

    def __init__(self, path: Path, threads: int | None, trt: Any = None, memory: Any = None):
        """Open an engine.

        Args:
            path: of the file.
            threads: must be `None`.
            trt: the module `tensorrt`; imported if not given.
            memory: of the GPU; made if not given.

        Raises:
            MissingDependencyError: the package `tensorrt` is not installed.
            LoadError: the file is damaged, or of another GPU or version of TensorRT.
            MeasurementError: there is no driver or no GPU.
        """
        if threads is not None:
            raise ConfigError(
                f"`threads` cannot be set for {path.name}: it runs on a GPU. Received: threads={threads}."
            )
        trt = require("tensorrt", f"Running the engine {path.name}") if trt is None else trt
        self._memory = CudaMemory() if memory is None else memory
        self.name = path.name
        self.runtime = f"TensorRT {trt.__version__}"
        self._engine = _open(trt, path)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise MeasurementError(f"{self.runtime} has no room on the GPU to run {self.name}.")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        taken = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = tuple(self._info(trt, name) for name in taken)
        self.outputs = tuple(self._info(trt, name) for name in names if name not in taken)
        self.fixed_batch = batch_of(self.inputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Copy the feeds to the GPU, run the engine once, and copy the outputs back."""
        self._memory.enter()
        for name, array in feeds.items():
            if not self._context.set_input_shape(name, array.shape):
                raise MeasurementError(
                    f"{self.name} was not built for {name!r} of shape {array.shape}. Shapes from {self._range(name)}; "
                    f"pass a smaller `batch_size`, or build it with other `batch_sizes`."
                )
            self._context.set_tensor_address(name, self._memory.write(name, array))
        shapes = {info.name: tuple(self._context.get_tensor_shape(info.name)) for info in self.outputs}
        for info in self.outputs:
            size_bytes = int(np.prod(shapes[info.name])) * np.dtype(info.dtype).itemsize
            self._context.set_tensor_address(info.name, self._memory.reserve(info.name, size_bytes))
        if not self._context.execute_async_v3(self._memory.stream):
            raise MeasurementError(f"{self.runtime} cannot run {self.name}.")
        return {info.name: self._memory.read(info.name, shapes[info.name], info.dtype) for info in self.outputs}

    def _info(self, trt: Any, name: str) -> TensorInfo:
        shape = tuple(size if size >= 0 else None for size in self._engine.get_tensor_shape(name))
        return TensorInfo(name, shape, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))).name)

    def _range(self, name: str) -> str:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        return f"{tuple(least)} to {tuple(most)} are accepted"


def _open(trt: Any, path: Path) -> Any:
    logger = trt.Logger(trt.Logger.ERROR)
    engine = trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise LoadError(
            f"{path} is no engine that TensorRT {trt.__version__} can run on this GPU: it is damaged, or was built for "
            f"another GPU or by another version. Build it here: `kopt.export.tensorrt`."
        )
    return engine
