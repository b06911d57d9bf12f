"""What the runtime of a file and the counters of a device report of their work, with the unit in the name."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class TFLiteOpTime(Record):
    """What one operator costs in one call of a `.tflite` file.

    Attributes:
        kernel: what ran, as the runtime calls it: `"Convolution (NHWC, F32) IGEMM"`, `"CUMSUM"`.
        runs_in: `"XNNPACK"`, or `"LiteRT"` for an operator that the delegate left to the interpreter.
        subgraph: position of the subgraph in the file; loops and branches have their own.
        operator: of the file, e.g. `"CONV_2D"`; `None` where it cannot be told which operators a kernel of the
            delegate stands for.
        output: name of its first output tensor; `None` where `operator` is.
        count: times it ran in one call.
        time_ms: in one call, all its runs together, the median of many calls; `None` for loops and branches, whose
            time is that of the operators in them and of the profiler.
        share: fraction of the time of all operators; `None` where `time_ms` is.
        output_bytes: size of its results for one run; `None` where `operator` is or sizes are open.
    """

    kernel: str
    runs_in: str
    subgraph: int
    operator: str | None
    output: str | None
    count: float
    time_ms: float | None
    share: float | None
    output_bytes: int | None


@dataclasses.dataclass(frozen=True)
class TFLiteOpProfile(Record):
    """Which operators of a `.tflite` file take the time.

    Attributes:
        file: its name.
        runtime: with its version.
        threads: that the delegate may use.
        runs: profiled calls.
        call_ms: of one call without the profiler, in the interpreter, the median.
        profiled_call_ms: of one call under the profiler, the median. The profiler takes some microseconds for every
            operator that is not in a delegate; they are in no operator.
        ops: in the order in which they run.
        notes: what a reader of the numbers must know.
    """

    file: str
    runtime: str
    threads: int
    runs: int
    call_ms: float
    profiled_call_ms: float
    ops: tuple[TFLiteOpTime, ...]
    notes: tuple[str, ...]

    @property
    def ops_ms(self) -> float:
        """Time of all operators in one call; near `call_ms` unless they are so short that rounding hides them."""
        return sum(op.time_ms for op in self.ops if op.time_ms is not None)


@dataclasses.dataclass(frozen=True)
class GpuCounters(Record):
    """What one GPU did while something ran, read at regular times from NVML. Other programs on it are counted, too.

    Attributes:
        name: of the board.
        index: its number in NVML.
        time_s: of every reading, since the first one.
        utilization: fraction of the last moments in which a kernel ran, at every reading.
        memory_bytes: in use at every reading.
        memory_total_bytes: of the board.
        power_w: at every reading; `None` if the board does not report it.
        energy_j: by the board's own counter; `None` if it has none.
    """

    name: str
    index: int
    time_s: tuple[float, ...]
    utilization: tuple[float, ...]
    memory_bytes: tuple[int, ...]
    memory_total_bytes: int
    power_w: tuple[float, ...] | None
    energy_j: float | None

    def __post_init__(self) -> None:
        columns = (self.time_s, self.utilization, self.memory_bytes, *((self.power_w,) if self.power_w else ()))
        if not self.time_s or len({len(column) for column in columns}) > 1:
            raise ConfigError(f"The counters of GPU {self.index} need readings, as many in each column.")

    @property
    def mean_utilization(self) -> float:
        """Mean of the readings."""
        return sum(self.utilization) / len(self.utilization)

    @property
    def peak_memory_bytes(self) -> int:
        """Largest reading."""
        return max(self.memory_bytes)

    @property
    def mean_power_w(self) -> float | None:
        """Mean of the readings; `None` if the board does not report it."""
        return None if not self.power_w else sum(self.power_w) / len(self.power_w)


@dataclasses.dataclass(frozen=True)
class GpuUsage(Record):
    """What the GPUs of a machine did while something ran.

    Attributes:
        gpus: those that were watched.
        seconds: for how long.
    """

    gpus: tuple[GpuCounters, ...]
    seconds: float
