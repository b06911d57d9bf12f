"""Bad input on the command line: exit code, one clear message on standard error, no traceback, nothing written."""

import json
import socket
import subprocess
import sys
import tempfile

import bad_input
import numpy as np
import pytest
from bad_input import DATA, DENSE, X, Y, listing

from kopt.cli import main
from kopt.core import errors

pytestmark = pytest.mark.usefixtures("scratch", "no_long_work")
over = pytest.mark.parametrize


@pytest.fixture
def kopt_refuses(tmp_path, monkeypatch, capsys):
    """Run the command as it is, with `--json` and with `--debug`, and check what each shows."""

    def check(words, error, *parts):
        words = [str(word) for word in words]
        monkeypatch.chdir(tmp_path)
        before, code = listing(tmp_path), 1 if issubclass(error, errors.OutputError) else 2
        capsys.readouterr()
        assert main(words) == code
        plain = capsys.readouterr()
        assert plain.err.startswith("kopt: error: ")
        assert plain.err.count("kopt: error: ") == 1
        assert "Traceback" not in plain.out + plain.err
        assert [part for part in map(str, parts) if part not in plain.err] == [], plain.err
        assert main([*words, "--json"]) == code
        shown = capsys.readouterr()
        assert json.loads(shown.out) == {
            "error": error.__name__,
            "message": plain.err.removeprefix("kopt: error: ").removesuffix("\n"),
        }
        assert shown.err == plain.err
        with pytest.raises(error):
            main([*words, "--debug"])
        assert listing(tmp_path) == before

    return check


@pytest.fixture
def arrays(tmp_path):
    """Write the arrays of a data set, those that fit `DENSE` but for what is given, and return its path."""

    def write(**changed):
        fitting = {"x_train": X, "y_train": Y, "x_val": X, "y_val": Y}
        np.savez(tmp_path / "data.npz", **{**fitting, **changed})
        return tmp_path / "data.npz"

    return write


# What each command does with a model that cannot be used.
TAKES_MODEL = {
    "export": lambda model: ["export", model, "out.tflite"],
    "export onnx": lambda model: ["export", model, "out.onnx"],
    "export saved_model": lambda model: ["export", model, "out"],
    "optimize": lambda model: ["optimize", model, "--data", "digits", "--workdir", "run"],
    "tune": lambda model: ["tune", model, "--data", "digits", "--workdir", "run"],
    "bench": lambda model: ["bench", DENSE, model],
}
EXPORTERS = [name for name in TAKES_MODEL if name != "bench"]


@over("command", TAKES_MODEL)
def test_missing_file(tmp_path, kopt_refuses, command):
    (tmp_path / "model.keras").touch()
    words = TAKES_MODEL[command]("modle.keras")
    kopt_refuses(words, errors.LoadError, "There is no file", "modle.keras", "Did you mean 'model.keras'?", tmp_path)


@over("command", TAKES_MODEL)
def test_truncated_keras(tmp_path, kopt_refuses, command):
    path = bad_input.truncated_keras(tmp_path)
    kopt_refuses(TAKES_MODEL[command](path), errors.LoadError, path, "cut off or damaged", "Copy or save it again")


@over("command", TAKES_MODEL)
def test_text_renamed_tflite(tmp_path, kopt_refuses, command):
    path = bad_input.text_as_tflite(tmp_path)
    parts = ("not a TensorFlow Lite file", "'TFL3'") if command == "bench" else ("holds no Keras model", "`.keras`")
    kopt_refuses(TAKES_MODEL[command](path), errors.LoadError, path, *parts)


@over("command", TAKES_MODEL)
@over("make", [bad_input.saved_model_with_a_broken_graph, bad_input.saved_model_with_truncated_variables])
def test_corrupted_saved_model(tmp_path, kopt_refuses, command, make):
    path = make(tmp_path)
    parts = (path, "is not a SavedModel that TensorFlow", "Export or copy it again")
    kopt_refuses(TAKES_MODEL[command](path), errors.LoadError, *parts)


@over("command", TAKES_MODEL)
def test_lambda_is_refused(tmp_path, kopt_refuses, command):
    path = bad_input.keras_with_lambda(tmp_path)
    kopt_refuses(TAKES_MODEL[command](path), errors.UnsafeModelError, path, "'twice' (Lambda)", "`--unsafe`")


