import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kopt.cli import main

MODEL = Path(__file__).parents[2] / "data" / "dense.keras"


@pytest.fixture
def network(tmp_path):
    layers = [keras.layers.Dense(32, activation="relu", name="hidden"), keras.layers.Dense(10, name="out")]
    keras.Sequential([keras.Input((64,)), *layers], name="net").save(tmp_path / "net.keras")
    return tmp_path / "net.keras"


def test_channels_go(capsys, network, tmp_path):
    words = ["prune", str(network), str(tmp_path / "small.keras"), "--keep", "0.5"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "hidden" in shown
    assert shown.rstrip().endswith("small.keras")
    assert keras.models.load_model(tmp_path / "small.keras").get_layer("hidden").units == 16
    assert main(words) == 1
    assert "exists already. Pass --force" in capsys.readouterr().err
    assert main([*words, "--force", "--protect", "hidden"]) == 2
    assert "hidden" in capsys.readouterr().err
    assert keras.models.load_model(tmp_path / "small.keras").get_layer("hidden").units == 16


def test_weights_become_zero_and_json_is_the_record(capsys, network, tmp_path):
    words = ["prune", str(network), str(tmp_path / "zero.keras"), "--sparsity", "0.75", "--protect", "out", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "MagnitudePruning/1"
    kernels = [layer.kernel.numpy() for layer in keras.models.load_model(tmp_path / "zero.keras").layers]
    assert [float(np.mean(kernel == 0)) for kernel in kernels] == [0.75, 0.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["small.h5", "--keep", "0.5"], "OUTPUT ends in .keras"),
        (["small.keras", "--keep", "0.5", "--criterion", "taylor"], "needs examples: pass --data"),
        (["small.keras", "--keep", "0.5", "--rows", "-1"], "--rows is a number of rows"),
    ],
)
def test_mistakes_come_before_any_work(capsys, words, message):
    assert main(["prune", "missing.keras", *words]) == 2
    assert message in capsys.readouterr().err


def test_one_goal_is_needed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prune", str(MODEL), "small.keras"])
    assert ended.value.code == 2
    assert "one of the arguments --keep --macs --params --sparsity is required" in capsys.readouterr().err
