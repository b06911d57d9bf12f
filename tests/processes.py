"""Processes of their own that begin with TensorFlow imported: many cost one import."""

import dataclasses
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from kopt.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
# Imports alone: TensorFlow's runtime begins in each process, with the settings of that process.
_CONTEXT.set_forkserver_preload(["tensorflow", "keras", "kopt.train", "kopt.data"])


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


class Forked:
    """A process that calls a function of a module; as a context, it is ended with what stands in it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str]):
        self._results, sender = _CONTEXT.Pipe(duplex=False)
        self._errors = tempfile.NamedTemporaryFile()  # noqa: SIM115 - read when the process has ended
        call = (self._errors.name, sender, environment, function, arguments)
        self._process = _CONTEXT.Process(target=_call, args=call)
        self._process.start()
        sender.close()

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._results.close()
        self._errors.close()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """End it as `kill -9` does, if it still runs."""
        self._process.kill()
        self._process.join()

    def errors(self) -> str:
        """Return the end of what was written as errors."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-3000:]

    def end(self, timeout: float | None = None) -> Ended:
        """Wait for its result, or for its end without one; so many seconds for each."""
        assert self._results.poll(timeout), f"There is no result after {timeout} seconds. {self.errors()}"
        try:
            result = self._results.recv()
        except EOFError:  # It ended before it returned.
            result = None
        self._process.join(timeout)
        return Ended(self._process.exitcode, result, self.errors())


def _call(
    path: str, results: Any, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    with open(path, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    gc.freeze()  # As `conftest` does.
    gc.set_threshold(50_000, 10, 10)
    results.send(function(*arguments))
    os._exit(0)  # Threads of servers and coordinators would keep the interpreter from ending.


def command_line(words: list[str], output: str) -> int:
    """Run `kopt` with these words, its standard output in a file, and return the exit code."""
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
    try:
        return main(words, own_process=True)
    finally:
        sys.stdout.flush()


def start_forked(function: Callable[..., Any], *arguments: Any, **environment: str) -> Forked:
    """Call a function of a module in a process of its own, with variables of the environment, and go on."""
    return Forked(function, arguments, environment)


def run_forked(function: Callable[..., Any], *arguments: Any, **environment: str) -> Ended:
    """Call a function of a module in a process of its own and wait for its end."""
    with start_forked(function, *arguments, **environment) as process:
        return process.end()


def result_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a module returns in a process of its own, which must end well."""
    ended = run_forked(function, *arguments)
    assert ended.exit_code == 0, ended.errors
    return ended.result
