import importlib.machinery
import sys
import time
import types

import pytest

from kopt.core.errors import ConfigError, MeasurementError, MissingDependencyError
from kopt.measure import Work, energy
from kopt.measure.meters import Rapl


def write_zone(root, name, label, counter, limit=1_000_000_000):
    zone = root / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{label}\n")
    (zone / "energy_uj").write_text(f"{counter}\n")
    (zone / "max_energy_range_uj").write_text(f"{limit}\n")
    return zone


def test_packages_are_summed_and_nothing_counted_twice(tmp_path):
    for name, label in (("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1")):
        write_zone(tmp_path, name, label, 1_000_000)
    write_zone(tmp_path, "intel-rapl:0:0", "core", 5)
    write_zone(tmp_path, "intel-rapl:2", "psys", 5)
    meter = Rapl.find(tmp_path)
    assert [zone.name for zone in meter.zones] == ["intel-rapl:0", "intel-rapl:1"]
    # 0.5 J and 2 J.
    assert meter.joules((1_000_000, 1_000_000), (1_500_000, 3_000_000)) == 2.5


def test_counter_that_wraps_around(tmp_path):
    write_zone(tmp_path, "intel-rapl:0", "package-0", 0, limit=10_000_000)
    # 2 J up to the range, then 1 J more.
    assert Rapl.find(tmp_path).joules((8_000_000,), (1_000_000,)) == 3.0


def test_energy_of_an_example_from_the_counters(tmp_path, function_runner):
    zone = write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    spent = 0

    def burn(x):
        nonlocal spent
        spent += 6_000
        (zone / "energy_uj").write_text(str(spent))
        return x

    # 6,000 microjoules a call of 4 examples: 1.5 mJ each.
    found = energy(function_runner(burn, 2, fixed_batch=4), seconds=0.05, powercap=tmp_path)
    assert found.millijoules == pytest.approx(1.5)
    assert found.measured
    assert "RAPL" in found.method


def test_counters_that_stand_still_are_no_measurement(tmp_path, function_runner):
    write_zone(tmp_path, "intel-rapl:0", "package-0", 7)
    with pytest.raises(MeasurementError, match="did not move"):
        energy(function_runner(lambda x: x, 2), seconds=0.01, powercap=tmp_path)


def test_without_a_meter_the_estimate_says_so(tmp_path, function_runner):
    def busy(x):
        end = time.process_time() + 0.005
        while time.process_time() < end:
            pass
        return x

    found = energy(function_runner(busy, 2), seconds=0.1, watts_per_core=20.0, powercap=tmp_path)
    # 5 ms of one core at 20 W are 100 mJ; the loop round it adds a little.
    assert 100.0 <= found.millijoules < 130.0
    assert not found.measured
    assert found.method == "estimate: CPU time of this process at an assumed 20 W a core; not measured"


def test_waiting_costs_no_cpu_time(tmp_path, function_runner):
    def wait(x):
        time.sleep(0.02)
        return x

    found = energy(function_runner(wait, 2), seconds=0.1, watts_per_core=10.0, powercap=tmp_path)
    # Awake for all of the 20 ms it would be 200 mJ.
    assert 0.0 < found.millijoules < 50.0


def test_settings_must_be_positive(function_runner):
    for settings in ({"seconds": 0}, {"watts_per_core": -1}):
        with pytest.raises(ConfigError, match="above 0"):
            energy(function_runner(lambda x: x, 2), **settings)


def test_work_is_reckoned_at_the_prices_of_its_type():
    # 1e6 int8 at 0.3 pJ are 0.3 uJ, 1e4 bytes at 162.5 pJ are 1.625 uJ: together 0.001925 mJ.
    assert Work(1_000_000, 10_000, "int8").millijoules == pytest.approx(0.001925)
    # The same in float32: 4.6 uJ and 1.625 uJ.
    assert Work(1_000_000, 10_000).millijoules == pytest.approx(0.006225)
    with pytest.raises(ConfigError, match="Unknown `dtype` 'int4'"):
        Work(1, 1, "int4")


