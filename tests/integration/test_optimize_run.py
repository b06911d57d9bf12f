"""One run of the main job: what it finds, what it leaves on disk, and that a killed run goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import kopt
from kopt import data, measure
from kopt.core.records import Candidate, OptimizationResult
from kopt.search import demo

pytestmark = pytest.mark.slow
TECHNIQUES = ("saved_model", "onnx", "tflite-float32", "tflite-int8")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def model_path(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "digits.keras"
    demo.train_or_load(digits, path)
    return path


@pytest.fixture(scope="module")
def run(digits, model_path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    result = kopt.optimize(
        model_path, digits.train, digits.validation, workdir=workdir, techniques=TECHNIQUES, progress=None
    )
    return workdir, result


def test_the_numbers_are_those_of_the_files(run, digits):
    _, result = run
    labels = digits.validation.y
    for candidate in result.candidates:
        predicted = measure.load(candidate.artifact.path).predict(digits.validation.x).argmax(axis=1)
        assert candidate.evaluation.metrics["accuracy"] == pytest.approx(np.mean(predicted == labels))
        assert candidate.drop == pytest.approx(  # Keras keeps the sums of a metric in float32
            result.baseline.evaluation.metrics["accuracy"] - np.mean(predicted == labels), abs=1e-6
        )
    assert result.baseline.evaluation.metrics["accuracy"] > 0.95


def test_the_best_is_the_fastest_inside_the_budget(run):
    _, result = run
    inside = [c for c in result.candidates if c.drop <= result.budget.max_drop]
    assert result.best.measurement.latency_ms == min(c.measurement.latency_ms for c in inside)
    assert result.best in result.pareto


def test_the_report_reads_back_and_renders_again(run, tmp_path):
    workdir, result = run
    read = OptimizationResult.from_json((workdir / "report.json").read_text())
    assert read.candidates == result.candidates
    assert "tflite-int8" in result.report(tmp_path / "again.html").read_text()


def test_a_second_run_makes_nothing_again(run, digits, model_path):
    workdir, first = run
    before = {path: path.stat().st_mtime_ns for path in (workdir / "candidates").rglob("*")}
    second = kopt.optimize(
        model_path, digits.train, digits.validation, workdir=workdir, techniques=TECHNIQUES, progress=None
    )
    assert {path: path.stat().st_mtime_ns for path in (workdir / "candidates").rglob("*")} == before
    assert [c.measurement for c in second.candidates] == [c.measurement for c in first.candidates]


def test_a_damaged_candidate_is_made_again(run, digits, model_path):
    workdir, first = run
    victim = Path(next(c for c in first.candidates if c.name == "tflite-int8").artifact.path)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-10])
    second = kopt.optimize(
        model_path, digits.train, digits.validation, workdir=workdir, techniques=TECHNIQUES, progress=None
    )
    assert all(c.status == "ok" for c in second.candidates)
    assert len(victim.read_bytes()) == len(whole)


def test_a_failing_candidate_is_reported_and_the_run_goes_on(digits, model_path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer.quantizer", None)
    result = kopt.optimize(
        model_path,
        digits.train,
        digits.validation,
        workdir=tmp_path / "run",
        techniques=("tflite-int4", "tflite-float32"),
        progress=None,
    )
    failed, fine = result.candidates
    assert failed.status == "failed"
    assert "pip install 'keras-kopt[int4]'" in failed.reason
    assert fine.status == "ok"
    assert result.best_name == "tflite-float32"


def finished(workdir):
    return sorted((workdir / "candidates").glob("*/candidate.json"))


def test_a_killed_run_goes_on_where_it_stopped(digits, model_path, tmp_path):
    """`kill -9` in the middle; the second run keeps what was finished, bit for bit, and ends without leftovers."""
    np.savez(
        tmp_path / "digits.npz",
        x_train=digits.train.x,
        y_train=digits.train.y,
        x_val=digits.validation.x,
        y_val=digits.validation.y,
    )
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "kopt", "optimize", str(model_path), "--data", str(tmp_path / "digits.npz")]
    command += ["--workdir", str(workdir), "--json", "--techniques", *TECHNIQUES]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(finished(workdir)) < 2 and time.monotonic() < deadline:
        assert first.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in finished(workdir)}
    assert 2 <= len(kept) < len(TECHNIQUES)
    for path in kept:
        Candidate.from_json(path.read_text())
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(second.stdout)["best_name"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(finished(workdir)) == len(TECHNIQUES)
    assert not [path for path in workdir.rglob("*") if "kopt-tmp" in path.name]
