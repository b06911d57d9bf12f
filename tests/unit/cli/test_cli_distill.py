import json

import keras
import numpy as np
import pytest

from kopt.cli import main

L = keras.layers


@pytest.fixture
def files(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), L.Dense(32, activation="relu", name="hidden"), L.Dense(3, activation="softmax")]
    keras.Sequential(layers, name="large").save(tmp_path / "large.keras")
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    y = x[:, :3].argmax(-1)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    return tmp_path


def words(files, *more):
    return ["distill", str(files / "large.keras"), str(files / "small.keras"), "--data", str(files / "data.npz"), *more]


@pytest.mark.slow
def test_a_student_is_made_taught_and_written(capsys, files):
    assert main(words(files, "--width", "0.25", "--epochs", "2")) == 0
    shown = capsys.readouterr()
    assert "Teacher  Student" in shown.out
    assert shown.out.rstrip().endswith("small.keras")
    assert "[2/2] epoch 2" in shown.err
    assert keras.models.load_model(files / "small.keras").get_layer("hidden").units == 8
    assert main(words(files, "--width", "0.5")) == 1
    assert "exists already. Pass --force" in capsys.readouterr().err
    ready = [*words(files), "--student", str(files / "small.keras"), "--epochs", "1", "--force", "--json"]
    assert main(ready) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["schema"], shown["parameters"], len(shown["stages"])) == ("TeachingReport/1", 83, 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--student", "s.keras", "--depth", "0.5"], "--depth and --mobile are for students that are made here"),
        (["--width", "0.5", "--mobile", "--depth", "0.5"], "which a --mobile student has none of"),
        (["--width", "1.5"], "`width` must be"),
        (["--width", "0.5", "--temperature", "0"], "`temperature` must be"),
        (["--width", "0.5", "--features", "hiden"], "Did you mean 'hidden'"),
        (["--width", "0.5", "--mobile"], "one image of known size"),
    ],
)
def test_mistakes_leave_no_file(capsys, files, more, message):
    assert main(words(files, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (files / "small.keras").exists()


def test_output_is_a_keras_file(capsys, files):
    assert main(["distill", "missing.keras", "small.h5", "--data", "digits", "--width", "0.5"]) == 2
    assert "OUTPUT ends in .keras" in capsys.readouterr().err


def test_one_size_is_needed(capsys, files):
    with pytest.raises(SystemExit) as ended:
        main(words(files))
    assert ended.value.code == 2
    assert "--student --width --macs --params is required" in capsys.readouterr().err
