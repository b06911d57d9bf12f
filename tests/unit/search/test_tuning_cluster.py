"""What a chief does when its workers end, with small programs in place of them."""

import sys
import types

import keras_tuner
import pytest

import kopt
from kopt.core.errors import OutputError, WorkerLostError
from kopt.core.records.candidates import ExportConfig
from kopt.core.records.search.recipes import Recipe
from kopt.search.trials.limits import Limits
from kopt.search.tuning import outcomes
from kopt.search.tuning.cluster import ANY_PORT, Workers, _is_of_before, run_chief
from kopt.search.tuning.course import Tuning
from kopt.search.tuning.job import place_of
from kopt.search.tuning.outcomes import Outcome
from kopt.search.tuning.request import Request

RECIPE = Recipe((), ExportConfig("tflite", "int8"))


class Reporter:
    def __init__(self):
        self.lines = []

    def step(self, line):
        self.lines.append(line)


class Space:
    """One choice; a recipe of any values is the same."""

    def hyperparameters(self):
        found = keras_tuner.HyperParameters()
        found.Choice("width", [1, 2, 3, 4])
        return found

    def recipe(self, hp):
        return RECIPE


@pytest.fixture
def run(tmp_path):
    """Run a chief with one worker that is a program, and return what it said and told."""

    def chief(program, *, seconds=None, count=1):
        path = tmp_path / "worker.py"
        path.write_text(f"import os, pathlib, signal, sys\nplace = pathlib.Path(sys.argv[1]).parent\n{program}")
        given = types.SimpleNamespace(limits=Limits(seconds), budget=types.SimpleNamespace(objectives=("size",)))
        reporter = Reporter()
        files = types.SimpleNamespace(trials=types.SimpleNamespace(finished=lambda recipe: None))
        search = types.SimpleNamespace(given=given, reporter=reporter, files=files)
        place = tmp_path / "tuning"
        (place / "workers").mkdir(parents=True)
        tuning = Tuning(search, Request((), ("tflite-int8",), max_trials=2), Space(), place, 0, ())
        workers = Workers(place / "job.json", count, command=(sys.executable, str(path)))
        bench = types.SimpleNamespace(candidates=[])
        return (*run_chief(tuning, workers, bench, None), reporter.lines)

    return chief


def test_a_worker_that_dies_again_and_again_ends_the_tuning(run):
    with pytest.raises(WorkerLostError, match=r"(?s)All workers died, the last one, worker-0, by SIGKILL.*last words"):
        run("print('last words', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")


def test_what_a_worker_raised_is_raised(run):
    failure = "(place / 'workers' / 'worker-0.failure').write_text('OutputError\\nCannot write x: no room.')"
    with pytest.raises(OutputError, match="Cannot write x: no room"):
        run(f"{failure}\nsys.exit(1)")


def test_when_the_time_is_used_up_the_chief_goes_home(run):
    ended, _, _ = run("sys.exit(3)")
    assert ended == "The time that `seconds` allows was used up in the middle of a trial."


def test_a_chief_that_nobody_joins_goes_home_too(run):
    ended, _, lines = run("", seconds=1.0, count=0)
    assert lines[0].startswith("waits for workers at port")
    assert ended == "The time that `seconds` allows was used up."


@pytest.mark.parametrize(
    ("name", "address", "count", "is_gone"),
    [
        ("tuner0", ANY_PORT, 2, True),
        ("worker-1", ANY_PORT, 2, False),
        ("worker-2", ANY_PORT, 2, True),
        ("machine-2", ANY_PORT, 2, True),
        ("machine-2", "10.0.0.1:8000", 0, False),
        ("tuner0", "10.0.0.1:8000", 0, True),
    ],
)
def test_who_of_an_earlier_call_cannot_come_back(name, address, count, is_gone):
    assert _is_of_before(name, Workers(None, count, address)) == is_gone


def searching(threads=None):
    """What a tuning looks for its directory with."""
    given, files = types.SimpleNamespace(budget=kopt.Budget()), types.SimpleNamespace(threads=threads)
    return types.SimpleNamespace(workshop=None, identity={}, given=given, files=files)


def test_outcomes_of_other_threads_are_of_another_tuning(tmp_path):
    asked = Request((), ("tflite-int8",))
    one, other, again = (place_of(tmp_path, searching(threads), asked, 0) for threads in (1, 2, 1))
    assert one == again != other


def test_another_source_of_a_builder_is_another_tuning(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "shapes_of_two_sources.py"
    search = searching()
    asked = Request((), ("tflite-int8",), builder="shapes_of_two_sources:build")
    places = set()
    for widths in ("[4, 8]", "[4, 8]", "[16, 32]"):
        source.write_text(f"def build(hp):\n    return hp.Choice('width', {widths})\n")
        places.add(place_of(tmp_path, search, asked, 0))
    assert len(places) == 2


def test_outcomes_come_back_from_disk_in_order(tmp_path):
    ten, two = (Outcome(number, RECIPE, "ok", "", {"score": 0.5}, "w") for number in (10, 2))
    for one in (ten, two):
        outcomes.write(tmp_path, one)
    (tmp_path / "3.json").write_text('{"schema": "Outcome/9"}')
    assert outcomes.read(tmp_path) == (two, ten)