@over("command", TAKES_MODEL)
def test_lambda_opens_with_unsafe(tmp_path, command, monkeypatch):
    class ItOpenedError(Exception):
        pass

    def opens(*_, **__):
        raise ItOpenedError

    # The first thing that each command does with a model that is open.
    for name in ("kopt.export.tflite", "kopt.export.onnx", "kopt.export.saved_model", "kopt.data.open_data"):
        monkeypatch.setattr(name, opens)
    monkeypatch.setattr("kopt.measure.latency", opens)
    path = bad_input.keras_with_lambda(tmp_path)
    with pytest.raises(ItOpenedError):
        main([*map(str, TAKES_MODEL[command](path)), "--unsafe"])


@over("command", TAKES_MODEL)
def test_pickled_weights_are_refused_even_with_unsafe(tmp_path, kopt_refuses, command):
    path = bad_input.keras_with_pickled_weights(tmp_path)
    words = TAKES_MODEL[command](path)
    for given in (words, [*words, "--unsafe"]):
        kopt_refuses(given, errors.UnsafeModelError, path, "pickled Python objects", "`model.save`")


@over("command", EXPORTERS)
def test_non_finite_weights(tmp_path, kopt_refuses, command):
    path = bad_input.keras_with_nan(tmp_path)
    parts = ("classes/kernel (1 NaN, 0 infinite of 12)", "earlier checkpoint")
    kopt_refuses(TAKES_MODEL[command](path), errors.NonFiniteError, *parts)


@over("command", ["export", "export onnx", "export saved_model"])
def test_non_finite_weights_in_a_saved_model(tmp_path, kopt_refuses, command):
    path = bad_input.saved_model_with_nan(tmp_path)
    kopt_refuses(TAKES_MODEL[command](path), errors.NonFiniteError, "1 NaN, 1 infinite of 4", "earlier checkpoint")


# Data. Calibration takes the training part, so that a bad one is bad for both commands.
TAKES_DATA = {
    "export": ["export", DENSE, "out.tflite", "--scheme", "int8", "--data"],
    "optimize": ["optimize", DENSE, "--workdir", "run", "--data"],
}
TEXT, NAN = np.full(X.shape, "a"), np.where(X == 0, np.nan, X)
WRONG_DATA = {
    "rank": ({"x_train": X[:, None]}, "DataError", ("(10, 1, 4)", "float32 (None, 4)", "`x.reshape(-1, 4)`")),
    "width": ({"x_train": X[:, :3]}, "DataError", ("(10, 3)", "float32 (None, 4)", "must have 4 entries")),
    "strings": ({"x_train": TEXT}, "DataError", ("needs float32 (None, 4)", "`x.astype('float32')`")),
    "objects": ({"x_train": X.astype(object)}, "DataError", ("pickled Python objects", "np.savez")),
    "lengths": ({"y_train": Y[:-1]}, "DataError", ("(10, 4)", "(9,)", "the same number of examples")),
    "empty": ({"x_train": X[:0], "y_train": Y[:0]}, "DataError", ("(0, 4)", "at least one")),
    "nan": ({"x_train": NAN}, "NonFiniteError", ("1 value(s) that are NaN or infinite", "`np.nan_to_num(x)`")),
    "infinity": ({"x_train": np.where(X == 0, np.inf, X)}, "NonFiniteError", ("NaN or infinite", "Remove those")),
    "labels below": ({"y_train": Y - 1}, "DataError", ("the lowest is -1", "Number them anew")),
}
WRONG_VALIDATION = {
    "labels": ({"y_val": Y + 1}, "DataError", ("[0, 3)", "all lie in [1, 3]", "Number the classes from 0")),
    "names": ({"y_val": Y.astype(str)}, "DataError", ("validation labels", "np.unique")),
    "width": ({"x_val": X[:, :3]}, "DataError", ("validation has", "(10, 3)", "must have 4 entries")),
    "nan": ({"x_val": NAN}, "NonFiniteError", ("validation", "1 value(s)", "`np.nan_to_num(x)`")),
}


