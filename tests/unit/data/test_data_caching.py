import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from processes import run_program

from kopt.core.errors import ConfigError, OutputError
from kopt.core.records.training.data import CachePlan
from kopt.data import cache_of, plan_cache
from kopt.data.caching import apply_cache, dataset_bytes, function_fingerprint, remember_cache
from kopt.data.room import available_memory_bytes, free_disk_bytes

ROWS = tf.data.Dataset.from_tensor_slices((np.zeros((10, 25), np.float32), np.zeros(10, np.int64)))
BYTES = 10 * (25 * 4 + 8)


def plan(dataset=ROWS, *, memory, disk, cache="auto"):
    return plan_cache(dataset, cache, memory_bytes=lambda: memory, disk_bytes=lambda path: disk)


def test_the_size_is_the_number_of_elements_times_the_size_of_one():
    assert dataset_bytes(ROWS) == BYTES
    # 4 batches of 3, 3, 3, 1: the full ones are read to find out, so the last counts as full.
    assert dataset_bytes(ROWS.batch(3)) == 4 * 3 * (25 * 4 + 8)
    # 24 bytes for each string object and its characters.
    assert dataset_bytes(tf.data.Dataset.from_tensor_slices(["abcd", "abcd"])) == 2 * (24 + 4)
    assert dataset_bytes(ROWS.repeat()) is None
    assert dataset_bytes(ROWS.filter(lambda x, y: y > 0)) is None


