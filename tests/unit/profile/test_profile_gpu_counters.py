"""The counters of a GPU, read from a stand-in for NVIDIA's library: no GPU is needed."""
# ruff: noqa: N802 - the names of the stand-in are those of NVML.

import types

import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, MeasurementError, MissingDependencyError
from kopt.core.records.profiles.runtime import GpuUsage
from kopt.profile.timing.counters import gpu_counters


class NVMLError(Exception):
    pass


class NotSupportedError(NVMLError):
    pass


class Nvml:
    """Two boards. Every reading of the first: 10 % more utilization, 1,000 bytes more, 5 J more."""

    NVMLError, NVMLError_NotSupported = NVMLError, NotSupportedError

    def __init__(self):
        self.readings, self.open, self.fails = 0, 0, False

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return b"Board A" if handle == 0 else "Board B"

    def nvmlDeviceGetUtilizationRates(self, handle):
        if self.fails:
            raise NVMLError("GPU is lost")
        self.readings += 1
        return types.SimpleNamespace(gpu=10 * self.readings)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return types.SimpleNamespace(used=1000 * self.readings, total=80_000)

    def nvmlDeviceGetPowerUsage(self, handle):
        if handle == 1:
            raise NotSupportedError
        return 200_000 + 100_000 * self.readings

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if handle == 1:
            raise NotSupportedError
        return 7_000_000 + 5_000 * self.readings


@pytest.fixture
def nvml(monkeypatch):
    library = Nvml()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0"])
    monkeypatch.setattr("kopt.profile.timing.counters.require", lambda module, purpose: library)
    return library


def test_readings_at_the_ends_of_the_block(nvml):
    with gpu_counters([0], interval_s=60) as watch:
        pass
    [gpu] = watch.result.gpus
    assert (gpu.name, gpu.index) == ("Board A", 0)
    assert gpu.utilization == (0.1, 0.2)
    assert gpu.mean_utilization == pytest.approx(0.15)
    assert (gpu.peak_memory_bytes, gpu.memory_total_bytes) == (2000, 80_000)
    # Watts: 300 and 400. Joules: the counter went from 7,005 to 7,010.
    assert gpu.mean_power_w == pytest.approx(350)
    assert gpu.energy_j == pytest.approx(5)
    assert nvml.open == 0
    assert GpuUsage.from_json(watch.result.to_json()).gpus == watch.result.gpus


def test_readings_in_between(nvml):
    with gpu_counters([0], interval_s=0.001) as watch:
        while nvml.readings < 5:
            pass
    assert len(watch.result.gpus[0].time_s) >= 6
    assert watch.result.gpus[0].time_s[0] == 0


def test_what_a_board_does_not_report_is_not_called_zero(nvml):
    with gpu_counters(interval_s=60) as watch:
        pass
    _, second = watch.result.gpus
    assert second.power_w is None
    assert second.mean_power_w is None
    assert second.energy_j is None
    assert "Board B" in watch.result.table()


def test_an_error_of_the_block_comes_through_and_the_library_is_closed(nvml):
    with pytest.raises(KeyError), gpu_counters(interval_s=60):
        raise KeyError
    assert nvml.open == 0


def test_a_gpu_that_is_lost_is_reported(nvml):
    with pytest.raises(MeasurementError, match="GPU is lost"), gpu_counters(interval_s=60):
        nvml.fails = True
    assert nvml.open == 0


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    with pytest.raises(MeasurementError, match="finds no GPU"):
        gpu_counters()


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0"])
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        gpu_counters()


@pytest.mark.parametrize("devices", [[2], [], [True], ["0"]])
def test_a_gpu_that_is_not_there(nvml, devices):
    with pytest.raises(ConfigError, match="numbers of GPUs"):
        gpu_counters(devices)
    assert nvml.open == 0


def test_an_impossible_interval(nvml):
    with pytest.raises(ConfigError, match="interval_s"):
        gpu_counters(interval_s=0)
