"""A search that trains, on real data: what it finds, what it keeps, and that a run killed again and again finds the
same."""

import dataclasses
import json
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from processes import start_forked

import kopt
from kopt import cli, data, measure
from kopt.core.records.candidates import OptimizationResult
from kopt.search import demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_a_smaller_model_inside_the_budget(digits, tmp_path):
    """Five points of 269 examples: 13 examples. Without 3/8 of the channels about 0.4 of the weights are left."""
    model = demo.train_or_load(digits, tmp_path / "digits.keras")
    result = kopt.optimize(
        model,
        digits.train,
        digits.validation,
        workdir=tmp_path / "run",
        techniques=("channels", "aware", "post_training", "tflite-float32", "tflite-int8"),
        budget=kopt.Budget(0.05, "size"),
        training=kopt.Training(epochs=8),
        progress=None,
    )
    files = {one.name: one for one in result.candidates}
    best = result.best
    assert best.steps[0].technique == "channels"
    assert best.drop <= 0.05 + 1e-6
    assert files["tflite-float32"].artifact.size_bytes > 2.5 * best.artifact.size_bytes
    predicted = measure.load(best.artifact.path).predict(digits.validation.x).argmax(axis=1)
    assert best.evaluation.metrics["accuracy"] == pytest.approx(np.mean(predicted == digits.validation.y))
    assert "of the parameters are in layers whose channels can go" in best.why
    assert any(not one.kept for one in result.decisions)
    for directory in (tmp_path / "run" / "candidates").iterdir():
        assert {"recipe.json", "candidate.json"} <= {path.name for path in directory.iterdir()}
    for directory in (tmp_path / "run" / "models").iterdir():
        names = {path.name for path in directory.iterdir()}
        # Where widths were rounded to those of another strength, the training that follows was left out.
        assert {"made.json", "model.keras"} <= names or names == {"recipe.json", "log.txt"}


def small_network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(32, 3, 2, activation="relu"), keras.layers.Conv2D(32, 3, activation="relu")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def outcome(path: Path):
    """What does not depend on how fast the machine was."""
    result = OptimizationResult.from_json((path / "report.json").read_text())
    files = [
        (one.name, one.status, one.reason, one.evaluation.metrics, one.artifact.sha256, one.why)
        for one in result.candidates
    ]
    return files, [dataclasses.replace(one, seconds=0.0) for one in result.decisions], result.ended, result.notes


def finished(workdir: Path) -> int:
    return len([*workdir.glob("models/*/made.json"), *workdir.glob("candidates/*/candidate.json")])


def kept(workdir: Path) -> list[Path]:
    """The models and files of what was finished, and the records of files."""
    made = [path.with_name("model.keras") for path in workdir.glob("models/*/made.json")]
    records = [*workdir.glob("candidates/*/candidate.json")]
    return [*made, *records, *(path.with_name("model.tflite") for path in records)]


def test_a_run_that_is_killed_again_and_again_finds_what_an_uninterrupted_one_finds(digits, tmp_path):
    model = small_network()
    model.fit(digits.train.x, digits.train.y, epochs=15, verbose=0)
    model.save(tmp_path / "model.keras")
    train, held = digits.train, digits.validation
    np.savez(tmp_path / "digits.npz", x_train=train.x, y_train=train.y, x_val=held.x, y_val=held.y)
    words = ["optimize", str(tmp_path / "model.keras"), "--data", str(tmp_path / "digits.npz"), "--json"]
    words += ["--max-drop", "0.03", "--train-epochs", "2", "--techniques", "channels", "tflite-float32", "tflite-int8"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def started(workdir):
        return start_forked(cli.main, [*words, "--workdir", str(workdir)])

    with started(whole) as run:
        assert run.end().result == 0, run.errors()
    total, begun = finished(whole), set()
    for moment in (0, 1, 3, 6, total - 1):  # the last one is in the middle of the last file or of the latencies
        with started(killed) as run:
            deadline = time.monotonic() + 900
            while finished(killed) < moment or (moment == 0 and not list(killed.glob("candidates/*"))):
                assert run.is_alive(), run.errors()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            run.kill()
        begun.add(finished(killed))
    assert len(begun) >= 4, "the run was killed at different moments"
    before = {path: path.stat().st_mtime_ns for path in kept(killed)}
    with started(killed) as run:
        last = run.end()
    assert last.result == 0, last.errors
    assert json.loads(last.output)["best_name"]
    assert outcome(killed) == outcome(whole)
    assert finished(killed) == total
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not [path for path in killed.rglob("*") if "kopt-tmp" in path.name]
