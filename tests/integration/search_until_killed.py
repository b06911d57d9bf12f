"""A small search in a process of its own, for the tests that kill it."""

import numpy as np

import kopt
from kopt import measure

TECHNIQUES = ("depthwise_separable", "tflite-float32")


def search(model, examples, workdir):
    """Search with trained candidates, as an uninterrupted run and one that is killed both do."""
    measure.memory = lambda *_, **__: 1  # a process for each file, and as little compared as latencies are
    arrays = np.load(examples)
    kopt.optimize(
        model,
        (arrays["x"], arrays["y"]),
        (arrays["x_val"], arrays["y_val"]),
        workdir=workdir,
        techniques=TECHNIQUES,
        budget=kopt.Budget(0.1),
        training=kopt.Training(epochs=1),
        samples=20,
        progress=None,
    )
