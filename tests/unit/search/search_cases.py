"""Candidates with round numbers."""

import numpy as np

from kopt.core.records.artifacts import Artifact, TensorInfo
from kopt.core.records.candidates import Candidate, ExportConfig
from kopt.core.records.measurements import Energy, Evaluation, Latency, Machine, Measurement
from kopt.core.records.search.judgement import ClassChange, Judgement
from kopt.measure import Runner

MACHINE = Machine("Linux", "cpu", 2, 1, (), "3.11", {})


def candidate(name, accuracy, latency_ms=1.0, size=1000, millijoules=None, memory=None, judgement=None):
    latency = Latency(1, 10, 1, latency_ms, latency_ms, latency_ms, latency_ms, latency_ms, 1000 / latency_ms)
    energy = None if millijoules is None else Energy(millijoules, "meter", True)
    artifact = Artifact(name, "tflite", "int8", size, size // 2, "", "", (), (), (), {}, {})
    return Candidate(
        name,
        ExportConfig(),
        "ok",
        artifact=artifact,
        evaluation=Evaluation(name, "LiteRT", 100, {"accuracy": accuracy}),
        measurement=Measurement(name, "LiteRT", None, (latency,), MACHINE, memory, energy),
        judgement=judgement,
    )


def judgement(before, after, low, high, verdict, classes=(), worst=""):
    return Judgement(
        "accuracy", 200, before, after, None, None, low, high, 0.95, "by hand", verdict, None, classes, worst
    )


def change(label, before, after, low, high):
    return ClassChange(label, 20, before, after, low, high)


BASELINE = candidate("baseline", 0.95, 10.0, 5000)


class FunctionRunner(Runner):
    """Runs a NumPy function and counts its calls."""

    format = "numpy"
    runtime = "NumPy"
    threads = None
    device = "cpu"
    fixed_batch = None

    def __init__(self, function, width, name="function", classes=None):
        self.name = name
        self.inputs = (TensorInfo("x", (None, width), "float32"),)
        self.outputs = (TensorInfo("y", (None, classes), "float32"),)
        self.calls = 0
        self._function = function

    def run(self, feeds):
        self.calls += 1
        return {"y": self._function(feeds["x"])}


def softmax_of(x):
    """As many classes as inputs; the largest input wins."""
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
