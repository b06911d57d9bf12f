"""Commands on models and places that are legitimate, or wrong, and not ordinary: what is said, left and returned."""

import json

import keras
import numpy as np
import pytest

from kopt.cli import main

pytestmark = pytest.mark.slow
L = keras.layers
CUSTOM = """
import keras

@keras.saving.register_keras_serializable("edges")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {
        "plain": keras.Sequential([keras.Input((8,)), L.Dense(16, activation="relu"), L.Dense(2)]),
        "open": keras.Sequential([keras.Input((None, 3)), L.LSTM(4), L.Dense(1)]),
        "fixed": keras.Sequential([keras.Input(batch_shape=(4, 8)), L.Dense(16), L.Dense(2)]),
    }
    for name, model in models.items():
        model.save(f"{name}.keras")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["profile", "plain.keras", "--parts", "cost", "--html", "mine", "--force"],
        ["doctor", "plain.keras", "--html", "mine", "--force"],
    ],
)
def test_a_directory_is_never_replaced_by_a_page(place, capsys, words):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    assert main(words) == 1
    assert "mine is a directory" in capsys.readouterr().err
    assert (place / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("command", ["profile", "doctor"])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(place, capsys, command):
    assert main([command, "plain.keras", "--html", "plain.keras/page.html", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "OutputError"  # one document


@pytest.mark.parametrize("name", ["open", "fixed"])
def test_what_cannot_be_measured_is_pruned_and_reported(place, capsys, name):
    assert main(["prune", f"{name}.keras", "small.keras", "--keep", "0.5", "--round-to", "1"]) == 0
    shown = capsys.readouterr()
    assert "Model: small.keras" in shown.out
    assert ("were not measured side by side (--no-measure leaves it out)" in shown.err) == (name == "open")
    assert keras.models.load_model("small.keras").count_params() > 0


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--sparsity", "0.5", "--criterion", "lamp"], "--criterion goes with a goal for channels"),
        (["--sparsity", "0.5", "--round-to", "4"], "--round-to goes with a goal for channels"),
        (["--keep", "0.5", "--granularity", "block"], "--granularity goes with --sparsity"),
    ],
)
def test_options_without_an_effect_are_refused(place, capsys, words, option):
    assert main(["prune", "plain.keras", "small.keras", *words]) == 2
    assert option in capsys.readouterr().err
    assert not (place / "small.keras").exists()


def test_a_part_that_was_named_and_not_made_is_told_by_the_exit_code(place, capsys):
    np.savez("data.npz", x_train=np.zeros((40, 8)), y_train=np.zeros(40), x_val=np.zeros((9, 8)), y_val=np.zeros(9))
    assert main(["profile", "plain.keras", "--data", "data.npz", "--parts", "cost", "gradients"]) == 1
    assert "Left out: gradients" in capsys.readouterr().out
    assert main(["profile", "plain.keras", "--parts", "cost"]) == 0
    assert main(["profile", "plain.keras", "--batch-size", "0"]) == 2
    assert "`batch_size` must be a whole number" in capsys.readouterr().err
    assert main(["export", "plain.keras", "saved"]) == 0
    assert main(["profile", "saved"]) == 2
    assert "saved is a SavedModel" in capsys.readouterr().err


def test_benchmarks_of_layers_of_ones_own_and_of_open_sizes(place, capsys):
    (place / "edges.py").write_text(CUSTOM)
    assert main(["bench", "plain.keras", "--import", "edges", "--seconds", "0.05"]) == 0
    import edges

    keras.Sequential([keras.Input((8,)), edges.Doubled(), L.Dense(2)]).save("own.keras")
    capsys.readouterr()
    words = ["bench", "own.keras", "--import", "edges", "--seconds", "0.05", "--memory", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)[0]["peak_memory_bytes"] > 0
    np.save("steps.npy", np.zeros((4, 5, 3), "float32"))
    assert main(["bench", "open.keras", "--data", "steps.npy", "--seconds", "0.05", "--memory"]) == 1
    shown = capsys.readouterr()
    assert "open.keras" in shown.out
    assert "The memory of open.keras is not known" in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("words", [["--loss", "mse"], ["--rows", "-3"]])
def test_options_of_a_model_without_one(words, capsys):
    assert main(["doctor", *words]) == 2
    assert f"{words[0]} belongs to a model" in capsys.readouterr().err
