"""`kopt.tune` on real data: what it finds and leaves, that it goes on after any kill, and that memory does not grow."""

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tuning_architectures

import kopt
from kopt import data, measure
from kopt.core.errors import ConfigError
from kopt.core.memory import resident_bytes
from kopt.core.progress import Silent
from kopt.core.records.candidates import OptimizationResult
from kopt.search.tuning import outcomes
from kopt.search.tuning.environment import IP, PORT, TUNER_ID

pytestmark = [pytest.mark.slow, pytest.mark.long]
SIZE = kopt.Budget(0.05, "size")
LIMIT = 300.0


@pytest.fixture(scope="module")
def digits():
    found = data.load("digits")
    few = data.Split(found.train.x[:512], found.train.y[:512])
    return dataclasses.replace(found, train=few)


@pytest.fixture(scope="module")
def model_path(digits, tmp_path_factory):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.Conv2D(32, 3, 2, activation="relu")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1), name="image"), *layers], name="digits")
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(digits.train.x, digits.train.y, epochs=10, verbose=0)
    path = tmp_path_factory.mktemp("model") / "digits.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def npz(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    train, held = digits.train, digits.validation
    np.savez(path, x_train=train.x, y_train=train.y, x_val=held.x, y_val=held.y)
    return path


class Watching(Silent):
    """Notes the memory of this process when each step begins."""

    def __init__(self):
        self.steps, self.bytes = [], []

    def step(self, description):
        gc.collect()  # what waits for the collector is no growth, and it comes seldom here
        self.steps.append(description)
        self.bytes.append(resident_bytes())


def tune(digits, model_path, workdir, **settings):
    defaults = {"budget": SIZE, "progress": None, "workdir": workdir}
    return kopt.tune(model_path, digits.train, digits.validation, **{**defaults, **settings})


def trials_of(workdir):
    return [one for place in workdir.glob("tuning-*/trials") for one in outcomes.read(place)]


@pytest.fixture(scope="module")
def run(digits, model_path, tmp_path_factory):
    """Nine trials, of which the later ones show whether memory grows."""
    workdir, watching = tmp_path_factory.mktemp("run"), Watching()
    settings = {"techniques": ["channels"], "training": kopt.Training(epochs=1), "tuner": "pareto", "max_trials": 9}
    result = tune(digits, model_path, workdir, **settings, progress=watching)
    return workdir, result, watching, settings


def test_the_numbers_are_those_of_the_files(run, digits):
    _, result, _, _ = run
    assert result.ended == "9 trials were made, all that `max_trials` allows."
    made = [one for one in result.candidates if one.status == "ok"]
    assert len(made) >= 4
    for one in made:
        predicted = measure.load(one.artifact.path).predict(digits.validation.x).argmax(axis=1)
        assert one.evaluation.metrics["accuracy"] == pytest.approx(np.mean(predicted == digits.validation.y))
    inside = [one for one in made if one.within_budget]
    assert result.best.artifact.size_bytes == min(one.artifact.size_bytes for one in inside)


def test_the_tuner_was_told_what_the_files_are_worth(run):
    """The order of scores is that of the budget: inside by size, outside behind all of these, no file last."""
    workdir, result, _, _ = run
    candidates = {one.name: one for one in result.candidates}
    told = {one.recipe.name: one.metrics for one in trials_of(workdir)}
    for name, metrics in told.items():
        one = candidates.get(name)
        if one is None or one.status != "ok":
            assert metrics == {"score": 3.0}
            continue
        assert (metrics["score"] < 1) == one.within_budget
        assert metrics["drop"] == pytest.approx(one.drop)
        assert metrics["size"] == pytest.approx(one.artifact.size_bytes / result.reference_bytes)
    inside = sorted(
        (one.artifact.size_bytes, told[one.name]["score"]) for one in candidates.values() if one.within_budget
    )
    assert [score for _, score in inside] == sorted(score for _, score in inside)