@over("command", TAKES_DATA)
@over("wrong", WRONG_DATA)
def test_data_that_does_not_fit(kopt_refuses, arrays, command, wrong):
    changed, error, parts = WRONG_DATA[wrong]
    kopt_refuses([*TAKES_DATA[command], arrays(**changed)], getattr(errors, error), *parts)


@over("wrong", WRONG_VALIDATION)
def test_validation_data_that_does_not_fit(kopt_refuses, arrays, wrong):
    changed, error, parts = WRONG_VALIDATION[wrong]
    kopt_refuses([*TAKES_DATA["optimize"], arrays(**changed)], getattr(errors, error), *parts)


@over("command", TAKES_DATA)
def test_data_for_another_model(kopt_refuses, command):
    kopt_refuses([*TAKES_DATA[command], "digits"], errors.DataError, "8, 8, 1)", "needs float32 (None, 4)")


@over("command", TAKES_DATA)
@over(
    ("name", "parts"),
    [
        ("gone.npz", ("gone.npz does not exist",)),
        ("digit", ("'digit' is not a data set", "Did you mean 'digits'?", "an .npz file", "a folder")),
    ],
)
def test_data_that_is_not_there(kopt_refuses, command, name, parts):
    kopt_refuses([*TAKES_DATA[command], name], errors.DataError, *parts)


def test_no_calibration_data(kopt_refuses):
    words = ["export", DENSE, "out.tflite", "--scheme", "int8"]
    kopt_refuses(words, errors.ConfigError, "'int8' needs `calibration`", "a hundred real inputs", "`--data`")


# Places to write.


WRITERS = {
    "tflite": lambda out: ["export", DENSE, f"{out}.tflite"],
    "onnx": lambda out: ["export", DENSE, f"{out}.onnx"],
    "saved_model": lambda out: ["export", DENSE, out],
    "demo": lambda out: ["demo", "--workdir", out],
}


@over("command", [*WRITERS, "optimize"])
@over("place", ["file/below", "/proc/kopt/below"])
def test_output_that_cannot_be_written(tmp_path, capsys, kopt_refuses, arrays, command, place):
    (tmp_path / "file").write_text("kept")
    words = (
        [*TAKES_DATA["optimize"], arrays(), "--workdir", place] if command == "optimize" else WRITERS[command](place)
    )
    kopt_refuses(words, errors.OutputError, f"Cannot write {tmp_path / place}", "Choose a place that you may write to")


@over("command", [*WRITERS, "optimize"])
def test_full_disk(tmp_path, monkeypatch, kopt_refuses, arrays, command):
    words = [*TAKES_DATA["optimize"], arrays()] if command == "optimize" else WRITERS[command]("below")
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **_: bad_input.full_device())
    kopt_refuses(words, errors.OutputError, f"Cannot write {tmp_path}", "No space left on device", "has room")


@over(("command", "name"), [("tflite", "m.tflite"), ("onnx", "m.onnx"), ("saved_model", "m/saved_model.pb")])
def test_output_exists(tmp_path, kopt_refuses, command, name):
    (tmp_path / "m").mkdir()
    (tmp_path / name).write_text("kept")
    kopt_refuses(WRITERS[command]("m"), errors.OutputExistsError, tmp_path / "m", "exists", "`--force`")


def test_force_does_not_replace_a_directory_of_something_else(tmp_path, kopt_refuses):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("kept")
    words = [*WRITERS["saved_model"]("m"), "--force"]
    kopt_refuses(words, errors.OutputExistsError, "holds something else than a SavedModel", "Name a new directory")


# Settings.


