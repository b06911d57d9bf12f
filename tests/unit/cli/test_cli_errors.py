"""What a user's mistake looks like on the command line. Each error comes before TensorFlow does any work."""

import argparse
import json
import sys

import pytest

import kopt
from kopt.cli import main, optimize, report
from kopt.cli.common import add_budget, budget_from, budget_words
from kopt.cli.search_training import training_from


def fails(capsys, *arguments):
    code = main(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured


@pytest.mark.parametrize("drop", ["-0.1", "1.5", "nan"])
def test_max_drop_outside_its_range(capsys, tmp_path, drop):
    workdir = tmp_path / "run"
    code, captured = fails(
        capsys, "optimize", "m.keras", "--data", "digits", f"--max-drop={drop}", "--workdir", str(workdir)
    )
    assert code == 2
    assert "`max_drop` is a fraction of the metric in [0, 1]" in captured.err
    assert not workdir.exists()


def test_unknown_objective_names_the_nearest(capsys):
    code, captured = fails(capsys, "demo", "--objective", "sise")
    assert code == 2
    assert "Did you mean 'size'" in captured.err


def test_unknown_scheme_names_the_nearest(capsys):
    code, captured = fails(capsys, "export", "m.keras", "m.tflite", "--scheme", "int9")
    assert code == 2
    assert "Unknown scheme 'int9'" in captured.err
    assert "Accepted: float32" in captured.err


def test_unknown_output_suffix(capsys):
    code, captured = fails(capsys, "export", "m.keras", "m.pb")
    assert code == 2
    assert "ends in .tflite, .onnx, .engine or .plan" in captured.err


def test_json_carries_the_error_too(capsys):
    code, captured = fails(capsys, "report", "nowhere", "--json")
    assert code == 2
    assert json.loads(captured.out)["error"] == "LoadError"


def test_debug_shows_the_traceback():
    with pytest.raises(Exception, match="nowhere"):
        main(["report", "nowhere", "--debug"])


def test_unknown_command_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["optimise"])
    assert exit.value.code == 2
    assert "invalid choice: 'optimise'" in capsys.readouterr().err


def test_nothing_to_do_is_an_error(capsys):
    with pytest.raises(SystemExit) as exit:
        main([])
    assert exit.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--constraint", "size<=5"], "'size' has no unit"),
        (["--constraint", "size_bytes<=5", "size_bytes>=6"], "contradict each other"),
        (["--constraint", "small"], "a quantity, <= or >=, and a number"),
        (["--objective", "size", "sise"], "Did you mean 'size'"),
        (["--target", "0.5"], "above 1"),
        (["--max-class-drop", "2"], "`max_class_drop` is a fraction"),
    ],
)
def test_budgets_that_cannot_be(capsys, tmp_path, words, part):
    code, captured = fails(
        capsys, "optimize", "m.keras", "--data", "digits", "--workdir", str(tmp_path / "run"), *words
    )
    assert code == 2
    assert part in captured.err
    assert not (tmp_path / "run").exists()


def test_the_words_of_a_budget_give_it_again():
    parser = argparse.ArgumentParser()
    add_budget(parser)
    for words in (
        [],
        ["--max-drop", "0.02", "--objective", "latency", "size", "--metric", "auc", "--sure", "--target", "3"],
        ["--constraint", "size_bytes<=200_000", "--constraint", "auc>=0.9", "--max-class-drop", "0.05"],
    ):
        budget = budget_from(parser.parse_args(words))
        assert budget_from(parser.parse_args(budget_words(budget))) == budget
    assert budget.constraints[1].bound == 0.9


def test_options_of_training_need_its_epochs(capsys):
    code, captured = fails(capsys, "optimize", "m.keras", "--data", "digits", "--batch-size", "32", "--loss", "mse")
    assert code == 2
    assert "--batch-size, --loss needs --train-epochs" in captured.err


def test_a_command_line_repeats_what_was_asked_for():
    words = ["m.keras", "--data", "digits", "--max-drop", "0.005", "--objective", "size", "--workdir", "run"]
    words += ["--samples", "100", "--techniques", "channels", "--train-epochs", "4", "--learning-rate", "0.001"]
    words += ["--threads", "1", "--seconds", "60", "--trials", "9", "--import", "own_layers", "--seed", "3"]
    options = sys.modules["kopt.cli.main"]._parser().parse_args(["optimize", *words])
    assert optimize._command(options).split() == ["kopt", "optimize", *words]
    assert training_from(options) == kopt.Training(epochs=4, learning_rate=0.001)


@pytest.mark.parametrize(
    "words",
    [
        ["optimize", "gone.keras", "--data", "digits"],
        ["bench", "gone.tflite"],
        ["distill", "gone.h5", "x.keras", "--data", "digits", "--macs", "0.5"],
    ],
)
def test_a_path_that_leads_nowhere_is_refused_before_the_runtimes_load(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone.kera").touch()
    monkeypatch.setattr(sys.modules["kopt.cli.main"], "_load_runtimes_quietly", lambda: pytest.fail("loaded"))
    assert main(words, own_process=True) == 2
    assert "There is no file or directory gone." in capsys.readouterr().err


def test_help_says_the_defaults_that_are_something(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "0 takes a free one (default: 8501)" in shown
    assert "None)" not in shown
    with pytest.raises(SystemExit):
        main(["optimize", "--help"])
    assert "of training (default: 0)" in " ".join(capsys.readouterr().out.split())
    assert "False)" not in shown


def test_a_module_of_ones_own_is_imported_from_the_working_directory(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kopt_own_module.py").write_text("import json\njson.kopt_was_here = True\n")
    monkeypatch.setattr(json, "kopt_was_here", False, raising=False)
    fails(capsys, "report", "nowhere", "--import", "kopt_own_module")
    assert json.kopt_was_here
    (tmp_path / "kopt_broken_module.py").write_text("import nothing_of_that_name\n")
    for name in ("kopt_broken_module", "kopt_no_module"):
        code, captured = fails(capsys, "report", "nowhere", "--import", name)
        assert code == 2
        assert f"`--import {name}`: ModuleNotFoundError: No module named" in captured.err


@pytest.mark.parametrize(("command", "resumes"), [(optimize, True), (report, False)])
def test_an_interrupted_command_promises_only_what_it_keeps(capsys, monkeypatch, tmp_path, command, resumes):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    (tmp_path / "m.keras").touch()
    words = ["optimize", str(tmp_path / "m.keras"), "--data", "digits"] if resumes else ["report", str(tmp_path)]
    code, captured = fails(capsys, *words)
    assert code == 130
    assert captured.err.startswith("kopt: interrupted")
    assert ("start the same command again" in captured.err) == resumes
