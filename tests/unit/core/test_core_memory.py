import subprocess
import sys

import pytest

from kopt.core import memory
from kopt.core.errors import MeasurementError

GIB = 2**30


@pytest.mark.slow
def test_peak_of_what_came_before_is_forgotten():
    # 256 MB taken and given back beforehand, as imports do, then 64 MB: the growth is the latter.
    code = (
        "import numpy as np; from kopt.core import memory\n"
        "np.ones(2**28, np.uint8)\n"
        "assert memory.peak_resident_bytes() > memory.resident_bytes() + 2**27\n"
        "before = memory.start_peak()\n"
        "np.ones(2**26, np.uint8)\n"
        "print(memory.peak_resident_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**26 <= int(done.stdout) + 2**20 < 2**26 + 2**24


def system(tmp_path, groups, files):
    """Write what Linux shows: 8 GiB available, the groups this process is in, and the groups' files."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:  {8 * GIB // 1024} kB\n")
    (proc / "self/cgroup").write_text(groups)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(f"{text}\n")
    return proc, cgroups


def test_without_a_limit_it_is_what_the_system_has(tmp_path):
    assert memory.available_bytes(*system(tmp_path, "0::/\n", {})) == 8 * GIB


def test_limit_of_a_group_less_its_use_and_plus_pages_of_files(tmp_path):
    files = {"a/memory.max": 3 * GIB, "a/memory.current": 2 * GIB, "a/memory.stat": f"anon 5\ninactive_file {GIB // 2}"}
    # 3 - 2 + 0.5
    assert memory.available_bytes(*system(tmp_path, "0::/a\n", files)) == 3 * GIB // 2


def test_tighter_limit_of_a_group_above_counts(tmp_path):
    files = {}
    for group, limit, use in (("a", 3 * GIB, 2 * GIB), ("a/b", "max", GIB), ("a/b/c", 4 * GIB, GIB)):
        files |= {
            f"{group}/memory.max": limit,
            f"{group}/memory.current": use,
            f"{group}/memory.stat": "inactive_file 0",
        }
    assert memory.available_bytes(*system(tmp_path, "0::/a/b/c\n", files)) == GIB


def test_version_1_and_a_group_that_is_over_its_limit(tmp_path):
    files = {
        "memory/x/memory.limit_in_bytes": GIB,
        "memory/x/memory.usage_in_bytes": 2 * GIB,
        "memory/x/memory.stat": "inactive_file 7\ntotal_inactive_file 0",
    }
    assert memory.available_bytes(*system(tmp_path, "5:cpu:/x\n4:memory,hugetlb:/x\n", files)) == 0


def test_another_system_is_an_error(tmp_path):
    with pytest.raises(MeasurementError, match="on Linux only"):
        memory.available_bytes(tmp_path, tmp_path)


def test_here():
    assert 0 < memory.resident_bytes() <= memory.peak_resident_bytes()
    assert memory.available_bytes() > 0
