"""A run that is killed at random moments, or has no room, finds in the end what an uninterrupted one finds."""

import dataclasses
import random
import subprocess
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from processes import begin, run_forked
from search_until_killed import search, search_in_little_room

from kopt import data
from kopt.core.files import size_bytes
from kopt.core.records.candidates import OptimizationResult

pytestmark = [pytest.mark.slow, pytest.mark.long]
KILLS = 20
# What a run leaves on disk as it goes on, each written in one step.
MARKS = ("supplies-*", "baseline-*.npz", "candidates/*/candidate.json", "models/*/made.json", "measurements-*.json")


def outcome(workdir: Path):
    """What does not depend on how fast the machine was."""
    result = OptimizationResult.from_json((workdir / "report.json").read_text())
    files = [
        (one.name, one.status, one.reason, one.evaluation.metrics, one.artifact.sha256, one.why, one.drop)
        for one in result.candidates
    ]
    return files, [dataclasses.replace(one, seconds=0.0) for one in result.decisions], result.ended, result.notes


def marks(workdir: Path) -> int:
    return sum(len(list(workdir.glob(pattern))) for pattern in MARKS)


def leftovers(workdir: Path) -> list[Path]:
    return [path for path in workdir.rglob("*") if "kopt-tmp" in path.name]


def timeline(process, workdir: Path) -> list[float]:
    """Return the seconds after which a run left each of its marks, and at last those of its end."""
    started, seen = time.monotonic(), []
    while process.is_alive():
        seen += [time.monotonic() - started] * (marks(workdir) - len(seen))
        time.sleep(0.01)
    assert process.exitcode == 0
    return [*seen, time.monotonic() - started]


def moments(times: list[float]) -> list[tuple[int, float]]:
    """Return 20 random moments, spread over a run: the marks that are there by then, and the seconds since the last."""
    chance, whole = random.Random(0), times[-1]
    chosen = [whole * (part + chance.random()) / KILLS for part in range(KILLS)]
    left = [[0.0, *(time for time in times[:-1] if time <= one)] for one in chosen]
    return [(len(before) - 1, one - before[-1]) for one, before in zip(chosen, left, strict=True)]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A trained model and examples, as files."""
    digits, place = data.load("digits"), tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(16, 3, 2, use_bias=False), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    layers += [keras.layers.Conv2D(16, 3, activation="relu")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=20)
    model.fit(digits.train.x, digits.train.y, epochs=10, verbose=0)
    model.save(place / "model.keras")
    arrays = {"x": digits.train.x[:320], "y": digits.train.y[:320], "x_val": digits.validation.x}
    np.savez(place / "digits.npz", **arrays, y_val=digits.validation.y)
    return place / "model.keras", place / "digits.npz"


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The directory of an uninterrupted run, and when it left its marks."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, timeline(begin(search, *arguments, workdir), workdir)


def wait_for(condition, run) -> None:
    while not condition():
        assert run.is_alive(), "it ended before it was killed"
        time.sleep(0.005)


def check_that_a_second_run_is_refused(arguments, workdir, run) -> None:
    """Another run in the same directory ends at once and names the one that works there."""
    lock = workdir / ".kopt-run.lock"
    wait_for(lambda: f'"pid": {run.pid},' in lock.read_text(), run)
    refused = run_forked(search_in_little_room, *arguments, workdir)
    assert f"Another run works in {workdir}: process {run.pid} on " in refused.result


def test_a_run_that_is_killed_at_20_random_moments_finds_what_an_uninterrupted_one_finds(arguments, whole, tmp_path):
    killed, begun = tmp_path / "killed", set()
    for number, (count, delay) in enumerate(moments(whole[1])):
        run = begin(search, *arguments, killed)
        if number == KILLS // 2:
            check_that_a_second_run_is_refused(arguments, killed, run)
        wait_for(lambda count=count: marks(killed) >= count, run)
        run.join(delay)
        run.kill()
        run.join()
        begun.add(marks(killed))
    assert len(begun) >= 5, "the run was killed at different moments"
    ready = [*killed.glob("models/*/model.keras"), *killed.glob("candidates/*/candidate.json")]
    ready += [path.with_name("model.tflite") for path in killed.glob("candidates/*/candidate.json")]
    before = {path: path.stat().st_mtime_ns for path in ready if path.exists()}
    assert any(path.name == "candidate.json" for path in before)
    last = begin(search, *arguments, killed)
    last.join()
    assert last.exitcode == 0
    assert outcome(killed) == outcome(whole[0])
    assert marks(killed) >= marks(whole[0])  # a latency that was measured twice is kept twice
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert leftovers(killed) == []


@pytest.fixture
def little_room(tmp_path):
    """Return a directory and a function that bounds what can be written there, in bytes.

    A file system in memory where it may be mounted; elsewhere each file is bounded.
    """
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield place / "run", lambda allowed: allowed // 10
        return

    def resize(allowed):
        subprocess.run(["mount", "-o", f"remount,size={max(allowed, 4096)}", place], check=True)

    yield place / "run", resize
    subprocess.run(["umount", place], check=True)


def test_a_run_without_room_names_the_place_and_goes_on_when_there_is_some(arguments, whole, little_room):
    """It stops at its supplies, and then further on; the last time it has four times what it needs."""
    workdir, bound = little_room
    done, needed = [], size_bytes(whole[0])
    for share in (0.0, 0.3, 0.6, 0.9):
        ended = run_forked(search_in_little_room, *arguments, workdir, bound(int(share * needed)))
        assert ended.exit_code == 0, ended.errors
        assert f"Cannot write {workdir}" in ended.result
        assert "room" in ended.result
        assert leftovers(workdir) == []
        done.append(marks(workdir))
    assert done == sorted(done)
    bound(4 * needed)
    last = run_forked(search_in_little_room, *arguments, workdir)
    assert (last.exit_code, last.result) == (0, ""), last.errors
    assert outcome(workdir) == outcome(whole[0])