@over(
    ("words", "parts"),
    [
        (["export", DENSE, "m.tflite", "--scheme", "int-8"], ("'int-8'", "Did you mean 'int8'?", "Accepted: float32")),
        (["export", DENSE, "m.onnx", "--scheme", "int4"], ("ONNX files have the schemes float32, float16", "'int4'")),
        (["export", DENSE, "m", "--scheme", "int8"], ("--scheme goes with files only", "Leave it out")),
        (["export", DENSE, "m.onnx", "--batch-size", "4"], ("--batch-size goes with .tflite files only", "'m.onnx'")),
        (["export", DENSE, "m", "--opset", "13"], ("--opset goes with .onnx files only", "Received: 'm'")),
        (["export", DENSE, "m.pb"], ("ends in .tflite, .onnx, .engine or .plan", "Received: 'm.pb'")),
        (["optimize", DENSE, "--data", "digits", "--techniques", "int8"], ("'int8'", "Accepted: saved_model, onnx")),
        (["optimize", DENSE, "--data", "digits", "--threads", "0"], ("`threads` must be a whole", "Received: 0")),
        (
            ["tune", DENSE, "--data", "digits", "--tuner", "pareta"],
            ("'pareta'", "Did you mean 'pareto'?"),
        ),
        (["tune", DENSE, "--data", "digits", "--max-trials", "0"], ("`max_trials` must be a whole", "Received: 0")),
        (["tune", DENSE, "--data", "digits", "--techniques", "aware"], ("'aware' needs training", "--train-epochs 4")),
        (
            ["tune", DENSE, "--data", "digits", "--builder", "no:one"],
            ("`builder` is written as", "'no:one'"),
        ),
        (["tune", DENSE, "--data", "digits", "--tuner", "hyperband"], ("nothing that may take part is trained",)),
        (["bench", DATA / "dense.tflite", "--threads", "0"], ("`threads` must be a whole", "Received: 0")),
    ],
)
def test_settings(kopt_refuses, words, parts):
    error = errors.ConfigError
    kopt_refuses(words, error, *parts)


TUNING = {"KERASTUNER_TUNER_ID": "chief", "KERASTUNER_ORACLE_IP": "127.0.0.1"}


def test_variables_of_a_tuning_that_are_half_set(monkeypatch, kopt_refuses, arrays):
    for name, value in TUNING.items():
        monkeypatch.setenv(name, value)
    words = ["tune", DENSE, "--data", arrays(), "--workdir", "run"]
    kopt_refuses(words, errors.ConfigError, "are set, and KERASTUNER_ORACLE_PORT is not", "or none of them")


def test_a_port_of_a_tuning_that_is_in_use(monkeypatch, kopt_refuses, arrays):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name, value in {**TUNING, "KERASTUNER_ORACLE_PORT": str(taken.getsockname()[1])}.items():
            monkeypatch.setenv(name, value)
        words = ["tune", DENSE, "--data", arrays(), "--workdir", "run"]
        kopt_refuses(words, errors.ConfigError, "cannot listen at 127.0.0.1", "the port is in use")


def test_a_worker_of_a_tuning_starts_no_workers(monkeypatch, kopt_refuses, arrays):
    for name, value in {**TUNING, "KERASTUNER_TUNER_ID": "second", "KERASTUNER_ORACLE_PORT": "8000"}.items():
        monkeypatch.setenv(name, value)
    words = ["tune", DENSE, "--data", arrays(), "--workdir", "run", "--workers", "2"]
    kopt_refuses(words, errors.ConfigError, "`workers` goes with the chief", "Received: workers=2")


@over("command", [["optimize", DENSE, "--data", "digits"], ["demo"]])
@over("drop", ["-0.01", "1.01", "nan", "inf"])
def test_max_drop_outside_its_range(kopt_refuses, command, drop):
    words = [*command, f"--max-drop={drop}"]
    kopt_refuses(words, errors.ConfigError, "in [0, 1]", "0.01 for one point of accuracy", f"Received: {float(drop)}")


def test_max_drop_that_is_no_number(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["demo", "--max-drop", "a point"])
    assert exit.value.code == 2
    assert "argument --max-drop: invalid float value: 'a point'\nSee `kopt demo --help`" in capsys.readouterr().err


# The command itself, in a process of its own.


@over(("flags", "code", "traceback"), [([], 2, False), (["--debug"], 1, True)])
def test_the_process_ends_with_the_code_and_shows_a_traceback_only_on_request(tmp_path, flags, code, traceback):
    words = [sys.executable, "-m", "kopt", "report", str(tmp_path / "nowhere"), *flags]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("Traceback" in done.stderr) is traceback
    assert f"{tmp_path / 'nowhere' / 'report.json'} does not exist" in done.stderr
    assert done.stdout == ""
