"""A small search in a process of its own, for the tests that kill it or leave it no room."""

import resource

import numpy as np

import kopt
from kopt import measure
from kopt.core.errors import OutputError

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


def search_in_little_room(model, examples, workdir, file_bytes=None):
    """Return why a search ended; empty if it came to its end.

    Args:
        model, examples, workdir: of the search.
        file_bytes: most that this process and its children may write into one file; `None` for no limit.
    """
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
    try:
        search(model, examples, workdir)
    except OutputError as error:
        return str(error)
    return ""
