"""One trial and what is left of it, and how trials become candidates, with a bench that only answers."""

import dataclasses
import threading
import types

import pytest
from search_cases import BASELINE, candidate

from kopt.core.records.candidates import Candidate, ExportConfig
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.decisions import Decision
from kopt.core.records.search.recipes import Recipe
from kopt.search.techniques.catalog import CATALOG
from kopt.search.trials.limits import RunEnded, TargetReached
from kopt.search.tuning import course, desk, outcomes
from kopt.search.tuning.desk import Desk, alone, needs_running
from kopt.search.tuning.outcomes import Outcome
from kopt.search.tuning.request import Request

FLOAT, INT8 = (Recipe((), ExportConfig("tflite", scheme)) for scheme in ("float32", "int8"))
PRUNED = Recipe((CATALOG["constant_channels"].step(),), ExportConfig("tflite", "int8"))


class Bench:
    """Answers with what it was given for a recipe."""

    def __init__(self, answers):
        self.answers, self.candidates, self.decisions = answers, [], []

    def attempt(self, recipe, why=""):
        answer = self.answers[recipe.name]
        if answer is None:
            self.decisions.append(Decision(recipe.name, why, None, None, False, "no channel was constant"))
            return None
        if isinstance(answer, RunEnded) and not isinstance(answer, TargetReached):
            raise answer
        made = answer if isinstance(answer, Candidate) else self.answers["made"]
        self.candidates.append(dataclasses.replace(made, name=recipe.name, config=recipe.export, why=why))
        if isinstance(answer, TargetReached):
            raise answer
        return self.candidates[-1]


def search(tmp_path, finished=()):
    trials = types.SimpleNamespace(outcomes_path=lambda recipe=None: tmp_path / "x", finished=dict(finished).get)
    files = types.SimpleNamespace(trials=trials, examiner=None, kept=lambda one: one, reference_bytes=5000)
    given = types.SimpleNamespace(budget=Budget(0.01, "size"))
    return types.SimpleNamespace(files=files, given=given, workdir=tmp_path)


@pytest.fixture
def at_desk(tmp_path, monkeypatch):
    monkeypatch.setattr(desk, "baseline_evaluation", lambda *_: BASELINE.evaluation)
    monkeypatch.setattr(desk, "judged", lambda one, *_: one)

    def work(recipe, **answers):
        one = Desk(search(tmp_path), tmp_path / "trials", "worker-1", Bench({recipe.name: None, **answers}))
        told = one.work(4, recipe, "chance")
        return told, *outcomes.read(tmp_path / "trials"), one

    return work


def test_a_file_is_told_by_its_worth_and_noted(at_desk):
    """1000 of 5000 bytes: x = 0.2 ** 0.25 = 0.66874, and x / (1 + x) = 0.40075."""
    told, noted, one = at_desk(INT8, **{INT8.name: candidate("a", 0.945)})
    assert told == pytest.approx({"score": 0.40075, "drop": 0.005, "size": 0.2}, abs=1e-5)
    assert (noted.number, noted.recipe, noted.status, noted.reason) == (4, INT8, "ok", "")
    assert (noted.metrics, noted.worker, noted.ended) == (told, "worker-1", "")
    assert one.ended == ""


def test_a_file_that_cannot_be_made_is_noted_with_its_reason(at_desk):
    failed = Candidate("a", INT8.export, "failed", reason="ExportError: no kernel\nmore")
    told, noted, _ = at_desk(INT8, **{INT8.name: failed})
    assert told == {"score": 3.0}
    assert (noted.status, noted.reason) == ("failed", "ExportError: no kernel\nmore")


def test_a_step_that_finds_nothing_to_do_is_noted_with_what_it_said(at_desk):
    told, noted, _ = at_desk(PRUNED)
    assert told == {"score": 3.0}
    assert (noted.status, noted.reason) == ("unchanged", "no channel was constant")