def test_every_trial_leaves_config_log_file_and_manifest(run):
    workdir, result, _, _ = run
    assert [one.number for one in trials_of(workdir)] == list(range(9))
    for one in result.candidates:
        if one.status == "ok":
            path = Path(one.artifact.path)
            assert Path(f"{path}.json").is_file()
            names = {child.name for child in path.parent.iterdir()}
            assert {"recipe.json", "candidate.json", "outcomes.npz"} <= names
            assert ("log.txt" in names) == bool(one.steps)
    read = OptimizationResult.from_json((workdir / "report.json").read_text())
    assert read.candidates == result.candidates
    assert "the search for the Pareto front proposed it" in (workdir / "report.md").read_text()


def test_memory_does_not_grow_by_trial(run):
    """Models are made in child processes. From the fifth trial on, when every runtime is loaded, a trial may leave
    what its records and TensorFlow's caches of a trace take: 0.6 MiB were seen; a model trained here leaves several."""
    _, _, watching, _ = run
    trials = [size for step, size in zip(watching.steps, watching.bytes, strict=True) if "export" in step]
    grown = (trials[-1] - trials[4]) / (len(trials) - 5)
    assert len(trials) == 9
    assert grown < 2 << 20, [size >> 20 for size in trials]


def test_the_same_call_makes_nothing_again_and_more_trials_go_on(run, digits, model_path):
    workdir, first, _, settings = run
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("candidates/*/*")}
    second = tune(digits, model_path, workdir, **settings)
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("candidates/*/*")} == before
    assert [one.name for one in second.candidates] == [one.name for one in first.candidates]
    third = tune(digits, model_path, workdir, **{**settings, "max_trials": 10})
    assert third.ended == "10 trials were made, all that `max_trials` allows."
    assert [one.name for one in third.candidates[: len(first.candidates)]] == [one.name for one in first.candidates]


def test_what_another_model_left_in_the_directory_is_named_and_not_used(run, digits):
    workdir = run[0]
    keras.utils.set_random_seed(1)
    other = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    result = tune(digits, other, workdir, ways=["tflite-float32"], techniques=["tflite-float32"], max_trials=3)
    assert [one.name for one in result.candidates] == ["tflite-float32"]
    assert result.ended == "1 trial was made, after which no recipe was left that had not been tried."
    assert any("not used and left as they are" in note for note in result.notes)


def test_architecture_and_compression_are_tuned_together(digits, model_path, tmp_path):
    result = tune(
        digits,
        model_path,
        tmp_path,
        techniques=["constant_channels"],
        ways=["tflite-int8"],
        builder=tuning_architectures.build,
        training=kopt.Training(epochs=2),
        max_trials=3,
        seed=2,
    )
    built = [one for one in result.candidates if one.steps and one.steps[0].technique == "build" and one.status == "ok"]
    assert built
    for one in built:
        values = json.loads(one.steps[0].config.values)
        path = next((tmp_path / "models").glob(f"{one.steps[0].label}-*/model.keras"))
        assert keras.saving.load_model(path).layers[0].filters == values["width"]
        assert one.name.startswith(f"build-width={values['width']}")
    assert "builder=tuning_architectures.build" in result.command


def test_an_objective_that_cannot_be_measured_is_refused(digits, tmp_path):
    own = type("Own", (keras.layers.Layer,), {"call": lambda self, x: x, "__module__": "__main__"})
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(10, "softmax")(keras.layers.Flatten()(own()(inputs)))
    with pytest.raises(ConfigError, match=r"memory of .* cannot be measured here"):
        tune(digits, keras.Model(inputs, outputs), tmp_path, budget=kopt.Budget(0.05, "memory"))


# Kills. The tuning is a command, so that it can be killed; trials take seconds, because each trains.


