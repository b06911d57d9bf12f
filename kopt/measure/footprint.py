"""Memory that loading and running a file takes, in a process of its own."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kopt.core.child_processes import import_tensorflow_alone
from kopt.core.errors import InputError, MeasurementError
from kopt.core.memory import peak_resident_bytes, start_peak
from kopt.measure.loading import format_of, import_runtime, load
from kopt.measure.runner import check_positive
from kopt.measure.timing import batch

TIMEOUT_S = 600
_CHILD = "from kopt.measure.footprint import main; main()"


def memory(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    batch_size: int = 1,
    safe_mode: bool = True,
    modules: Sequence[str] = (),
) -> int:
    """Measure the peak resident memory of loading and running a file, in bytes.

    A fresh process imports the runtime, notes its resident memory, loads the file, runs one call twice on made-up
    inputs, and reports how much higher its resident memory peaked. That includes the weights (also mapped file pages
    that were touched), activations, the runtime's own buffers and what loading needs for a moment; it leaves out
    Python and the runtime's libraries, which do not depend on the model. Linux only.

    Args:
        path: of the file or SavedModel directory.
        threads: see `kopt.measure.load`.
        batch_size: examples a call.
        safe_mode: see `kopt.load_model`.
        modules: Python modules that the process imports before it opens the file: of layers that are registered with
            Keras. They are looked up as here.

    Raises:
        MeasurementError: the process died or took more than ten minutes; the message has its last lines.
        InputError: not a path. A model in memory must be saved first, since a fresh process has to load it.

    Example:
        >>> kopt.measure.memory("model.tflite") > artifact.size_bytes
        True
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(
            f"Memory is measured in a fresh process, which needs a file. Received: {type(path).__module__}."
            f"{type(path).__qualname__}. Save or export the model and pass the path."
        )
    check_positive("batch_size", batch_size)
    format_of(Path(path))
    request = json.dumps(
        {
            "path": os.fspath(path),
            "threads": threads,
            "batch_size": batch_size,
            "safe_mode": safe_mode,
            "modules": list(modules),
            "places": sys.path,
        }
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, request], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"Loading and running {path} took more than {TIMEOUT_S} s.") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise MeasurementError(f"The process that ran {path} ended with code {done.returncode}:\n{tail}")
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    """Run in the fresh process: print the growth in bytes as the last line."""
    request = json.loads(sys.argv[1])
    sys.path[:] = request["places"]
    for name in request["modules"]:
        importlib.import_module(name)
    format_name = format_of(Path(request["path"]))
    if format_name == "saved_model":
        import_tensorflow_alone()
    import_runtime(format_name)
    before = start_peak()
    runner = load(request["path"], threads=request["threads"], safe_mode=request["safe_mode"])
    feeds = batch(runner, None, request["batch_size"])
    for _ in range(2):
        runner.run(feeds)
    sys.stdout.write(f"\n{peak_resident_bytes() - before}\n")
