"""Models with what kopt adds to them open in a process that has done nothing else."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import kopt

pytestmark = pytest.mark.slow
L = keras.layers
X = np.linspace(-1, 1, 192, dtype="float32").reshape(24, 8)
OPENS = """
import sys, kopt, numpy as np
for path in sys.argv[1:]:
    model = kopt.load_model(path)
    np.testing.assert_array_equal(model(np.load(sys.argv[1][:-6] + ".x.npy")), np.load(path[:-6] + ".npy"))
    model.compile("sgd", "mse")
    model.fit(np.zeros((8, 8)), np.zeros((8, 3)), verbose=0)
"""


def test_they_open_in_a_fresh_process(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(16, activation="relu")(inputs)))
    made = {
        "masked": kopt.prune.magnitude(model, 0.5)[0],
        "clustered": kopt.cluster.weights(model, clusters=4)[0],
        "rounded": kopt.quantize.aware(model, calibration=X)[0],
        "penalized": kopt.prune.group_lasso(model, 1e-3)[0],
    }
    np.save(tmp_path / "masked.x.npy", X)
    for name, one in made.items():
        one.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", one(X))
    command = [sys.executable, "-c", OPENS, *(str(tmp_path / f"{name}.keras") for name in made)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_chain_of_a_thousand_rounded_layers(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8,))
    for _ in range(180):
        x = L.Add()([x, L.Dense(8, activation="tanh")(x)])
    copy, _ = kopt.quantize.aware(keras.Model(inputs, x), calibration=X)
    assert len(copy.layers) > 1000
    copy.save(tmp_path / "deep.keras")
    code = "import sys, kopt; print(len(kopt.load_model(sys.argv[1]).layers))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "deep.keras")], capture_output=True, text=True)
    assert done.stdout.strip() == str(len(copy.layers)), done.stderr[-2000:]
