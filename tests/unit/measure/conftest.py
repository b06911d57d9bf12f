from pathlib import Path

import numpy as np
import pytest

from kopt.core.records.artifacts import TensorInfo
from kopt.measure import Runner

# The weights that tests/data/make_models.py wrote into `dense`.
KERNEL = np.array([[1, 0, -1], [0, 2, 0], [-1, 0, 1], [0.5, -0.5, 0]], np.float64)
BIAS = np.array([0, 0.25, -0.25], np.float64)


@pytest.fixture
def models() -> Path:
    return Path(__file__).parents[2] / "data"


@pytest.fixture
def dense():
    """The function inside every `dense` file, in NumPy."""

    def softmax_of_affine(x):
        powers = np.exp(np.asarray(x, np.float64) @ KERNEL + BIAS)
        return powers / powers.sum(axis=-1, keepdims=True)

    return softmax_of_affine


class FunctionRunner(Runner):
    """Runs a NumPy function of one input and notes the size of every call."""

    format = "numpy"
    runtime = "NumPy"
    threads = None
    device = "cpu"

    def __init__(self, function, width, fixed_batch=None, outputs=("y",), name="function"):
        self.name = name
        self.inputs = (TensorInfo("x", (fixed_batch, width), "float32"),)
        self.outputs = tuple(TensorInfo(output, (fixed_batch, None), "float32") for output in outputs)
        self.fixed_batch = fixed_batch
        self.calls = []
        self._function = function

    def run(self, feeds):
        self.calls.append(len(feeds["x"]))
        result = self._function(feeds["x"])
        return result if isinstance(result, dict) else {self.outputs[0].name: result}


@pytest.fixture
def function_runner():
    return FunctionRunner
