"""Energy of one example: a meter where the machine has one, else an estimate that says so."""

import time
from pathlib import Path
from typing import Any

from kopt.core.errors import ConfigError, MeasurementError
from kopt.core.records.measurements import Energy
from kopt.core.settings import choice
from kopt.measure.feeding import Arrays
from kopt.measure.loading import load
from kopt.measure.meters import POWERCAP, CodeCarbon, CpuTime, Gpu, Meter, Rapl, is_installed
from kopt.measure.operation_energy import Work
from kopt.measure.runner import Runner
from kopt.measure.timing import batch

METERS = ("auto", "nvml", "rapl", "codecarbon", "operations", "cpu_time")


def energy(
    target: Any,
    data: Arrays | None = None,
    *,
    seconds: float = 1.0,
    watts_per_core: float = 10.0,
    powercap: Path = POWERCAP,
    work: Work | None = None,
    meter: str = "auto",
) -> Energy:
    """Measure, or estimate, the energy of one example.

    A runner on a GPU is read from NVIDIA's board counter. Otherwise the processor's RAPL counters are read where the
    user may (they count the whole processor package, so nothing else should run), otherwise what codecarbon finds,
    where it is installed and finds counters. Without any of them there is an estimate: from the multiply-accumulates
    and the bytes moved, where `work` says how many, else from the CPU time of this process at `watts_per_core`. Either
    ranks files and is no measurement; the record says which it is and what was assumed.

    Args:
        target: runner, model or path.
        data: inputs to take an example from; made up from the signature if not given.
        seconds: how long to run.
        watts_per_core: power of one busy core that the estimate from CPU time assumes.
        powercap: where the kernel shows the RAPL counters.
        work: what one example takes, `kopt.measure.Work`.
        meter: `"auto"`, or one of `"nvml"`, `"rapl"`, `"codecarbon"`, `"operations"` and `"cpu_time"`.

    Raises:
        MeasurementError: the counters do not move, or the meter asked for is not there.
        MissingDependencyError: it needs `nvidia-ml-py` or `codecarbon`, which is not installed.
        ConfigError: an unknown meter, or `"operations"` without `work`.

    Example:
        >>> used = kopt.measure.energy("model.tflite", seconds=0.1)
        >>> used.millijoules > 0
        True
        >>> work = kopt.measure.Work(macs=1_200_000, moved_bytes=90_000, dtype="int8")
        >>> kopt.measure.energy("model.tflite", work=work, meter="operations").measured  # from a model of the hardware
        False
    """
    if not seconds > 0 or not watts_per_core > 0:
        raise ConfigError(
            f"`seconds` and `watts_per_core` must be above 0. Received: {seconds!r} and {watts_per_core!r}."
        )
    runner = load(target)
    chosen = _meter(choice("meter", meter, METERS), runner, powercap, work, watts_per_core)
    if isinstance(chosen, Work):
        return Energy(chosen.millijoules, chosen.method, measured=False)
    size = runner.fixed_batch or 1
    feeds = batch(runner, data, size)
    runner.run(feeds)
    before, deadline, calls = chosen.read(), time.perf_counter() + seconds, 0
    while calls == 0 or time.perf_counter() < deadline:
        runner.run(feeds)
        calls += 1
    joules = chosen.joules(before, chosen.read())
    if joules <= 0:
        raise MeasurementError(f"The meter did not move ({chosen.method}). Run longer: `seconds` above {seconds}.")
    return Energy(1e3 * joules / (calls * size), chosen.method, chosen.measured)


def _meter(name: str, runner: Runner, powercap: Path, work: Work | None, watts_per_core: float) -> Meter | Work:
    if name == "auto":
        return _best_meter(runner, powercap, work, watts_per_core)
    if name == "nvml":
        return Gpu()
    if name == "codecarbon":
        return CodeCarbon()
    if name == "cpu_time":
        return CpuTime(watts_per_core)
    if name == "operations":
        if work is None:
            raise ConfigError("The meter 'operations' reckons from `work`. Pass kopt.measure.Work(macs, moved_bytes).")
        return work
    found = Rapl.find(powercap)
    if found is None:
        raise MeasurementError(
            f"No RAPL counter below {powercap} can be read: most kernels let root alone. Choose meter='auto'."
        )
    return found


def _best_meter(runner: Runner, powercap: Path, work: Work | None, watts_per_core: float) -> Meter | Work:
    if runner.device == "gpu":
        return Gpu()
    found = Rapl.find(powercap)
    if found is not None:
        return found
    if is_installed("codecarbon"):
        carbon = CodeCarbon()
        if carbon.measured:
            return carbon
    return work or CpuTime(watts_per_core)
