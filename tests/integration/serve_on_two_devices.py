"""Serves a SavedModel from two logical CPU devices, in a process of its own; prints a line of JSON."""

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from kopt.serve.loaded import load_version
from kopt.train.distribution.devices import logical_cpus


class Net(tf.Module):
    """A product by a matrix that says where it was computed."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(tf.reshape(tf.range(6.0), (3, 2)))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def predict(self, x):
        return {"y": x @ self.kernel}


def main():
    """Return on which devices three workers hold their variables and compute, and whether they agree."""
    logical_cpus(2)
    net, x = Net(), np.arange(6, dtype=np.float32).reshape(2, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1"
        tf.saved_model.save(net, path, signatures={"serving_default": net.predict})
        crew = load_version(path, workers=3).signatures["serving_default"].crew
        alone = load_version(path, workers=1).signatures["serving_default"].crew[0]
    return {
        "variables": [runner._loaded.kernel.device[-5:] for runner in crew],
        "computed": [computed_on(runner, x) for runner in crew],
        "shared": [crew[0] is crew[1], crew[0] is crew[2]],
        "equal": [bool(np.array_equal(runner.run({"x": x})["y"], x @ net.kernel.numpy())) for runner in (*crew, alone)],
        "alone": alone.placed,
    }


def computed_on(runner, x):
    """Return the device on which a call left its result."""
    plain, seen = runner._function, []

    def watched(**feeds):
        seen.append(plain(**feeds))
        return seen[-1]

    runner._function = watched
    runner.run({"x": x})
    runner._function = plain
    return seen[0]["y"].backing_device[-5:]
