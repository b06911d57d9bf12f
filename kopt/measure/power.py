"""Energy of one example: a meter where the machine has one, else an estimate that says so."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from kopt.core.errors import ConfigError, MeasurementError
from kopt.core.optional import require
from kopt.core.records import Energy
from kopt.measure.feeding import Arrays
from kopt.measure.loading import load
from kopt.measure.timing import batch

POWERCAP = Path("/sys/class/powercap")


def energy(
    target: Any,
    data: Arrays | None = None,
    *,
    seconds: float = 1.0,
    watts_per_core: float = 10.0,
    powercap: Path = POWERCAP,
) -> Energy:
    """Measure, or estimate, the energy of one example.

    A runner on a GPU is read from NVIDIA's board counter. Otherwise the processor's RAPL counters are read where the
    user may (they count the whole processor package, so nothing else should run). Otherwise the CPU time of this
    process is multiplied by `watts_per_core`, which ranks files on one machine and is no measurement.

    Args:
        target: runner, model or path.
        data: inputs to take an example from; made up from the signature if not given.
        seconds: how long to run.
        watts_per_core: power of one busy core that the estimate assumes.
        powercap: where the kernel shows the RAPL counters.

    Raises:
        MeasurementError: the counters do not move.
        MissingDependencyError: the runner is on a GPU and `nvidia-ml-py` is not installed.

    Example:
        >>> used = kopt.measure.energy("model.tflite", seconds=0.1)
        >>> used.millijoules > 0, used.measured or "estimate" in used.method
        (True, True)
    """
    if not seconds > 0 or not watts_per_core > 0:
        raise ConfigError(
            f"`seconds` and `watts_per_core` must be above 0. Received: {seconds!r} and {watts_per_core!r}."
        )
    runner = load(target)
    size = runner.fixed_batch or 1
    feeds = batch(runner, data, size)
    runner.run(feeds)
    meter = _Gpu() if runner.device == "gpu" else Rapl.find(powercap) or _CpuTime(watts_per_core)
    before, deadline, calls = meter.read(), time.perf_counter() + seconds, 0
    while calls == 0 or time.perf_counter() < deadline:
        runner.run(feeds)
        calls += 1
    joules = meter.joules(before, meter.read())
    if joules <= 0:
        raise MeasurementError(f"The meter did not move ({meter.method}). Run longer: `seconds` above {seconds}.")
    return Energy(1e3 * joules / (calls * size), meter.method, meter.measured)


@dataclasses.dataclass(frozen=True)
class Rapl:
    """The energy counters of the processor packages, in microjoules, which begin again at 0 past their range."""

    zones: tuple[Path, ...]
    method = "RAPL counters of the processor package, idle power and other processes included"
    measured = True

    @classmethod
    def find(cls, powercap: Path) -> "Rapl | None":
        """Return the packages whose counters this user may read; `None` if there is none."""
        zones = tuple(zone for zone in sorted(powercap.glob("intel-rapl:*")) if _is_readable_package(zone))
        return cls(zones) if zones else None

    def read(self) -> tuple[float, ...]:
        """Return every package's counter."""
        return tuple(_number(zone / "energy_uj") for zone in self.zones)

    def joules(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Return the energy between two readings, at most one wrap-around apart."""
        total = 0.0
        for zone, start, end in zip(self.zones, before, after, strict=True):
            total += end - start if end >= start else _number(zone / "max_energy_range_uj") - start + end
        return total / 1e6


class _Gpu:
    """NVIDIA's counter of the first board, in millijoules since the driver was loaded."""

    method = "NVML counter of GPU 0, the whole board; the processor is not included"
    measured = True

    def __init__(self) -> None:
        self._nvml: Any = require("pynvml", "Energy of a GPU")
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByIndex(0)
        except self._nvml.NVMLError as error:
            raise MeasurementError(f"The GPU's energy counter cannot be read: {error}.") from error

    def read(self) -> tuple[float, ...]:
        return (float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)),)

    def joules(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        return (after[0] - before[0]) / 1e3


class _CpuTime:
    measured = False

    def __init__(self, watts_per_core: float):
        self._watts = watts_per_core
        self.method = f"estimate: CPU time of this process at an assumed {watts_per_core:g} W a core; not measured"

    def read(self) -> tuple[float, ...]:
        return (time.process_time(),)

    def joules(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        return (after[0] - before[0]) * self._watts


def _is_readable_package(zone: Path) -> bool:
    """Return whether `zone` is a package (cores and memory are counted in it already) and its counter readable."""
    try:
        _number(zone / "energy_uj")
        return (zone / "name").read_text().startswith("package")
    except OSError:
        # Most kernels let root alone read it: then there is no meter for this user.
        return False


def _number(path: Path) -> int:
    return int(path.read_text())
