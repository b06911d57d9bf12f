"""The parent's end of the conversion child process."""

import atexit
import contextlib
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from kopt.core.child_processes import ending, environment
from kopt.core.errors import ExportError

_TAIL_LINES = 15
_NO_ROOM = os.strerror(errno.ENOSPC)


class Converter:
    """A child process that converts models, started when first needed and kept for the next conversion.

    Starting costs about four seconds, nearly all of it importing TensorFlow; `start` returns at once, so that the
    parent can trace its model meanwhile.

    Args:
        command: what to run; speaks the protocol of `kopt.export.worker`.
    """

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "kopt.export.worker")) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._log: Any = None
        self._log_start = 0
        self._pending_warm_up = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the child if there is none; do not wait for it."""
        with self._lock:
            self._start()

    def run(self, job: str, **arguments: Any) -> None:
        """Run one conversion and wait for it.

        Raises:
            ExportError: the converter raised, or its process died; carries the last lines that it printed.
            OSError: it found no room on the disk.
        """
        with self._lock:
            self._start()
            self._log_start = self._log.seek(0, os.SEEK_END)
            try:
                reply = self._ask({"job": job, **arguments})
            except KeyboardInterrupt:
                self._stop()
                raise
            if not reply["ok"] and _NO_ROOM in reply["error"]:
                raise OSError(errno.ENOSPC, _NO_ROOM)
            if not reply["ok"]:
                error = reply["error"]
                raise ExportError(f"The {job} converter failed: {_summary(error)}", self._log_tail(), error)

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        self._log = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(),
        )
        self._send({"job": "warm_up"})
        self._pending_warm_up = True

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        if self._pending_warm_up:
            self._receive()
            self._pending_warm_up = False
        self._send(job)
        return self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _death(self) -> ExportError:
        assert self._process is not None
        code = self._process.wait()
        tail = self._log_tail()
        self._stop()
        return ExportError(
            f"The converter crashed ({ending(code)}); it ran in its own process, nothing was written.", tail
        )

    def _log_tail(self) -> str:
        self._log.seek(self._log_start)
        return "\n".join(self._log.read().strip().splitlines()[-_TAIL_LINES:])

    def _stop(self) -> None:
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):  # what a dead child did not read is of no use
                        stream.close()
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None


def _summary(error: str) -> str:
    """Return the first line of an error, without the places in the graph that MLIR puts before its message."""
    line = error.strip().splitlines()[0] if error.strip() else "no message"
    return re.sub(r"(<unknown>:0: error: )?loc\(.*\): ", "", line)


converter = Converter()
atexit.register(converter.close)
