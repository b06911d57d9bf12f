"""A run that is killed at 20 random moments finds what an uninterrupted one finds."""

import dataclasses
import random
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from processes import begin
from search_until_killed import search

from kopt import data
from kopt.core.records.candidates import OptimizationResult

pytestmark = pytest.mark.slow
KILLS = 20
# What a run leaves on disk as it goes on, each written in one step.
MARKS = (
    "supplies-*",
    "baseline-*.npz",
    "candidates/*/candidate.json",
    "models/*/made.json",
    "measurements-*.json",
    "report.json",
)


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


@pytest.fixture
def arguments(tmp_path):
    digits = data.load("digits")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(16, 3, 2, use_bias=False), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    layers += [keras.layers.Conv2D(16, 3, activation="relu")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=20)
    model.fit(digits.train.x, digits.train.y, epochs=10, verbose=0)
    model.save(tmp_path / "model.keras")
    arrays = {"x": digits.train.x[:320], "y": digits.train.y[:320], "x_val": digits.validation.x}
    np.savez(tmp_path / "digits.npz", **arrays, y_val=digits.validation.y)
    return tmp_path / "model.keras", tmp_path / "digits.npz"


def test_a_run_that_is_killed_at_20_random_moments_finds_what_an_uninterrupted_one_finds(arguments, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begun = set()
    for count, delay in moments(timeline(begin(search, *arguments, whole), whole)):
        run = begin(search, *arguments, killed)
        while marks(killed) < count:
            assert run.is_alive(), f"it ended with {marks(killed)} marks before {count}"
            time.sleep(0.005)
        run.join(delay)
        run.kill()
        run.join()
        begun.add(marks(killed))
    assert len(begun) >= 5, "the run was killed at different moments"
    before = {path: path.stat().st_mtime_ns for path in killed.glob("models/*/model.keras")}
    last = begin(search, *arguments, killed)
    last.join()
    assert last.exitcode == 0
    assert outcome(killed) == outcome(whole)
    assert marks(killed) >= marks(whole)  # a latency that was measured twice is kept twice
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not [path for path in killed.rglob("*") if "kopt-tmp" in path.name]
