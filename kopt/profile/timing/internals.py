"""The private parts of TensorFlow and Keras that profiling needs; the only file here that touches them.

`tests/unit/profile/test_profile_timing_internals.py` fails when a release changes one of them.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.profiler.internal import _pywrap_profiler
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from kopt.train.interception import replaced


@contextlib.contextmanager
def profiler_session(directory: Path) -> Iterator[Callable[[], Any]]:
    """Run TensorFlow's profiler inside the block; it is stopped at the end, whatever happens.

    Not `tf.profiler.experimental.start`: where another session runs that Python did not start, that function keeps the
    session it could not start, and says "another profiler is running" from then on.

    Args:
        directory: exists; where the profiler writes.

    Yields:
        A function to call once: ends the profiling and returns the `XSpace`.

    Raises:
        tf.errors.AlreadyExistsError: a session is running in this process.
    """
    session = _pywrap_profiler.ProfilerSession()
    session.start(str(directory), {})  # The defaults: kernels and devices, no Python functions.
    running = True

    def collect() -> Any:
        nonlocal running
        running = False
        session.export_to_tb()
        [file] = directory.rglob("*.xplane.pb")
        return xplane_pb2.XSpace.FromString(file.read_bytes())

    try:
        yield collect
    finally:
        if running:
            session.stop()


@contextlib.contextmanager
def inside_scopes(layer: keras.layers.Layer, scope: Callable[[], Any]) -> Iterator[None]:
    """Enter `scope()` within the name scope that `layer` opens for each of its calls, inside the block."""
    opened = layer._open_name_scope

    @contextlib.contextmanager
    def both() -> Iterator[None]:
        with opened(), scope():
            yield

    with replaced(layer, "_open_name_scope", both):
        yield


def all_graphs(graph: tf.Graph) -> Iterator[tf.Graph]:
    """Yield `graph` and the graphs of all functions that it calls: bodies of loops, branches."""
    pending, seen = [graph], set()
    while pending:
        current = pending.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            pending.extend(function.graph for function in current._functions.values() if hasattr(function, "graph"))
