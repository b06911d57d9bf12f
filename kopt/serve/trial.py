"""A file that no manifest vouches for is opened in a process of its own first: a runtime may end with a damaged one.

LiteRT trusts the offsets in a file. Some that point astray end the process, and a server with it.
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from kopt.core.errors import DataError, KoptError, LoadError
from kopt.core.files import size_bytes
from kopt.measure import Runner, load, random_inputs

# Runtimes that read a file in place; TensorFlow raises.
TRIED = ("tflite", "onnx")
_SECONDS = 120.0
# A dimension that is damaged asks for any amount of memory. Address space, of which libraries alone take gigabytes.
_BYTES, _TIMES = 8 << 30, 20
_DAMAGED = 3


def require_harmless(path: Path, *, threads: int | None = None) -> None:
    """Open and run a `.tflite` or `.onnx` file in a process of its own.

    Raises:
        LoadError: it cannot be opened or run, or the process died or did not end.
    """
    command = [sys.executable, "-m", "kopt.serve.trial", str(path), *([] if threads is None else [str(threads)])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise LoadError(
            f"{path} was not opened and run in {_SECONDS:g} s. It is damaged, or far too large; export it again."
        ) from None
    if done.returncode == _DAMAGED:
        raise LoadError(done.stdout.strip())
    if done.returncode:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        raise LoadError(
            f"{path} ended the process that tried to open and run it ({how}). It is damaged; export or copy it again."
        )


def run_once(runner: Runner) -> None:
    """Run a model on seeded random examples; what takes strings is not run."""
    try:
        feeds = random_inputs(runner.inputs, runner.fixed_batch or 1, seed=0)
    except DataError:
        return
    runner.run(runner.feeds(feeds))


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("threads", type=int, nargs="?")
    options = parser.parse_args()
    limit = _BYTES + _TIMES * size_bytes(options.path)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        run_once(load(options.path, threads=options.threads))
    except (KoptError, MemoryError) as error:
        print(f"{options.path} cannot be opened and run: {error or 'out of memory'}")  # noqa: T201
        return _DAMAGED
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
