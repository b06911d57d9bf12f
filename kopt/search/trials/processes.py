"""The parent's end of the processes in which trials run."""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kopt.core.child_processes import environment

# Elsewhere libraries that TensorFlow loads do not survive a fork.
CAN_FORK = sys.platform == "linux"
WORKER = (sys.executable, "-m", "kopt.search.trials.worker")
_NURSERY = (sys.executable, "-m", "kopt.search.trials.nursery")


def run_fresh(
    command: Sequence[str], job: Path, log: Path, seconds: float | None, variables: Mapping[str, str] | None = None
) -> int:
    """Run a job in a process that is started for it, and return how it ended.

    Args:
        command: what to run; its argument is the path of the job.
        job: path of a `Job`.
        log: what is printed is appended to it.
        seconds: after which it is ended; `None` without a limit.
        variables: of the environment, beside those that are inherited.

    Raises:
        subprocess.TimeoutExpired: it was ended.
    """
    with open(log, "a") as opened:
        process = subprocess.Popen(
            [*command, str(job)],
            stdin=subprocess.PIPE,  # the child ends when it is closed
            stdout=opened,
            stderr=opened,
            env={**environment(), **(variables or {})},
        )
        try:
            return process.wait(seconds)
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


class Nursery:
    """Runs jobs in forks of a process that has loaded TensorFlow, which is started when it is first needed.

    Args:
        command: what to run; speaks the protocol of `kopt.search.trials.nursery`.
    """

    def __init__(self, command: Sequence[str] = _NURSERY):
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def run(self, job: Path, log: Path, seconds: float | None) -> int:
        """Run a job, and return how it ended; see `run_fresh`."""
        with self._lock:
            process = self._started(log)
            assert process.stdin is not None
            deadline = None if seconds is None else time.monotonic() + seconds
            try:
                process.stdin.write(json.dumps([str(job.absolute()), str(log.absolute())]).encode() + b"\n")
                process.stdin.flush()
                child = _number(process, deadline)
            except BrokenPipeError:
                child = None
            except BaseException:
                self._end()
                raise
            if child is None:  # it died before it could fork
                return self._end()
            try:
                code = _number(process, deadline)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                _number(process, None)
                raise
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                return self._end()
            return code

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _started(self, log: Path) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            with open(log, "a") as opened:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=opened,
                    env=environment(),
                    bufsize=0,
                )
        assert self._process is not None
        return self._process

    def _end(self) -> int:
        """End the process, if there is one, and return how it ended."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()
        for stream in (process.stdin, process.stdout):
            stream.close()
        return process.wait()


def _number(process: subprocess.Popen[bytes], deadline: float | None) -> int | None:
    """Return the next number that a nursery says; `None` if it died.

    Raises:
        subprocess.TimeoutExpired: it said nothing until the deadline.
    """
    assert process.stdout is not None
    left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
    if not select.select([process.stdout], [], [], left)[0]:
        raise subprocess.TimeoutExpired(process.args, left or 0.0)
    line = process.stdout.readline()
    return int(line) if line else None


nursery = Nursery()
atexit.register(nursery.close)
