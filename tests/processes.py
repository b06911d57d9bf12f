"""Processes of their own that begin with TensorFlow imported: many cost one import."""

import dataclasses
import gc
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# Imports alone: TensorFlow's runtime begins in each process, with the settings of that process.
_CONTEXT.set_forkserver_preload(["tensorflow", "keras", "kopt.train", "kopt.data", "kopt.search.loop"])


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        exit_code: minus the signal that killed it.
        result: what the function returned.
        errors: the end of what was written as errors.
    """

    exit_code: int | None
    result: Any
    errors: str


def _call(path: str, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with open(path, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    gc.freeze()  # As `conftest` does.
    gc.set_threshold(50_000, 10, 10)
    results.send(function(*arguments))


def run_forked(function: Callable[..., Any], *arguments: Any) -> Ended:
    """Call a function of a module in a process of its own and wait for its end."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile() as file, receiver:
        process = _CONTEXT.Process(target=_call, args=(file.name, sender, function, arguments))
        process.start()
        sender.close()
        try:
            result = receiver.recv()
        except EOFError:  # It ended before it returned.
            result = None
        process.join()
        return Ended(process.exitcode, result, file.read().decode(errors="replace")[-3000:])


def begin(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a process of its own, which the caller may kill."""
    process = _CONTEXT.Process(target=_alone, args=(function, arguments))
    process.start()
    return process


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    gc.freeze()  # As `conftest` does.
    gc.set_threshold(50_000, 10, 10)
    function(*arguments)


def result_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a module returns in a process of its own, which must end well."""
    ended = run_forked(function, *arguments)
    assert ended.exit_code == 0, ended.errors
    return ended.result
