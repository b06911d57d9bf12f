"""A tf.data service on this machine: a dispatcher and workers as processes, kept alive and cleared away."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from kopt.core.errors import ConfigError, LoadError
from kopt.data import service_process

# Passed as text: as a file, its directory would come first in the search path, as a module it would import all of kopt.
_PROGRAM = Path(service_process.__file__).read_text()
_STOP_S = 1.0  # They hold nothing that is worth waiting for.
_POLL_S = 0.2
_LOG_LINES = 15


class LocalService:
    """A running dispatcher with its workers; make it with `local_service`.

    Attributes:
        address: of the dispatcher, `"grpc://localhost:port"`.
        logs: directory with what each process printed; removed when the service ends without error.
    """

    def __init__(self, workers: int, *, restart: bool, timeout_s: float):
        self._holder = tempfile.TemporaryDirectory(prefix="kopt-service-")
        self.logs = Path(self._holder.name)
        self._timeout_s = timeout_s
        self._restart = restart
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._workers: list[_Process] = []
        self._dispatcher = _Process("dispatcher", 0, "", self.logs / "dispatcher.log")
        try:
            self.address = self._dispatcher.wait_ready(timeout_s)
            target = self.address.partition("://")[2]
            self._workers = [
                _Process("worker", _free_port(), target, self.logs / f"worker-{i}.log") for i in range(workers)
            ]
            for worker in self._workers:
                worker.wait_ready(timeout_s)
        except BaseException:
            self.close()
            raise
        self._keeper = threading.Thread(target=self._keep_alive, name="kopt-service", daemon=True)
        self._keeper.start()

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process numbers of the workers; one that died has a new one after its restart."""
        return tuple(worker.pid for worker in self._workers)

    def close(self) -> None:
        """End all processes and wait for them; may be called twice."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join()
        for process in (*self._workers, self._dispatcher):
            process.ask_to_stop()
        for process in (*self._workers, self._dispatcher):
            process.stop(_STOP_S)
        self._holder.cleanup()

    def __enter__(self) -> "LocalService":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _keep_alive(self) -> None:
        # Clients wait without end for a worker that died, until one answers at its address again.
        while not self._closing.wait(_POLL_S):
            for worker in self._workers:
                if self._restart and worker.has_ended() and not self._closing.is_set():
                    worker.restart()


def local_service(workers: int = 2, *, restart: bool = True, timeout_s: float = 60.0) -> LocalService:
    """Start a tf.data service on this machine and return it; a context manager that ends it.

    Use it to make input in several processes beside the training process, or to try `distribute` before a cluster
    does it. Ports are chosen by the system, and reachable from this machine by name `localhost`. The processes end
    with the block, and also when this process is killed.

    Args:
        workers: processes that make elements, at least 1; more than there are processor cores gain nothing.
        restart: start a worker that died again at its address. Without it, clients of a dead worker wait for ever.
        timeout_s: seconds to wait for all to be ready; TensorFlow alone takes some to start.

    Returns:
        The service, with `.address` and `.worker_pids`.

    Raises:
        ConfigError: an impossible number of workers or seconds.
        LoadError: a process did not start, with the end of its log.

    Example:
        >>> dataset = tf.data.Dataset.range(100).batch(10)
        >>> with kopt.data.local_service(workers=1) as service:
        ...     batches = kopt.data.distribute(dataset, service=service, mode="exactly_once")
        ...     sorted(int(number) for batch in batches for number in batch) == list(range(100))
        True
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"`workers` must be a whole number of at least 1. Received: {workers!r}.")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not timeout_s > 0:
        raise ConfigError(f"`timeout_s` must be a positive number of seconds. Received: {timeout_s!r}.")
    return LocalService(workers, restart=restart, timeout_s=timeout_s)


class _Process:
    """One server process, started anew at the same port as often as asked."""

    def __init__(self, role: str, port: int, dispatcher: str, log: Path):
        self.role, self._port, self._dispatcher, self._log = role, port, dispatcher, log
        self._child = self._start()

    def restart(self) -> None:
        self.stop(_STOP_S)
        self._child = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        with contextlib.ExitStack() as stack:
            log: IO[bytes] = stack.enter_context(open(self._log, "ab"))
            command = [sys.executable, "-c", _PROGRAM, self.role, str(self._port), self._dispatcher]
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}  # The accelerator belongs to the training.
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def has_ended(self) -> bool:
        return self._child.poll() is not None

    def wait_ready(self, timeout_s: float) -> str:
        """Return the address that the process announces."""
        assert self._child.stdout is not None  # for the type checker: a pipe was asked for
        line: list[str] = []
        reader = threading.Thread(target=lambda: line.append(self._child.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        deadline = time.monotonic() + timeout_s
        while reader.is_alive() and time.monotonic() < deadline:
            reader.join(_POLL_S)
        word, _, address = (line[0] if line else "").strip().partition(" ")
        if word != service_process.READY:
            # The pipe of a process that ends is closed a moment before its status is known.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.0 if reader.is_alive() else _STOP_S)
            state = f"ended with status {self._child.returncode}" if self.has_ended() else "did not answer"
            raise LoadError(
                f"The {self.role} of the local tf.data service {state} within {timeout_s:g} s. The end of its log:\n"
                f"{self._log_tail()}"
            )
        return address

    def ask_to_stop(self) -> None:
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()

    def stop(self, timeout_s: float) -> None:
        self.ask_to_stop()
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