def test_the_target_is_reached_by_a_file_that_counts(at_desk):
    answers = {INT8.name: TargetReached("it has the target"), "made": candidate("a", 0.95)}
    told, noted, one = at_desk(INT8, **answers)
    assert told["score"] < 1
    assert one.ended == noted.ended == "it has the target"


def test_time_that_is_used_up_in_a_trial_leaves_nothing(at_desk, tmp_path):
    with pytest.raises(RunEnded):
        at_desk(INT8, **{INT8.name: RunEnded("no time")})
    assert outcomes.read(tmp_path / "trials") == ()


def test_only_sizes_need_no_running():
    assert not needs_running(Budget(0.01, "size", constraints=("gzip_bytes<=1000", "auc>=0.5")))
    assert needs_running(Budget(0.01, ("size", "latency")))
    assert needs_running(Budget(0.01, "size", constraints=("peak_memory_bytes<=1000",)))


def test_recipes_that_begin_alike_wait_for_each_other(tmp_path):
    entered = threading.Event()

    def other(recipe):
        with alone(tmp_path, recipe):
            entered.set()

    longer = Recipe((*PRUNED.steps, CATALOG["recover"].step()), FLOAT.export)
    with alone(tmp_path, PRUNED):
        waiting = threading.Thread(target=other, args=(longer,))
        waiting.start()
        assert not entered.wait(0.3)
        threading.Thread(target=other, args=(FLOAT,)).start()
        assert entered.wait(5)
        entered.clear()
    assert entered.wait(5)
    waiting.join()


def filled(tmp_path, noted, finished=(), answers=None, there=()):
    tuning = course.Tuning(search(tmp_path, finished), Request((), ()), None, tmp_path, 0, ())
    for one in noted:
        outcomes.write(tuning.trials, one)
    bench = Bench(answers or {})
    bench.candidates.extend(there)
    course.fill(bench, tuning)
    return bench.candidates


def outcome(number, recipe, status="ok", reason=""):
    return Outcome(number, recipe, status, reason, {"score": 0.5}, "w")


def test_candidates_come_in_the_order_of_trials_and_each_once(tmp_path):
    """Trial 0 is on disk, 1 in this process, 2 the same again, 3 failed, 4 found nothing to do."""
    on_disk, here = candidate(INT8.name, 0.9), candidate(FLOAT.name, 0.95)
    failing = Recipe((CATALOG["fold_batch_norm"].step(),), FLOAT.export)
    noted = [outcome(0, INT8), outcome(1, FLOAT), outcome(2, INT8), outcome(4, PRUNED, "unchanged")]
    noted.append(outcome(3, failing, "failed", "OutOfMemory: 3 GB\nlog"))
    found = filled(tmp_path, noted, {INT8: on_disk}, there=[here])
    assert found[:2] == [on_disk, here]
    assert (found[2].name, found[2].status, found[2].reason) == (failing.name, "failed", "OutOfMemory: 3 GB\nlog")
    assert found[2].why == "random search proposed it, in trial 4"
    assert len(found) == 3


def test_a_file_that_is_gone_is_made_again_if_there_is_time(tmp_path):
    again = filled(tmp_path, [outcome(0, INT8)], answers={INT8.name: candidate("a", 0.9)})
    assert [(one.name, one.status) for one in again] == [(INT8.name, "ok")]
    late = filled(tmp_path, [outcome(0, INT8)], answers={INT8.name: RunEnded("no time")})
    assert [(one.status, one.reason[:25]) for one in late] == [("failed", "Its file is gone or damag")]


def test_what_killed_writers_left_goes_and_the_rest_stays(tmp_path):
    for name in ("trial_0/.a.kopt-tmp", ".b.kopt-tmp", "trial_0/trial.json", "trials/1.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    tuning = course.Tuning(None, Request((), ()), None, tmp_path, 0, ())
    course.tidy(tuning, 60.0)
    assert len([*tmp_path.rglob("*.kopt-tmp")]) == 2, "someone may be writing"
    course.tidy(tuning)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["1.json", "trial.json"]
