"""One run of the main job: what it finds, what it leaves on disk, and what a kill costs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import kopt
from kopt import data, measure
from kopt.core.records.candidates import Candidate, OptimizationResult
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
        model_path,
        digits.train,
        digits.validation,
        test=digits.test,
        workdir=workdir,
        techniques=TECHNIQUES,
        progress=None,
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
    least = min(c.measurement.latency_ms for c in inside)
    assert result.best.measurement.latency_ms <= 1.02 * least  # times so near are equal
    assert result.best in result.pareto


def test_the_report_reads_back_and_renders_again(run, tmp_path):
    workdir, result = run
    read = OptimizationResult.from_json((workdir / "report.json").read_text())
    assert read.candidates == result.candidates
    assert "tflite-int8" in result.report(tmp_path / "again.html").read_text()
    assert "again-pareto.svg" in result.report(tmp_path / "again.md").read_text()
    assert (tmp_path / "again-pareto.svg").is_file()


def test_a_second_run_makes_nothing_again(run, digits, model_path):
    workdir, first = run
    before = {path: path.stat().st_mtime_ns for path in (workdir / "candidates").rglob("*")}
    second = kopt.optimize(
        model_path, digits.train, digits.validation, workdir=workdir, techniques=TECHNIQUES, progress=None
    )
    assert {path: path.stat().st_mtime_ns for path in (workdir / "candidates").rglob("*")} == before
    assert [c.measurement for c in second.candidates] == [c.measurement for c in first.candidates]


def test_a_second_run_lets_no_file_answer_again(run, digits, model_path, monkeypatch):
    workdir, first = run
    asked = []
    predict = measure.Runner.predict
    monkeypatch.setattr(
        measure.Runner,
        "predict",
        lambda self, *args, **kwargs: asked.append(self.name) or predict(self, *args, **kwargs),
    )
    second = kopt.optimize(
        model_path, digits.train, digits.validation, workdir=workdir, techniques=TECHNIQUES, progress=None
    )
    # The model as given answers a few examples, so that a metric without a meaning is refused at once.
    assert set(asked) == {"demo_cnn"}
    assert len(asked) == 1
    assert [c.judgement for c in second.candidates] == [c.judgement for c in first.candidates]


def test_a_new_constraint_on_a_metric_exports_nothing_again(run, digits, model_path):
    workdir, _ = run
    before = {path: path.stat().st_mtime_ns for path in (workdir / "candidates").rglob("model*")}
    budget = kopt.Budget(constraints=("sparse_top_k_categorical_accuracy>=0.5", "peak_memory_bytes<=1"))
    second = kopt.optimize(
        model_path,
        digits.train,
        digits.validation,
        budget=budget,
        workdir=workdir,
        techniques=TECHNIQUES[2:],
        progress=None,
    )
    assert {path: path.stat().st_mtime_ns for path in (workdir / "candidates").rglob("model*")} == before
    assert second.best is None
    assert second.nearest.shortfalls[0].demand == "peak_memory_bytes<=1"
    assert all(c.evaluation.metrics["sparse_top_k_categorical_accuracy"] > 0.95 for c in second.candidates)
    assert second.nearest.name == min(second.candidates, key=lambda c: c.measurement.peak_memory_bytes).name
    assert f"The closest is {second.nearest.name}" in (workdir / "report.md").read_text()


def test_the_chosen_file_alone_is_judged_on_the_test_split(run, digits):
    _, result = run
    predicted = measure.load(result.best.artifact.path).predict(digits.test.x).argmax(axis=1)
    assert result.test.after == pytest.approx(np.mean(predicted == digits.test.y))
    assert result.test.examples == len(digits.test.y)
    assert result.test.interval[0] <= result.test.drop <= result.test.interval[1]
    classes = {one.label: one.examples for one in result.test.classes}
    assert classes == {str(label): int((digits.test.y == label).sum()) for label in range(10)}


def test_memory_and_energy_of_the_model_and_the_best_are_known(run):
    _, result = run
    for one in (result.baseline, result.best):
        assert one.measurement.peak_memory_bytes > 0
        assert one.measurement.energy.millijoules > 0


def test_without_labels_the_agreement_with_the_model_is_guarded(digits, model_path, tmp_path):
    result = kopt.optimize(
        model_path,
        digits.train,
        digits.validation.x,
        workdir=tmp_path / "run",
        techniques=("tflite-float32", "tflite-int8"),
        progress=None,
    )
    given = measure.load(model_path).predict(digits.validation.x).argmax(axis=1)
    assert result.budget.metric == "agreement"
    for one in result.candidates:
        answers = measure.load(one.artifact.path).predict(digits.validation.x).argmax(axis=1)
        assert one.evaluation.metrics["agreement"] == pytest.approx(np.mean(answers == given))
    assert "There are no labels: what is guarded is the agreement" in result.notes[0]
    for name in ("report.html", "report.md"):
        assert "There are no labels" in (tmp_path / "run" / name).read_text()


def test_what_another_model_left_in_the_directory_is_named_and_not_used(run, digits, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    before = (workdir / "report.json").read_text()
    place = workdir / f"earlier-{1 + len(list(workdir.glob('earlier-*')))}"
    model = demo.build((8, 8, 1), 10, width=2)
    result = kopt.optimize(
        model, digits.train, digits.validation, workdir=workdir, techniques=("tflite-float32",), progress=None
    )
    assert result.notes == (
        f"{workdir} also holds 4 finished candidates of another model; not used and left as they are.",
        f"The report that was here, of model demo_cnn and arrays, 269 validation examples, is in {place}.",
    )
    assert (place / "report.json").read_text() == before
    assert [candidate.artifact.source_sha256 for candidate in result.candidates] == [kopt.graph.fingerprint(model)]


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


def test_the_layer_that_spoils_the_integers_stays_in_float(tmp_path):
    """Features up to 1 and up to 10,000 share one scale where they are rounded, so that the small ones are lost."""
    generator = np.random.default_rng(0)
    x = generator.random((400, 6)).astype(np.float32)
    y = (x.argmax(axis=1) % 3).astype(np.int64)
    x *= np.geomspace(1, 1e4, 6, dtype=np.float32)
    scale = keras.layers.Normalization(name="scale")
    scale.adapt(x)
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((6,)), scale, *layers])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:300], y[:300], epochs=20, verbose=0)
    result = kopt.optimize(
        model,
        (x[:300], y[:300]),
        (x[300:], y[300:]),
        budget=kopt.Budget(0.03, "size"),
        techniques=("mixed", "tflite-float32", "tflite-int8"),
        workdir=tmp_path / "run",
        progress=None,
    )
    files = {one.name: one for one in result.candidates}
    assert files["tflite-int8"].status == "failed" or files["tflite-int8"].drop > 0.1
    mixed = files["mixed-20+tflite-int8"]
    assert mixed.within_budget
    assert mixed.artifact.options["fallback"] == "scale"
    assert mixed.made.startswith("1 layer(s) in float: scale; ")
    floats = {one.name for one in mixed.artifact.operators if one.dtype == "float32"}
    assert "FULLY_CONNECTED" not in floats
    assert floats & {"SUB", "MUL"}


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
