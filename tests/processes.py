"""Processes of their own that begin with TensorFlow imported: many cost one import."""

import dataclasses
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
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
        output: what was printed.
        errors: the end of what was written as errors.
    """

    exit_code: int | None
    result: Any
    output: str
    errors: str


class Forked:
    """A process that calls a function of a module; as a context, it is ended with what stands in it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str]):
        self._results, sender = _CONTEXT.Pipe(duplex=False)
        self._folder = tempfile.TemporaryDirectory()
        call = (self._folder.name, sender, environment, function, arguments)
        self._process = _CONTEXT.Process(target=_call, args=call)
        self._process.start()
        sender.close()

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._results.close()
        self._folder.cleanup()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """End it as `kill -9` does, if it still runs."""
        self._process.kill()
        self._process.join()

    def output(self) -> str:
        """Return what was printed by now, and flushed."""
        return self._written(1)

    def errors(self) -> str:
        """Return the end of what was written as errors by now."""
        return self._written(2)[-3000:]

    def end(self, timeout: float | None = None) -> Ended:
        """Wait for its result, or for its end without one; so many seconds for each."""
        assert self._results.poll(timeout), f"There is no result after {timeout} seconds. {self.errors()}"
        try:
            result = self._results.recv()
        except EOFError:  # It ended before it returned.
            result = None
        self._process.join(timeout)
        return Ended(self._process.exitcode, result, self.output(), self.errors())

    def _written(self, stream: int) -> str:
        file = Path(self._folder.name, str(stream))
        return file.read_text(errors="replace") if file.exists() else ""


def _call(
    folder: str, results: Any, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    for stream in (1, 2):
        with open(Path(folder, str(stream)), "wb", buffering=0) as file:
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    gc.freeze()  # As `conftest` does.
    gc.set_threshold(50_000, 10, 10)
    result = function(*arguments)
    sys.stdout.flush()
    results.send(result)
    os._exit(0)  # Threads of servers and coordinators would keep the interpreter from ending.


def _program(code: str, words: tuple[str, ...]) -> None:
    sys.argv = ["-c", *words]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})


def start_forked(function: Callable[..., Any], *arguments: Any, **environment: str) -> Forked:
    """Call a function of a module in a process of its own, with variables of the environment, and go on."""
    return Forked(function, arguments, environment)


def start_program(code: str, *words: str, **environment: str) -> Forked:
    """Run a program as `python -c` does, and go on."""
    return Forked(_program, (code, words), environment)


def run_forked(function: Callable[..., Any], *arguments: Any, **environment: str) -> Ended:
    """Call a function of a module in a process of its own and wait for its end."""
    with start_forked(function, *arguments, **environment) as process:
        return process.end()


def run_program(code: str, *words: str, **environment: str) -> Ended:
    """Run a program as `python -c` does and wait for its end."""
    with start_program(code, *words, **environment) as process:
        return process.end()


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
