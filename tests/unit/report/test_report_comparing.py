import dataclasses
import io
import json

import pytest
from judged_results import make_judged
from report_records import make_candidate
from rich.console import Console

from kopt import report
from kopt.cli import main
from kopt.core.errors import ConfigError, LoadError
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.run_comparison import RunComparison


def write(result, folder):
    """What is compared is the record alone."""
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(result.to_json())


@pytest.fixture
def runs(tmp_path):
    """The second run has an int8 file of half the size and twice the speed, and a candidate more; versions differ."""
    first = make_judged()
    better = make_candidate("int8", 0.5, 50 << 10, 0.985, -0.005)
    better = dataclasses.replace(better, artifact=dataclasses.replace(better.artifact, sha256="ef" * 32))
    new = make_candidate("pruned", 2.0, 80 << 10, 0.98, 0.0)
    machine = dataclasses.replace(first.machine, versions={**first.machine.versions, "keras": "3.16"})
    second = dataclasses.replace(
        first, candidates=(first.candidates[0], better, new, first.candidates[5]), machine=machine
    )
    write(first, tmp_path / "a")
    write(second, tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def test_every_candidate_of_either_run_by_hand(runs):
    found = report.compare_runs(*runs)
    rows = {row.name: row for row in found.candidates}
    assert list(rows) == ["float32", "int8", "pruned", "int16x8", "float16", "onnx-float32", "int4"]
    int8 = rows["int8"]
    assert (int8.status_a, int8.status_b) == ("best", "best")
    assert int8.metric_change == pytest.approx(0.006)
    assert (int8.latency_ratio, int8.size_ratio, int8.is_same_file) == (0.5, 0.5, False)
    assert rows["float32"].is_same_file is True
    assert (rows["pruned"].status_a, rows["pruned"].status_b) == ("absent", "inside")
    assert (rows["int4"].status_a, rows["int4"].status_b) == ("outside", "absent")
    assert (rows["int16x8"].status_a, rows["int16x8"].status_b) == ("failed", "failed")
    assert [(one.what, one.a, one.b, one.matters) for one in found.differences] == [("keras", "3.15.1", "3.16", "")]
    assert RunComparison.from_json(found.to_json()) == found


def test_other_models_data_and_machines_are_compared_and_said_to_differ(runs):
    a, b = runs
    second = report.read_result(b)
    machine = dataclasses.replace(second.machine, processor="Other CPU")
    identity = {"model": "c" * 64, "data": "d" * 64}
    budget = Budget(0.02, "size")
    write(dataclasses.replace(second, machine=machine, identity=identity, budget=budget), b)
    found = {one.what: one for one in report.compare_runs(a, b).differences}
    assert list(found) == ["model", "data", "budget", "machine", "keras"]
    assert found["model"].a == "digits_cnn.keras (aaaaaaaaaaaa)"
    assert "the baselines differ" in found["model"].matters
    assert "not paired" in found["data"].matters
    assert found["budget"].matters == "the best was chosen for another objective"
    assert found["machine"].matters == "times are not comparable"


def test_reports_of_older_versions_are_told_apart_by_name(runs):
    a, b = runs
    second = dataclasses.replace(report.read_result(b), identity={}, model="other.keras")
    write(second, b)
    write(dataclasses.replace(report.read_result(a), identity={}), a)
    assert [one.what for one in report.compare_runs(a, b).differences] == ["model, by name", "keras"]


def test_different_metrics_cannot_be_compared(runs):
    a, b = runs
    write(dataclasses.replace(report.read_result(b), budget=Budget(metric="auc")), b)
    with pytest.raises(ConfigError, match=r"guards 'accuracy' and .* guards 'auc': their numbers cannot be held"):
        report.compare_runs(a, b)
    with pytest.raises(LoadError, match="does not exist"):
        report.compare_runs(a, b / "nowhere")


def render(found, width):
    console = Console(width=width, file=io.StringIO())
    console.print(report.comparison_table(found))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits(runs, width):
    text = render(report.compare_runs(*runs), width)
    assert max(map(len, text.splitlines())) <= width
    row = next(line for line in text.splitlines() if line.startswith("int8 "))
    assert {"+0.60", "0.50x", "50%"} <= set(row.split())


def test_the_command_prints_a_table_or_json(runs, capsys):
    a, b = map(str, runs)
    assert main(["compare", a, f"{b}/report.json"]) == 0
    printed = capsys.readouterr().out
    assert "keras: 3.15.1 -> 3.16" in printed
    assert "Best: int8, 0.50x its time, 50% of its size, +0.60 points." in printed
    assert main(["compare", a, b, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best_b"] == "int8"
    assert main(["compare", a, "nowhere"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_equal_runs_are_said_to_be_equal(runs):
    a, _ = runs
    text = render(report.compare_runs(a, a), 80)
    assert "Same model, data, budget, machine and versions." in text
    assert "Best: int8, 1.00x its time, 100% of its size, 0.00 points." in text.replace("1.0x", "1.00x")


def test_runs_without_a_best(runs):
    a, b = runs
    write(dataclasses.replace(report.read_result(b), best_name=None), b)
    assert "The second run has no candidate inside its budget; the first had int8." in render(
        report.compare_runs(a, b), 100
    )
    assert "int8 is inside the budget now" in render(report.compare_runs(b, a), 100)
    assert "Neither run has" in render(report.compare_runs(b, b), 100)
