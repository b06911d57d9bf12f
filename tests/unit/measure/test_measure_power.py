import time

import pytest

from kopt.core.errors import ConfigError, MeasurementError
from kopt.measure import energy
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
