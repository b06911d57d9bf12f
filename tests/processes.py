"""Processes of their own that begin with TensorFlow imported: many cost one import."""

import dataclasses
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# Imports alone: TensorFlow's runtime begins in each process, with the settings of that process.
_CONTEXT.set_forkserver_preload(["tensorflow", "keras", "kopt.train", "kopt.data"])


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that killed it), and the end of what it wrote as errors."""

    exit_code: int | None
    errors: str


def _with_errors_in(path: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with open(path, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    function(*arguments)


def run_forked(function: Callable[..., Any], *arguments: Any) -> Ended:
    """Call a function of a module in a process of its own and wait for its end."""
    with tempfile.NamedTemporaryFile() as file:
        process = _CONTEXT.Process(target=_with_errors_in, args=(file.name, function, arguments))
        process.start()
        process.join()
        return Ended(process.exitcode, file.read().decode(errors="replace")[-3000:])