def test_without_a_meter_the_work_is_the_estimate(tmp_path, function_runner):
    runner = function_runner(lambda x: x, 2)
    found = energy(runner, powercap=tmp_path, work=Work(1_000_000, 10_000, "int8"))
    assert (found.millijoules, found.measured) == (pytest.approx(0.001925), False)
    assert found.method == (
        "estimate: 1,000,000 int8 multiply-accumulates at 0.3 pJ and 10,000 bytes moved at 162.5 pJ (Horowitz 2014, "
        "45 nm); not measured"
    )
    assert runner.calls == []  # nothing has to run


def test_a_counter_is_better_than_work(tmp_path, function_runner):
    zone = write_zone(tmp_path, "intel-rapl:0", "package-0", 0)

    def burn(x):
        (zone / "energy_uj").write_text(str(int((zone / "energy_uj").read_text()) + 500))
        return x

    assert energy(function_runner(burn, 2), seconds=0.02, powercap=tmp_path, work=Work(1, 1)).measured


class Tracker:
    """Stands in for codecarbon's tracker: a kWh of 3.6e6 J has 1e-6 kWh = 3.6 J of processor and as much of GPU."""

    mode = "intel_rapl"

    def __init__(self, **settings):
        self.settings, self.log, self._hardware = settings, [], []

    def start_task(self, name):
        self._hardware = [types.SimpleNamespace(), types.SimpleNamespace(_mode=self.mode)]
        self.log.append(f"start {name}")

    def stop_task(self, name):
        self.log.append(f"stop {name}")
        return types.SimpleNamespace(cpu_energy=1e-6, gpu_energy=1e-6, ram_energy=5.0)


@pytest.fixture
def codecarbon(monkeypatch):
    trackers = []

    def make(**settings):
        trackers.append(Tracker(**settings))
        return trackers[-1]

    module = types.ModuleType("codecarbon")
    module.__spec__ = importlib.machinery.ModuleSpec("codecarbon", None)
    module.OfflineEmissionsTracker, module.__version__ = make, "3.9"
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    return trackers


def test_codecarbon_counts_where_it_finds_counters(tmp_path, function_runner, codecarbon):
    runner = function_runner(lambda x: x, 2, fixed_batch=4)
    found = energy(runner, seconds=0.01, powercap=tmp_path, work=Work(1, 1))
    # 7.2 J over all calls but the first, which warms up.
    assert found.millijoules == pytest.approx(7200 / (4 * (len(runner.calls) - 1)))
    assert found.measured
    assert found.method == "codecarbon 3.9 (counters intel_rapl), the whole machine"
    assert codecarbon[0].log == ["start probe", "stop probe", "start run", "stop run"]
    assert codecarbon[0].settings["save_to_file"] is False


def test_what_codecarbon_assumes_is_an_estimate_and_taken_only_if_asked(
    tmp_path, function_runner, codecarbon, monkeypatch
):
    monkeypatch.setattr(Tracker, "mode", "cpu_load")
    runner = function_runner(lambda x: x, 2)
    assert energy(runner, powercap=tmp_path, work=Work(1, 1)).method.startswith("estimate: 1 float32")
    found = energy(runner, seconds=0.01, powercap=tmp_path, meter="codecarbon")
    assert (found.measured, found.method) == (
        False, "codecarbon 3.9 (estimate, an assumed power: cpu_load), the whole machine"
    )  # fmt: skip


def test_a_meter_that_is_asked_for_and_not_there(tmp_path, function_runner, monkeypatch):
    runner = function_runner(lambda x: x, 2)
    with pytest.raises(MeasurementError, match=f"No RAPL counter below {tmp_path} can be read"):
        energy(runner, powercap=tmp_path, meter="rapl")
    with pytest.raises(ConfigError, match="reckons from `work`"):
        energy(runner, meter="operations")
    with pytest.raises(ConfigError, match="Unknown `meter` 'watt'"):
        energy(runner, meter="watt")
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'keras-kopt\[energy\]'"):
        energy(runner, meter="codecarbon")
