"""The log on the disk: bounded, whole after a kill, and no trouble to the server when the disk is full."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kopt.core.errors import ConfigError, LoadError, OutputError
from kopt.serve.monitoring.lines import decoded, encoded, packed, unpacked
from kopt.serve.monitoring.log_files import LogFile, log_files, log_lines

EVENT = {"kind": "label", "t": 1.5, "up": 0.5, "run": "r", "id": "a", "labels": [1, 0.5]}


@pytest.fixture
def opened():
    """Open logs; closed at the end. What they say is in `said`."""
    logs = []

    def open_(path, max_bytes=1 << 20, keep=2):
        said = []
        logs.append(LogFile(Path(path), max_bytes, keep, said.append))
        logs[-1].said = said
        return logs[-1]

    yield open_
    for log in logs:
        if log._file != -2:
            log.close()


def close(log):
    log.close()
    log._file = -2


def test_files_are_bounded_and_read_in_order(tmp_path, opened):
    log = opened(tmp_path / "a.jsonl", max_bytes=4096, keep=2)
    lines = [b"%06d" % number + b"x" * 93 + b"\n" for number in range(200)]  # 100 bytes each, 40 a file
    for start in range(0, 200, 7):
        log.write(lines[start : start + 7])
    sizes = [one.stat().st_size for one in log_files(log.path)]
    assert [one.name for one in log_files(log.path)] == ["a.jsonl.2", "a.jsonl.1", "a.jsonl"]
    assert max(sizes) <= 4096
    kept = list(log_lines(log.path))
    assert kept == [line[:-1] for line in lines[-len(kept) :]]
    assert (log.written, log.dropped) == (200, 0)
    assert log.path.stat().st_mode & 0o077 == 0  # inputs may be anything: the owner alone reads them


def test_a_log_that_rotates_while_it_is_read_is_read_whole(tmp_path, opened):
    log = opened(tmp_path / "a.jsonl", max_bytes=4096, keep=5)
    lines = [b"%06d" % number + b"x" * 93 + b"\n" for number in range(200)]
    for line in lines[:150]:
        log.write([line])
    reading = log_lines(log.path)
    found = [next(reading)]
    for line in lines[150:]:
        log.write([line])
    found += reading
    assert found[:150] == [line[:-1] for line in lines[:150]]
    assert len(set(found)) == len(found)


def test_without_older_files_the_newest_begins_anew(tmp_path, opened):
    log = opened(tmp_path / "a", max_bytes=4096, keep=0)
    for _ in range(3):
        log.write([b"x" * 2999 + b"\n"])
    assert [one.name for one in log_files(log.path)] == ["a"]
    assert log.path.stat().st_size == 3000


def test_what_a_kill_left_of_a_line_becomes_a_line_of_its_own(tmp_path, opened):
    path = tmp_path / "a"
    path.write_bytes(encoded(EVENT) + b'{"kind": "req')
    log = opened(path)
    log.write([encoded(EVENT)])
    assert [decoded(line) for line in log_lines(path)] == [EVENT, None, EVENT]


def test_a_full_disk_drops_lines_says_so_once_and_goes_on(tmp_path, opened):
    # /dev/full is a disk that has no room: the system itself refuses every write.
    (tmp_path / "full").symlink_to("/dev/full")
    log = opened(tmp_path / "full")
    log.write([b"a\n", b"b\n"])
    log.write([b"c\n"])
    assert (log.written, log.dropped) == (0, 3)
    assert log.said == [f"lines of {tmp_path / 'full'} are dropped: No space left on device"]


def test_half_a_batch_is_taken_back_and_the_next_goes_in_when_there_is_room(tmp_path, opened, monkeypatch):
    log = opened(tmp_path / "a")
    log.write([b"before\n"])
    write, room = os.write, [3]

    def limited(file, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part, room[0] = bytes(data)[: room[0]], 0
        return write(file, part)

    monkeypatch.setattr(os, "write", limited)
    log.write([b"lost\n"])
    assert log.path.read_bytes() == b"before\n"
    monkeypatch.setattr(os, "write", write)
    log.write([b"after\n"])
    assert log.path.read_bytes() == b"before\nafter\n"
    assert (log.written, log.dropped) == (2, 1)
    assert "takes lines again; 1 were dropped" in log.said[-1]


def test_a_log_has_one_writer_and_a_place(tmp_path, opened):
    log = opened(tmp_path / "a")
    with pytest.raises(ConfigError, match="Another server writes"):
        opened(tmp_path / "a")
    close(log)
    opened(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        opened(tmp_path / "file" / "a")


def test_a_log_that_is_not_there(tmp_path):
    with pytest.raises(LoadError, match=r"There is no log .*`kopt serve --log FILE` writes one"):
        log_files(tmp_path / "absent")


WRITER = """
import sys
from pathlib import Path
from kopt.serve.monitoring.log_files import LogFile
log = LogFile(Path(sys.argv[1]), 1 << 16, 3, print)
print("ready", flush=True)
number = 0
while True:
    log.write([b'{"n": %d, "fill": "%s"}\\n' % (number + k, b"x" * 200) for k in range(50)])
    number += 50
"""


def test_a_kill_loses_no_line_that_was_written(tmp_path):
    path = tmp_path / "a"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    while not path.exists() or len(log_files(path)) < 3:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    numbers, damaged = [], 0
    for line in log_lines(path):
        try:
            numbers.append(json.loads(line)["n"])
        except ValueError:
            damaged += 1
    assert damaged <= 1
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert sum(one.stat().st_size for one in log_files(path)) <= 4 << 16


def test_arrays_come_back_bit_for_bit():
    arrays = {
        "x": np.array([[1.5, np.nan], [-np.inf, 2.0**-149]], np.float32),
        "n": np.array([[7]], ">i8"),
        "b": np.array([True, False]),
        "e": np.zeros((0, 3), np.uint8),
        "t": np.array([["näh", ""], ["c", "two\nlines"]]),
    }
    found = unpacked(json.loads(json.dumps(packed(arrays))))
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "content",
    [
        None,
        {"x": 1},
        {"x": {"dtype": "<f4", "shape": [2], "b64": "AAAA"}},
        {"x": {"dtype": "|O", "shape": [0], "b64": ""}},
        {"x": {"dtype": "<f4", "shape": [-1], "b64": ""}},
        {"x": {"dtype": "<f4", "shape": ["a"], "b64": ""}},
        {"x": {"dtype": "nothing", "shape": [0], "b64": ""}},
        {"x": {"dtype": "<f4", "shape": [0], "b64": "*"}},
        {"x": {"shape": [1], "text": [3]}},
        {"x": {"shape": [2], "text": ["a"]}},
    ],
)
def test_what_is_no_array_is_none(content):
    assert unpacked(content) is None


def test_not_finite_numbers_are_null():
    assert json.loads(encoded({"a": [1.0, float("nan")], "b": {"c": float("inf")}})) == {
        "a": [1.0, None],
        "b": {"c": None},
    }


def test_damaged_lines_are_none_and_never_an_error():
    generator = random.Random(0)
    line = encoded({**EVENT, "kind": "request", "code": 200, "ms": 1.0, "version": 1, "n": 2, "role": "main"})
    assert decoded(line) is not None
    refused = 0
    for _ in range(3000):
        data = bytearray(line)
        for _ in range(generator.choice((1, 1, 4))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        found = decoded(bytes(data[: generator.choice((None, generator.randrange(len(data))))]))
        refused += found is None
    assert 1500 < refused < 3000
    assert decoded(b"[" * 100_000) is None
