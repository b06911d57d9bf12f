"""What tells how much energy was used: counters of the machine, and stand-ins that say that they are none."""

import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any, ClassVar, Protocol

from kopt.core.errors import MeasurementError
from kopt.core.optional import require

POWERCAP = Path("/sys/class/powercap")
# Modes of codecarbon's processor that read a counter; in all others it multiplies a load or a time by an assumed power.
_CODECARBON_COUNTERS = ("intel_rapl", "intel_power_gadget", "windows_emi")
_JOULES_PER_KWH = 3.6e6


class Meter(Protocol):
    """Is read before and after."""

    @property
    def method(self) -> str:
        """What is read, in words."""

    @property
    def measured(self) -> bool:
        """Whether it is a counter; otherwise it estimates."""

    def read(self) -> tuple[float, ...]:
        """Return the counters."""

    def joules(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Return the energy between two readings."""


@dataclasses.dataclass(frozen=True)
class Rapl:
    """The energy counters of the processor packages, in microjoules, which begin again at 0 past their range."""

    zones: tuple[Path, ...]
    method: ClassVar[str] = "RAPL counters of the processor package, idle power and other processes included"
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


class Gpu:
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
        """Return the board's counter."""
        return (float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)),)

    def joules(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Return the energy between two readings."""
        return (after[0] - before[0]) / 1e3


class CpuTime:
    """CPU time of this process at an assumed power."""

    measured = False

    def __init__(self, watts_per_core: float):
        self._watts = watts_per_core
        self.method = f"estimate: CPU time of this process at an assumed {watts_per_core:g} W a core; not measured"

    def read(self) -> tuple[float, ...]:
        """Return the seconds that this process was busy."""
        return (time.process_time(),)

    def joules(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Return what one core takes in the time between."""
        return (after[0] - before[0]) * self._watts


class CodeCarbon:
    """The counters that codecarbon finds, of processor and GPU; where it finds none, its own estimate, said to be one.

    The memory, whose power it always assumes, is left out.
    """

    def __init__(self) -> None:
        codecarbon: Any = require("codecarbon", "Energy by codecarbon")
        self._tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code="USA",  # of emissions, which are not asked for; without it a server would be
            save_to_file=False,
            log_level="critical",
            measure_power_secs=1,
            allow_multiple_runs=True,
        )
        # What codecarbon can read it finds out at the first start.
        self._tracker.start_task("probe")
        self._tracker.stop_task("probe")
        modes = {str(getattr(part, "_mode", "")) for part in getattr(self._tracker, "_hardware", ())} - {""}
        self.measured = bool(modes & set(_CODECARBON_COUNTERS))
        how = "counters" if self.measured else "estimate, an assumed power:"
        version = getattr(codecarbon, "__version__", "")
        self.method = f"codecarbon {version} ({how} {', '.join(sorted(modes)) or 'unknown'}), the whole machine"
        self._is_running = False

    def read(self) -> tuple[float, ...]:
        """Start at the first reading, stop at the second."""
        if not self._is_running:
            self._is_running = True
            self._tracker.start_task("run")
            return (0.0,)
        found = self._tracker.stop_task("run")
        return (_JOULES_PER_KWH * (found.cpu_energy + found.gpu_energy),)

    def joules(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Return what was counted from start to stop."""
        return after[0] - before[0]


def is_installed(module: str) -> bool:
    """Return whether an optional package is there, without importing it."""
    return importlib.util.find_spec(module) is not None


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