def test_auto_takes_memory_then_disk_then_nothing():
    assert plan(memory=2 * BYTES, disk=0).place == "memory"
    on_disk = plan(memory=2 * BYTES - 1, disk=BYTES * 10 // 8)
    assert on_disk.place == "disk"
    assert on_disk.size_bytes == BYTES
    nowhere = plan(memory=2 * BYTES - 1, disk=BYTES * 10 // 8 - 1)
    assert nowhere.place == "none"
    assert "cache='/data/cache'" in nowhere.reason
    assert plan(memory=None, disk=10 * BYTES).place == "disk", "an unknown amount of memory is not trusted"
    assert "unknown or infinite" in plan(ROWS.repeat(), memory=10**9, disk=10**9).reason


def test_a_plan_reads_back_from_json():
    decided = plan(memory=0, disk=10**9)
    assert CachePlan.from_json(decided.to_json()) == decided
    with pytest.raises(ConfigError, match="belongs to `place='disk'`"):
        CachePlan("memory", "x", directory="/tmp/x")


def test_what_was_asked_for_is_taken(tmp_path):
    assert plan(memory=0, disk=0, cache=None).place == plan(memory=0, disk=0, cache=False).place == "none"
    assert plan(memory=0, disk=0, cache=True).place == plan(memory=0, disk=0, cache="memory").place == "memory"
    assert plan(memory=0, disk=0, cache=tmp_path).place == "disk"


@pytest.mark.parametrize("cache", [3, "", 1.5, ["x"]])
def test_impossible_caches(cache):
    with pytest.raises(ConfigError, match="`cache` must be None, True, 'memory', 'auto' or the path"):
        plan_cache(ROWS, cache)


def test_a_misspelt_cache_is_no_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'memory'"):
        plan_cache(ROWS, "memroy")
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        plan_cache(ROWS, tmp_path / "file")


def test_the_choice_can_be_asked_for_and_is_logged(caplog):
    caplog.set_level("INFO", "kopt.data")
    dataset, decided = apply_cache(ROWS, "auto", fingerprint="x")
    assert cache_of(dataset) is None, "the builder notes it on the data set that it returns"
    assert cache_of(remember_cache(dataset, decided)) == decided
    assert decided.place == "memory"
    assert "cached in memory: it fits, 0.00108 MB of" in caplog.text
    caplog.clear()
    _, decided = apply_cache(ROWS.repeat(), "auto", fingerprint="x")
    assert decided.place == "none"
    assert "WARNING" in caplog.text, "asked for and not given"


def counted(values=5):
    """A data set that counts how often its elements are made."""
    made = tf.Variable(0)

    def count(i):
        made.assign_add(1)
        return i

    return tf.data.Dataset.range(values).map(count), made


def test_a_complete_cache_serves_the_next_run_and_no_other_content(tmp_path):
    for turn, (fingerprint, expected) in enumerate((("a", 5), ("a", 0), ("b", 5), ("a", 0))):
        dataset, made = counted()
        dataset, _ = apply_cache(dataset, tmp_path, fingerprint=fingerprint)
        assert list(dataset.as_numpy_iterator()) == [0, 1, 2, 3, 4]
        assert made.numpy() == expected, f"turn {turn}"
    dataset, made = counted(6)
    assert len(list(apply_cache(dataset, tmp_path, fingerprint="a")[0])) == made.numpy() == 6


def test_two_that_fill_at_once_do_not_meet(tmp_path):
    first, _ = apply_cache(counted()[0], tmp_path, fingerprint="a")
    second, _ = apply_cache(counted()[0], tmp_path, fingerprint="a")
    one, two = iter(first), iter(second)
    for expected in range(5):
        assert int(next(one)) == int(next(two)) == expected


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    _, decided = apply_cache(counted()[0], tmp_path, fingerprint="a")
    abandoned = Path(decided.directory) / "fill-gone"
    abandoned.mkdir()
    for name in ("owner.lock", "elements_0.lockfile", "elements_0.data-00000-of-00001.tempstate1"):
        (abandoned / name).touch()
    dataset, made = counted()
    dataset, _ = apply_cache(dataset, tmp_path, fingerprint="a")
    assert len(list(dataset)) == made.numpy() == 5
    assert not abandoned.exists()


KILLED = """
import os, signal, sys, tensorflow as tf
from kopt.data.caching import apply_cache
dataset, _ = apply_cache(tf.data.Dataset.range(5), sys.argv[1], fingerprint="a")
iterator = iter(dataset)
next(iterator), next(iterator)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_cache_whose_filling_was_killed_is_filled_anew(tmp_path):
    killed = run_program(KILLED, str(tmp_path))
    assert killed.exit_code == -signal.SIGKILL, killed.errors
    [left] = tmp_path.glob("*/fill-*")
    assert list(left.glob("*.lockfile")), "plain tf.data refuses to go on from here"
    dataset, _ = apply_cache(tf.data.Dataset.range(5), tmp_path, fingerprint="a")
    assert [list(dataset.as_numpy_iterator()) for _ in range(2)] == [[0, 1, 2, 3, 4]] * 2
    assert not left.exists()


def test_a_function_is_named_by_what_it_computes():
    spec = (tf.TensorSpec((None, 3)), tf.TensorSpec((None,), tf.int64))

    def add(amount):
        return lambda x, y: (tf.nn.relu(x) + amount, y)

    assert function_fingerprint(add(1.0), spec) == function_fingerprint(add(1.0), spec)
    assert function_fingerprint(add(1.0), spec) != function_fingerprint(add(2.0), spec)
    one, two = tf.constant([1.0, 2.0, 3.0]), tf.constant([1.0, 2.0, 4.0])
    assert function_fingerprint(add(one), spec) != function_fingerprint(add(two), spec)
    variable = tf.Variable(1.0)
    assert function_fingerprint(add(variable), spec) != function_fingerprint(add(variable), spec)


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}


def test_memory_of_a_machine_without_groups(tmp_path):
    assert available_memory_bytes(write(tmp_path, MEMINFO)) == 8000 * 1024


def test_memory_in_a_group_of_version_2_counts_its_parents_and_gives_back_file_pages(tmp_path):
    group = "sys/fs/cgroup/user/job"
    files = {
        **MEMINFO,
        "proc/self/cgroup": "0::/user/job\n",
        f"{group}/memory.max": "5000000\n",
        f"{group}/memory.current": "4000000\n",
        f"{group}/memory.stat": "anon 1000000\ninactive_file 1500000\n",
        "sys/fs/cgroup/user/memory.max": "max\n",
        "sys/fs/cgroup/user/memory.current": "4500000\n",
    }
    # 5.0 MB allowed, 4.0 MB used, of which 1.5 MB are pages of files.
    assert available_memory_bytes(write(tmp_path, files)) == 2_500_000
    write(tmp_path, {"sys/fs/cgroup/user/memory.max": "4700000\n"})
    assert available_memory_bytes(tmp_path) == 200_000, "the parent's limit is nearer"


def test_memory_in_a_group_of_version_1(tmp_path):
    group = "sys/fs/cgroup/memory/job"
    files = {
        **MEMINFO,
        "proc/self/cgroup": "7:blkio:/\n4:memory:/job\n0::/\n",
        f"{group}/memory.limit_in_bytes": "3000000\n",
        f"{group}/memory.usage_in_bytes": "2000000\n",
        f"{group}/memory.stat": "total_inactive_file 500000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "9000000\n",
    }
    assert available_memory_bytes(write(tmp_path, files)) == 1_500_000


def test_memory_where_the_system_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf_names", {})
    assert available_memory_bytes(tmp_path) is None


def test_disk_of_a_place_that_does_not_exist_yet(tmp_path):
    assert free_disk_bytes(tmp_path / "a" / "b") == pytest.approx(free_disk_bytes(tmp_path), rel=0.1)
