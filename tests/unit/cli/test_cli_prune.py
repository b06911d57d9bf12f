import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kopt.cli import main

MODEL = Path(__file__).parents[2] / "data" / "dense.keras"


@pytest.fixture
def network(tmp_path):
    hidden = keras.layers.Dense(32, activation="relu", name="hidden")
    layers = [hidden, keras.layers.Dense(10, activation="softmax", name="out")]
    keras.Sequential([keras.Input((64,)), *layers], name="net").save(tmp_path / "net.keras")
    return tmp_path / "net.keras"


def test_channels_go(capsys, network, tmp_path):
    words = ["prune", str(network), str(tmp_path / "small.keras"), "--keep", "0.5", "--no-measure"]
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
    assert main([*words, "--no-measure"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["schema"], shown["measured"]) == ("MagnitudePruning/1", None)
    kernels = [layer.kernel.numpy() for layer in keras.models.load_model(tmp_path / "zero.keras").layers]
    assert [float(np.mean(kernel == 0)) for kernel in kernels] == [0.75, 0.0]


def test_importance_by_gradients_and_by_cost(capsys, network, tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(16, 64)).astype("float32"), generator.integers(0, 10, 16)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    words = ["prune", str(network), str(tmp_path / "small.keras"), "--macs", "0.5", "--criterion", "fisher", "--json"]
    data = ["--data", str(tmp_path / "data.npz"), "--no-measure"]
    assert main([*words, *data]) == 2
    assert "There is no loss" in capsys.readouterr().out
    assert main([*words, *data, "--loss", "sparse_categorical_crossentropy", "--per", "macs"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["criterion"], shown["per"], shown["groups"][0]["after"]) == ("fisher", "macs", 16)


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["--keep", "--latency", "--sparsity"])
def test_both_files_are_measured(capsys, tmp_path, goal):
    layers = [keras.layers.Dense(1024, name="a"), keras.layers.Dense(1024, name="b"), keras.layers.Dense(10)]
    keras.Sequential([keras.Input((64,)), *layers]).save(tmp_path / "net.keras")
    assert main(["prune", str(tmp_path / "net.keras"), str(tmp_path / "small.keras"), goal, "0.5"]) == 0
    shown = capsys.readouterr().out
    assert "Milliseconds a call" in shown
    assert ("Before, same turns" in shown) == (goal == "--latency")
    assert max(map(len, shown.splitlines()[:-1])) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["small.h5", "--keep", "0.5"], "OUTPUT ends in .keras"),
        (["small.keras", "--keep", "0.5", "--criterion", "taylor"], "needs examples: pass --data"),
        (["small.keras", "--keep", "0.5", "--criterion", "gradient"], "needs examples: pass --data"),
        (["small.keras", "--keep", "0.5", "--rows", "-1"], "--rows is a number of rows"),
    ],
)
def test_mistakes_come_before_any_work(capsys, words, message):
    assert main(["prune", "missing.keras", *words]) == 2
    assert message in capsys.readouterr().err


def test_what_the_library_refuses_is_said(capsys, network, tmp_path):
    words = ["prune", str(network), str(tmp_path / "small.keras")]
    for more, message in (
        (["--keep", "0.5", "--per", "macs"], 'Give `scope="global"`'),
        (["--macs", "0.5", "--per", "mac"], "Did you mean 'macs'"),
        (["--latency", "1.5"], "`target_latency` must be a finite number in (0, 1]"),
        (["--latency-ms", "-1"], "`target_latency_ms` must be"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "small.keras").exists()


def test_one_goal_is_needed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prune", str(MODEL), "small.keras"])
    assert ended.value.code == 2
    assert (
        "one of the arguments --keep --macs --params --latency-ms --latency --sparsity is required"
        in capsys.readouterr().err
    )