@dataclasses.dataclass
class Command:
    """A `kopt tune` that runs."""

    process: subprocess.Popen
    workdir: Path

    @property
    def workers(self):
        """Processes that it started, by name."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                words = (path.parent / "cmdline").read_bytes().split(b"\0")
                variables = dict(one.partition(b"=")[::2] for one in path.read_bytes().split(b"\0"))
                parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == self.process.pid and b"kopt.search.tuning.worker" in words:
                found[variables[TUNER_ID.encode()].decode()] = int(path.parent.name)
        return found

    def until(self, holds):
        """Wait for a condition while the command runs."""
        deadline = time.monotonic() + LIMIT
        while not (found := holds()):
            assert self.process.poll() is None, self.process.stderr.read()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return found

    def under_way(self):
        """Trials that workers have now, by worker."""
        for path in self.workdir.glob("tuning-*/oracle.json"):
            ended = {one.number for one in trials_of(self.workdir)}
            ongoing = json.loads(path.read_text())["ongoing_trials"]
            return {name: int(trial) for name, trial in ongoing.items() if int(trial) not in ended}
        return {}

    def result(self):
        """Wait for the end and return the result."""
        out, errors = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0, errors[-3000:]
        return json.loads(out) if out.startswith("{") else out

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(model_path, npz):
    """Start commands, which end with the test."""
    running = []

    def command(workdir, *words, variables=None):
        call = [sys.executable, "-m", "kopt", "tune", str(model_path), "--data", str(npz), "--objective", "size"]
        call += ["--max-drop", "0.05", "--workdir", str(workdir), "--techniques", "recover", "--train-epochs", "2"]
        call += ["--ways", "tflite-float32", "--max-trials", "4", "--json", *words]
        environment = {**os.environ, **(variables or {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(Command(subprocess.Popen(call, env=environment, **pipes), workdir))
        return running[-1]

    yield command
    for one in running:
        if one.process.poll() is None:
            one.kill()
        one.process.stdout.close()
        one.process.stderr.close()


@pytest.fixture(scope="module")
def whole(digits, model_path, tmp_path_factory):
    """What a tuning finds that nobody kills, in one process."""
    workdir = tmp_path_factory.mktemp("whole")
    settings = {"techniques": ["recover"], "ways": ["tflite-float32"], "training": kopt.Training(epochs=2)}
    return files_of(tune(digits, model_path, workdir, **settings, max_trials=4).to_dict())


def files_of(result):
    return {one["name"]: one["artifact"]["sha256"] for one in result["candidates"] if one["status"] == "ok"}


def test_a_tuning_in_one_process_goes_on_after_a_kill(start, whole, tmp_path):
    first = start(tmp_path)
    first.until(lambda: trials_of(tmp_path) and first.under_way())
    first.kill()
    assert files_of(start(tmp_path).result()) == whole


def test_workers_and_the_chief_are_killed_and_nothing_is_lost(start, whole, tmp_path):
    first = start(tmp_path, "--workers", "2")
    name, number = first.until(lambda: next(iter(first.under_way().items()), None))
    killed = first.until(lambda: first.workers.get(name))
    os.kill(killed, signal.SIGKILL)

    def given_out_again():
        return [
            who
            for who, trial in first.under_way().items()
            if trial == number and first.workers.get(who) not in (None, killed)
        ]

    first.until(lambda: trials_of(tmp_path) and given_out_again())
    workers = list(first.workers.values())
    first.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their chief"
        time.sleep(0.05)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("candidates/*/candidate.json")}
    result = start(tmp_path, "--workers", "2").result()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert files_of(result) == whole
    assert result["ended"] == "4 trials were made, all that `max_trials` allows."
    assert not [path for path in tmp_path.rglob("*") if "kopt-tmp" in path.name]


def test_machines_join_by_the_environment_and_outlive_a_chief_that_is_killed(start, whole, tmp_path):
    port = str(free_port())

    def role(name):
        return {TUNER_ID: name, IP: "127.0.0.1", PORT: port}

    chief = start(tmp_path, variables=role("chief"))
    worker = start(tmp_path, variables=role("machine-2"))
    chief.until(lambda: trials_of(tmp_path) and chief.under_way())
    chief.kill()
    again = start(tmp_path, variables=role("chief"))
    result = again.result()
    assert files_of(result) == whole
    assert {one.worker for one in trials_of(tmp_path)} == {"machine-2"}
    assert worker.result() == {"result": None, "message": "This machine worked for the chief, which has the result."}


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
