import json
from pathlib import Path

import keras
import numpy as np
import pytest

import kopt
from kopt.cli import main

L = keras.layers


@pytest.fixture
def files(tmp_path):
    """Return the words of the command for a small network and its examples."""
    keras.utils.set_random_seed(0)
    layers = [L.Dense(16, activation="relu", name="hidden"), L.Dense(4, activation="softmax", name="out")]
    keras.Sequential([keras.Input((8,)), *layers], name="net").save(tmp_path / "net.keras")
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 8)).astype("float32"), generator.integers(0, 4, 40)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    return ["quantize", str(tmp_path / "net.keras"), str(tmp_path / "net.tflite"), "--data", str(tmp_path / "data.npz")]


@pytest.mark.slow
def test_the_file_is_in_integers_and_the_table_says_what_was_tried(capsys, files):
    assert main([*files, "--options", "equalize", "mse"]) == 0
    shown, told = capsys.readouterr()
    assert "equalize" in shown
    assert told.splitlines()[:2] == ["[1/2] equalize", "[2/2] mse"]
    assert shown.rstrip().endswith("net.tflite")
    assert kopt.measure.load(files[2]).outputs[0].shape[-1] == 4
    operators = json.loads(Path(f"{files[2]}.json").read_text())["operators"]
    assert {one["dtype"] for one in operators if one["name"] == "FULLY_CONNECTED"} == {"int8"}
    assert main(files) == 1
    assert "exists already. Pass --force" in capsys.readouterr().err


def test_json_is_the_record_and_a_keras_file_is_the_copy(capsys, files, tmp_path):
    files[2] = str(tmp_path / "copy.keras")
    np.save(tmp_path / "x.npy", np.load(files[4])["x_train"])  # no labels are needed
    files[4] = str(tmp_path / "x.npy")
    assert main([*files, "--options", "--ranges", "percentile", "--skip", "out", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "PostTrainingQuantization/1"
    assert not any(one["kept"] for one in shown["options"])
    assert shown["quantization"]["left"][0]["layer"] == "out"
    assert keras.models.load_model(files[2]).quantization.scheme == "int8"


@pytest.mark.slow
def test_the_fewest_layers_stay_in_float(capsys, files):
    assert main([*files, "--fallback", "float32", "--max-drop", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["metric"], plan["within_budget"], plan["layers"]) == ("accuracy", True, [])
    assert kopt.measure.load(files[2]).outputs[0].shape[-1] == 4


@pytest.mark.slow
def test_the_fewest_layers_of_a_model_that_gives_quantities_stay_in_float(capsys, files, tmp_path):
    layers = [L.Dense(16, activation="relu"), L.Dense(1)]
    keras.Sequential([keras.Input((8,)), *layers]).save(files[1])
    data = dict(np.load(files[4]))
    np.savez(files[4], **{name: part if name[0] == "x" else part * 7.5 for name, part in data.items()})
    assert main([*files, "--fallback", "float32"]) == 2
    assert "Leave it out and set `least_db`" in capsys.readouterr().err
    assert main([*files, "--fallback", "float32", "--least-db", "5", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["metric"], plan["least_db"], plan["within_budget"]) == ("output_db", 5.0, True)


@pytest.mark.slow
def test_layers_get_four_bits_until_the_size_holds(capsys, files):
    assert main([*files, "--bits", "0.5", "--json"]) == 0
    assert {one["bits"] for one in json.loads(capsys.readouterr().out)["layers"]} == {4}
    kernels = json.loads(Path(f"{files[2]}.json").read_text())["operators"]
    assert any(one["name"] == "FULLY_CONNECTED" for one in kernels)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--fallback", "float32", "--ranges", "mse"],
            "int8 alone. Received with it: --ranges",
        ),
        (
            ["--bits", "0.5", "--scheme", "int16x8"],
            "int8 alone. Received with it: --scheme",
        ),
        (["--fallback", "float12"], "float12"),
        (["--least-db", "20"], "Give it with --fallback alone"),
        (["--fallback", "float32", "--max-drop", "0.1", "--least-db", "20"], "Give it with --fallback alone"),
        (["--bits", "0"], "`size` must be a finite number in (0, inf]"),
        (["--max-drop", "0.1"], "--max-drop is what --fallback may lose"),
        (["--options", "equalise"], "Did you mean 'equalize'"),
        (["--scheme", "int7"], "Unknown `scheme` 'int7'"),
        (["--ranges", "mean"], "Unknown `ranges` 'mean'"),
        (["--skip", "lost"], "no layer is called so"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_code_2(capsys, files, words, message):
    assert main([*files, *words]) == 2
    assert message in capsys.readouterr().err


def test_another_ending_is_refused(capsys, files):
    files[2] = "net.onnx"
    assert main(files) == 2
    assert "ends in .tflite or .keras" in capsys.readouterr().err
