"""The local server: one model, any runner, behind TF Serving's REST API."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kopt.core.errors import ConfigError, UnavailableError, nearest
from kopt.core.memory import resident_bytes
from kopt.core.optional import require
from kopt.core.records.shipping.monitoring import Monitoring, Traffic
from kopt.core.records.shipping.serving import ServerSettings
from kopt.core.settings import whole
from kopt.measure import Runner, load
from kopt.serve.deployment import REST_PORT
from kopt.serve.metrics import Metrics

_NAME = re.compile(r"[^/:\s]+")
_START_S = 600.0
_BACKLOG = 128
_QUIET_S = 0.1


class Server:
    """Serves a model over HTTP as TF Serving does: predict, classify, regress, metadata and status, and `/metrics`.

    Requests that arrive together share one call of the runtime. What finds no room in the queue gets 429 at once. A new
    version is loaded beside the old one, after it was checked against its manifest; one that is damaged is refused, and
    the old one goes on. It answers no request by running code that came with it, and listens to this machine alone
    unless told otherwise: it knows no passwords.

    Args:
        model: a directory of versions (`bundle` makes one), a SavedModel, a `.tflite`, `.onnx`, `.keras` or `.h5` file,
            a built Keras model or a `kopt.measure.Runner`.
        name: of the model in URLs; that of the directory or file if `None`.
        host: address to listen at.
        port: to listen at; 0 takes a free one, see `url`.
        settings: limits.
        monitoring: metrics of inputs and predictions, drift, labels, alerts and a log of requests; none if `None`.
        traffic: which version answers a request that asks for none, and which gets a share or copies of them.
        safe_mode: see `kopt.load_model`.
        log: takes a line when a version comes or goes; standard error if `None`.

    Raises:
        MissingDependencyError: the extra `serve` is not installed.

    Example:
        >>> with kopt.serve.Server(model, name="digits", port=0, log=str) as server:
        ...     with kopt.serve.Client(server.url, server.name) as client:
        ...         scores = client.predict(x_val)
        >>> scores.shape
        (269, 10)
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = REST_PORT,
        settings: ServerSettings | None = None,
        monitoring: Monitoring | None = None,
        traffic: Traffic | None = None,
        safe_mode: bool = True,
        log: Callable[[str], None] | None = None,
    ):
        self._tornado = _web()
        self._model, default = _source(model)
        self.name = default if name is None else name
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"A model's name has no '/', ':' or space. Received: {self.name!r}. Pass `name`.")
        if whole("port", port, least=0) > 65535:
            raise ConfigError(f"A port is at most 65535. Received: {port}.")
        self.host = host
        self.port = port
        self._settings = settings or ServerSettings()
        self._monitoring = monitoring
        self._traffic = traffic or Traffic()
        self._safe_mode = safe_mode
        self._log = log or _to_standard_error
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None

    @property
    def url(self) -> str:
        """Address of the server, e.g. `"http://127.0.0.1:8501"`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> "Server":
        """Serve in a thread of its own, and return once a version takes requests.

        Raises:
            ConfigError: it serves already.
            KoptError: nothing could be loaded, or the port is taken.
        """
        self._require_idle()
        self._started.clear()
        self._error = None
        self._thread = threading.Thread(target=self._in_thread, name="kopt-serve", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_S):
            raise UnavailableError(f"The model was not loaded in {_START_S:g} s.")
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def stop(self) -> None:
        """Stop listening, answer the requests under way, and end."""
        if self._thread is None:
            return
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def run(self, ready: Callable[["Server"], None] = lambda server: None) -> None:
        """Serve in this thread until SIGTERM or SIGINT; then answer the requests under way.

        Args:
            ready: called with the server once a version takes requests.

        Raises:
            ConfigError: it serves already.
            KoptError: nothing could be loaded, or the port is taken.
        """
        self._require_idle()
        asyncio.run(self._serve(lambda: ready(self), signals=True))

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _require_idle(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            raise ConfigError(f"The server of {self.name} runs at {self.url} already. Call `stop` before.")

    def _in_thread(self) -> None:
        try:
            asyncio.run(self._serve(self._started.set, signals=False))
        except BaseException as error:  # noqa: BLE001 - whoever started it must hear of it
            self._error = error
        finally:
            self._started.set()

    async def _serve(self, ready: Callable[[], None], *, signals: bool) -> None:
        # Here, not at the top: these load Tornado and TensorFlow's messages, which `import kopt.serve` does not need.
        from kopt.serve.hosting import Host, follow  # noqa: PLC0415
        from kopt.serve.monitoring.monitor import Monitor  # noqa: PLC0415
        from kopt.serve.rest import State, application  # noqa: PLC0415

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop.set)
        listening = self._listen()
        metrics = Metrics()
        host = Host(self.name, self._model, self._settings, metrics, self._log, safe_mode=self._safe_mode)
        monitor = None
        try:
            if self._monitoring is not None:
                monitor = Monitor(self.name, self._monitoring, metrics, self._log)
                host.on_load, host.on_leave = monitor.loaded, monitor.left
            await host.start()
            self._check_labels(host.labels)
        except BaseException:
            listening.close()
            await host.close()
            if monitor is not None:
                monitor.close()
            raise
        state = State(host, self._settings, metrics, monitor, self._traffic)
        metrics.gauge("kopt_queue_examples", "Examples that wait.", host.waiting)
        metrics.gauge("kopt_requests_under_way", "Requests begun and not answered.", lambda: state.under_way)
        metrics.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident_bytes)
        server = self._tornado.HTTPServer(application(state))
        server.add_socket(listening)
        follower = self._loop.create_task(follow(host, self._settings.poll_s, self._stop))
        ready()
        await self._stop.wait()
        server.stop()
        state.draining = True
        await _drained(state, self._settings.drain_s)
        await follower
        await asyncio.gather(*state.copies, return_exceptions=True)
        await host.close()
        if monitor is not None:
            monitor.close()
        await server.close_all_connections()

    def _check_labels(self, labels: Mapping[str, int]) -> None:
        """Refuse traffic for a label that no version has, and say of others that they are still to come.

        Raises:
            ConfigError: `main` is none.
        """
        traffic, known = self._traffic, ", ".join(labels) or "none"
        if traffic.main is not None and traffic.main not in labels:
            raise ConfigError(
                f"No version that is served has the label {traffic.main!r}, which is to answer."
                f"{nearest(traffic.main, labels)} Labels: {known}. `kopt.serve.set_labels` gives one."
            )
        for label in (traffic.canary, traffic.shadow):
            if label is not None and label not in labels:
                self._log(f"no version has the label {label!r} yet, so that it gets no requests; labels: {known}")

    def _listen(self) -> socket.socket:
        """Listen, so that a port that is taken is known before the model is loaded.

        Connections that come before it is loaded wait.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"Cannot listen at {self.host} port {self.port}: {error.strerror or error}. Choose another port; 0 "
                "takes a free one."
            ) from error
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        return listening


async def _drained(state: Any, seconds: float) -> None:
    """Wait until no request has been under way for a moment, `seconds` at most.

    The moment is for clients whose last answer did not say yet that the connection ends: their next one does.
    """
    loop = asyncio.get_running_loop()
    begun = busy = loop.time()
    answered = state.answered
    while loop.time() < min(busy + _QUIET_S, begun + seconds):
        await asyncio.sleep(0.005)
        if state.under_way or state.answered != answered:
            answered, busy = state.answered, loop.time()


def _source(model: Any) -> tuple[Path | Runner, str]:
    """Return what is served, and the name it has by itself."""
    if isinstance(model, (str, os.PathLike)):
        path = Path(model).absolute()
        if not path.exists():
            raise ConfigError(f"There is no {path} to serve.")
        is_version = path.name.isdigit() and path.is_dir()
        return path, path.parent.name if is_version else path.name if path.is_dir() else path.stem
    runner = load(model)
    return runner, runner.name


def _web() -> ModuleType:
    """Return the module of the HTTP server, or say how to get it."""
    return require("tornado.httpserver", "Serving")


def _to_standard_error(line: str) -> None:
    print(f"kopt: {line}", file=sys.stderr, flush=True)  # noqa: T201
