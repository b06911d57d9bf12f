"""What a GPU does while something runs: utilization, memory and power, from NVIDIA's management library."""

import contextlib
import threading
import time
import types
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from kopt.core.errors import ConfigError, MeasurementError
from kopt.core.optional import require
from kopt.core.records.profiles.runtime import GpuCounters, GpuUsage
from kopt.core.settings import number
from kopt.profile.tensorboard import InTensorBoard
from kopt.report.profiles.gpu_usage import GPU_USAGE


class GpuReport(InTensorBoard, GpuUsage):
    """What the GPUs did, with ways to show it.

    Example:
        >>> from kopt.core.records.profiles.runtime import GpuCounters
        >>> gpu = GpuCounters("a GPU", 0, (0.0, 0.1), (0.5, 0.7), (2**30, 2**31), 2**34, None, None)
        >>> report = kopt.profile.GpuReport((gpu,), seconds=0.2)
        >>> round(report.gpus[0].mean_utilization, 2), report.gpus[0].peak_memory_bytes == 2**31
        (0.6, True)
    """

    look = GPU_USAGE
    table_options: ClassVar[dict[str, Any]] = {}


def gpu_counters(devices: Sequence[int] | None = None, *, interval_s: float = 0.1) -> "GpuWatch":
    """Watch the counters of the GPUs while a block runs.

    Use it round `fit` or a serving loop, to see whether the GPU has work to do (utilization), how much of its memory
    is taken and what it draws. TensorFlow reserves nearly all memory at once unless `kopt.train.memory_growth` is on.
    The board's counters are those of all programs that use it.

    Args:
        devices: numbers of the GPUs, as NVML counts them; all by default.
        interval_s: seconds between two readings. The driver averages utilization over up to a second.

    Returns:
        A context manager; after the block its `result` has `.table()`, `.plot(path)` and `.gpus`.

    Raises:
        ConfigError: an impossible interval, or a GPU that is not there.
        MeasurementError: there is no GPU, or it cannot be read.
        MissingDependencyError: `nvidia-ml-py` is not installed.

    Example:
        >>> try:
        ...     with kopt.profile.gpu_counters() as watch:
        ...         history = model.fit(x_train, y_train, verbose=0)
        ...     print("read:", [gpu.name for gpu in watch.result.gpus])
        ... except kopt.KoptError:  # says what is missing
        ...     print("read: nothing here")
        read: ...

    Source: https://docs.nvidia.com/deploy/nvml-api
    """
    interval_s = number("interval_s", interval_s, least=0.0, open_below=True)
    if not tf.config.list_physical_devices("GPU"):
        raise MeasurementError(
            "TensorFlow finds no GPU on this machine, so there are no counters to read. Check `nvidia-smi` and that "
            "TensorFlow is installed with CUDA: pip install 'tensorflow[and-cuda]'."
        )
    nvml = require("pynvml", "Reading the counters of a GPU")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise MeasurementError(f"NVIDIA's management library cannot be used: {error}.") from error
    present = range(nvml.nvmlDeviceGetCount())
    numbers = tuple(present if devices is None else devices)
    if not numbers or any(isinstance(one, bool) or one not in present for one in numbers):
        nvml.nvmlShutdown()
        raise ConfigError(f"`devices` must be numbers of GPUs in {list(present)}. Received: {devices!r}.")
    return GpuWatch(nvml, numbers, interval_s)


class GpuWatch:
    """Reads counters in a thread of its own until its block ends.

    Attributes:
        result: what was read; there after the block.

    Example:
        >>> try:
        ...     with kopt.profile.gpu_counters(interval_s=0.05) as watch:
        ...         y = model(x_val)
        ...     print("utilization:", [gpu.mean_utilization for gpu in watch.result.gpus])
        ... except kopt.KoptError as error:
        ...     print("utilization:", error)
        utilization: ...
    """

    result: GpuReport

    def __init__(self, nvml: Any, devices: Sequence[int], interval_s: float):
        self._nvml, self._interval_s = nvml, interval_s
        self._boards = [_Board(nvml, index) for index in devices]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="kopt-gpu-counters", daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> "GpuWatch":
        self._begin = time.perf_counter()
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            if kind is None:
                self._finish()
        finally:
            self._nvml.nvmlShutdown()

    def _finish(self) -> None:
        if self._error is None:
            with self._noting_errors():
                self._read()
                seconds = time.perf_counter() - self._begin
                self.result = GpuReport(tuple(board.counters() for board in self._boards), seconds)
        if self._error is not None:
            raise MeasurementError(f"The counters of the GPU could not be read: {self._error}.") from self._error

    def _watch(self) -> None:
        with self._noting_errors():
            while not self._stop.wait(self._interval_s):
                self._read()

    @contextlib.contextmanager
    def _noting_errors(self) -> Any:
        try:
            yield
        except self._nvml.NVMLError as error:
            self._error = error

    def _read(self) -> None:
        moment = time.perf_counter() - self._begin
        for board in self._boards:
            board.read(moment)


class _Board:
    """The readings of one GPU."""

    def __init__(self, nvml: Any, index: int):
        self._nvml, self._index = nvml, index
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self._times: list[float] = []
        self._utilization: list[float] = []
        self._memory: list[int] = []
        self._power: list[float] | None = []
        self._energy: list[float] | None = []

    def read(self, moment: float) -> None:
        self._times.append(moment)
        self._utilization.append(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100.0)
        self._memory.append(int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used))
        self._power = self._optional(self._power, self._nvml.nvmlDeviceGetPowerUsage)
        self._energy = self._optional(self._energy, self._nvml.nvmlDeviceGetTotalEnergyConsumption)

    def counters(self) -> GpuCounters:
        name = self._nvml.nvmlDeviceGetName(self._handle)
        return GpuCounters(
            name=name.decode() if isinstance(name, bytes) else str(name),
            index=self._index,
            time_s=tuple(moment - self._times[0] for moment in self._times),
            utilization=tuple(self._utilization),
            memory_bytes=tuple(self._memory),
            memory_total_bytes=int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total),
            power_w=None if self._power is None else tuple(self._power),
            energy_j=None if self._energy is None else self._energy[-1] - self._energy[0],
        )

    def _optional(self, values: list[float] | None, read: Any) -> list[float] | None:
        """Add a reading in thousandths of the unit; `None` from when on a board says that it has no such counter."""
        if values is None:
            return None
        try:
            return [*values, read(self._handle) / 1e3]
        except self._nvml.NVMLError_NotSupported:
            return None
