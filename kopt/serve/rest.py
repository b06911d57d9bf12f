"""TF Serving's REST API over HTTP. Source: "RESTful API" of TF Serving; model_servers/http_rest_api_util.cc."""

import asyncio
import json
import logging
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tornado.web

from kopt.core.errors import KoptError, NotServedError, RequestError, RequestTooLargeError, ServingError
from kopt.core.records.shipping.monitoring import Traffic
from kopt.core.records.shipping.serving import ServerSettings, VersionStatus
from kopt.measure.loading import DEFAULT_SIGNATURE
from kopt.serve import json_tensors
from kopt.serve.batcher import queue_is_full
from kopt.serve.classifying import read_examples, require_method, results_of
from kopt.serve.hosting import Host, Serving
from kopt.serve.loaded import signature_definition
from kopt.serve.metrics import CONTENT_TYPE, Metrics
from kopt.serve.monitoring.monitor import Exchange, Monitor, ShadowAnswer
from kopt.serve.monitoring.routing import is_chosen, request_id

_ASKED = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICTION = re.compile(rf"/v1/models/(?P<name>[^/:]+){_ASKED}:(?P<method>classify|regress|predict|label)", re.I)
_STATUS = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_ASKED}(?:/(?P<metadata>metadata))?", re.I)
_WATCHED = ("classify", "regress", "predict")
_METRICS = ("/metrics", "/monitoring/prometheus/metrics")
# A body that is too large is read and thrown away up to here, so that its sender gets to read the answer.
_PATIENCE = 8
_RETRY_AFTER_S = 1
_LITTLE = 1 << 16
_MOST_SHADOWS = 64
ID_HEADER, VERSION_HEADER = "X-Request-Id", "X-Model-Version"
Arrays = Mapping[str, np.ndarray]


class Answer(NamedTuple):
    """What a version answered: the body, and the arrays on both sides of the model."""

    body: bytes
    signature: str
    arrays: Arrays
    outputs: Arrays


class State:
    """What all requests share.

    Attributes:
        under_way: requests that were begun and not answered.
        answered: requests that were.
        draining: whether connections end after their answer.
        copies: calls of the shadow under way.
    """

    def __init__(
        self, host: Host, settings: ServerSettings, metrics: Metrics, monitor: Monitor | None, traffic: Traffic
    ):
        self.host = host
        self.settings = settings
        self.metrics = metrics
        self.monitor = monitor
        self.traffic = traffic
        self.under_way = 0
        self.answered = 0
        self.draining = False
        self.copies: set[asyncio.Task[None]] = set()

    def route(self, identity: str) -> tuple[Serving, str]:
        """Return the version for a request that asks for none, and its role."""
        host, traffic = self.host, self.traffic
        is_canary = traffic.canary in host.labels and is_chosen(identity, "canary", traffic.canary_share)
        if is_canary:
            return host.find(label=traffic.canary), "canary"
        return host.find(label=traffic.main), "main"

    def copy(self, identity: str, serving: Serving, answer: Answer) -> None:
        """Let the shadow answer too, behind the back of who asked; not at all where it cannot keep up."""
        label = self.traffic.shadow
        if label not in self.host.labels or not is_chosen(identity, "shadow", self.traffic.shadow_share):
            return
        shadow = self.host.find(label=label)
        if shadow.version == serving.version or self.draining:
            return
        if len(self.copies) >= _MOST_SHADOWS or shadow.waiting > self.settings.max_queue // 2:
            self.metrics.count("kopt_shadow_total", outcome="dropped")
            return
        task = asyncio.get_running_loop().create_task(self._shadowed(identity, shadow, answer))
        self.copies.add(task)
        task.add_done_callback(self.copies.discard)

    async def _shadowed(self, identity: str, shadow: Serving, answer: Answer) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            with shadow.used():
                _, queue = shadow.signature(answer.signature)
                outputs = await queue.predict(answer.arrays)
        except KoptError:
            self.metrics.count("kopt_shadow_total", outcome="failed")
            return
        if self.monitor is not None:
            seconds = loop.time() - start
            self.monitor.note_shadow(ShadowAnswer(identity, shadow.version, seconds, outputs, answer.outputs))


def application(state: State) -> tornado.web.Application:
    """Return the application that answers every request."""
    # Its own log would print a line a request; the metrics count them.
    return tornado.web.Application([(r".*", Handler, {"state": state})], log_function=lambda handler: None)


@tornado.web.stream_request_body
class Handler(tornado.web.RequestHandler):
    """Answers one request, always in JSON, with TF Serving's words and status for what goes wrong."""

    def initialize(self, state: State) -> None:
        """Take what all requests share."""
        self.state = state
        self.chunks: list[bytes] = []
        self.received = 0
        self.method = "other"
        self.id = request_id(self.request.headers.get(ID_HEADER))
        self.seen: dict[str, Any] = {}
        self.is_under_way = True
        state.under_way += 1

    def prepare(self) -> None:
        """Refuse a body that is far too large before it is read."""
        limit = self.state.settings.max_request_bytes
        self.request.connection.set_max_body_size(limit * _PATIENCE)  # type: ignore[union-attr]
        length = self.request.headers.get("Content-Length", "0")
        if length.isdigit() and int(length) > limit * _PATIENCE:
            self.set_header("Connection", "close")
            self._refuse(self._too_large(int(length)))

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body while there is room."""
        self.received += len(chunk)
        if self.received <= self.state.settings.max_request_bytes:
            self.chunks.append(chunk)
        else:
            self.chunks.clear()

    async def answer(self, *_: str) -> None:
        """Answer, whatever the HTTP method."""
        try:
            if self.received > self.state.settings.max_request_bytes:
                raise self._too_large(self.received)
            body, kind = await self._body()
            self.set_header("Content-Type", kind)
            self.finish(body)
        except KoptError as error:
            self._refuse(error)

    get = post = put = delete = patch = head = options = answer

    def write_error(self, status_code: int, **_: Any) -> None:
        """Answer a failure that nobody foresaw: no traceback leaves the server."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": f"The server failed at this request (status {status_code})."}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Leave a failure that nobody foresaw to the log of the process."""
        logging.getLogger("kopt.serve").error("%s %s failed", self.request.method, self.request.path, exc_info=value)

    def set_default_headers(self) -> None:
        """Do not tell which program answers."""
        self.clear_header("Server")

    def finish(self, chunk: Any = None) -> Any:
        """Send the answer; while the server stops, with the word that the connection ends with it."""
        if self.state.draining:
            self.set_header("Connection", "close")
        return super().finish(chunk)

    def on_connection_close(self) -> None:
        """Forget a request whose sender has gone."""
        super().on_connection_close()
        self._leave()

    def on_finish(self) -> None:
        """Count the answer."""
        self._leave()
        state = self.state
        state.answered += 1
        state.metrics.count("kopt_requests_total", method=self.method, code=str(self.get_status()))
        seconds = self.request.request_time()
        state.metrics.observe("kopt_request_seconds", seconds, method=self.method)
        if state.monitor is not None and self.method in _WATCHED:
            state.monitor.note(Exchange(self.id, self.method, self.get_status(), seconds, **self.seen))

    def _leave(self) -> None:
        if self.is_under_way:
            self.is_under_way = False
            self.state.under_way -= 1

    async def _body(self) -> tuple[bytes, str]:
        verb, path = self.request.method, self.request.path
        if path in _METRICS and verb == "GET":
            self.method = "metrics"
            return self.state.metrics.text().encode(), CONTENT_TYPE
        found = (_PREDICTION if verb == "POST" else _STATUS).fullmatch(path) if verb in ("GET", "POST") else None
        if found is None:
            error = RequestError if path.lower().startswith("/v1/") else NotServedError
            raise error(f"Malformed request: {verb} {path}")
        asked = found.groupdict()
        if verb == "GET":
            self.method = "metadata" if asked["metadata"] else "status"
            return self._describe(asked), "application/json"
        self.method = asked["method"].lower()
        if self.method == "label":
            return await self._label(asked), "application/json"
        serving, role = self._serving(asked)
        if serving.waiting >= self.state.settings.max_queue:
            # Before the body is read: under overload, most of the work would be reading what is refused.
            raise queue_is_full(serving.waiting, self.state.settings)
        body = b"".join(self.chunks)
        self.chunks.clear()
        work = _predict if self.method == "predict" else _classify_or_regress
        with serving.used():
            answer = await work(serving, body, self.method)
        self.set_header(ID_HEADER, self.id)
        self.set_header(VERSION_HEADER, str(serving.version))
        if self.state.monitor is not None:
            arrays = {"signature": answer.signature, "arrays": answer.arrays, "outputs": answer.outputs}
            self.seen = {"version": serving.version, "role": role, **arrays}
        if self.method == "predict" and role != "asked":
            self.state.copy(self.id, serving, answer)
        return answer.body, "application/json"

    async def _label(self, asked: dict[str, str | None]) -> bytes:
        """Take labels for earlier requests, by their ids."""
        self._find(asked)
        monitor = self.state.monitor
        if monitor is None:
            raise RequestError("This server takes no labels: it was started without monitoring.")
        labels = json_tensors.parse_body(b"".join(self.chunks)).get("labels")
        if not isinstance(labels, dict) or not labels:
            raise RequestError('Labels come as {"labels": {"<X-Request-Id>": [one an example]}}.')
        coming = {identity: asyncio.wrap_future(monitor.label(identity, values)) for identity, values in labels.items()}
        found = dict(zip(coming, await asyncio.gather(*coming.values(), return_exceptions=True), strict=True))
        unknown = [identity for identity, one in found.items() if isinstance(one, LookupError)]
        refused = {identity: one for identity, one in found.items() if isinstance(one, KoptError)}
        for one in found.values():
            if isinstance(one, BaseException) and not isinstance(one, (LookupError, KoptError)):
                raise one
        taken = len(found) - len(unknown) - len(refused)
        if refused and not taken:
            raise next(iter(refused.values()))
        answer: dict[str, Any] = {"labelled": taken, "unknown": unknown}
        if refused:  # Others were taken, which is not to be told as if none had been.
            answer["refused"] = {identity: str(one) for identity, one in refused.items()}
        return json.dumps(answer).encode()

    def _serving(self, asked: dict[str, str | None]) -> tuple[Serving, str]:
        if asked["version"] is None and asked["label"] is None:
            self._find(asked)
            return self.state.route(self.id)
        return self._find(asked), "asked"

    def _describe(self, asked: dict[str, str | None]) -> bytes:
        if asked["name"] is None:
            raise RequestError("Missing model name in request.")
        name, version, label = _spec(asked)
        host = self.state.host
        if asked["metadata"]:
            return _metadata(host.name, self._find(asked))
        if name != host.name:
            raise NotServedError(f"Could not find any versions of model {name}")
        statuses = [_status(status) for status in host.statuses(version, label)]
        return json.dumps({"model_version_status": statuses}, indent=1).encode()

    def _find(self, asked: dict[str, str | None]) -> Serving:
        name, version, label = _spec(asked)
        if name != self.state.host.name:
            spec = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise NotServedError(f"Servable not found for request: {spec}")
        return self.state.host.find(version, label)

    def _refuse(self, error: KoptError) -> None:
        status = error.status if isinstance(error, ServingError) else 500
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        if status in (429, 503):
            self.set_header("Retry-After", str(_RETRY_AFTER_S))
        self.finish(json.dumps({"error": str(error)}))

    def _too_large(self, received: int) -> RequestTooLargeError:
        return RequestTooLargeError(
            f"The request has {received} bytes; at most {self.state.settings.max_request_bytes} are taken. Send the "
            "examples in parts."
        )


async def _predict(serving: Serving, body: bytes, _: str) -> Answer:
    document = await _aside(len(body), json_tensors.parse_body, body)
    key = json_tensors.signature_name(document, DEFAULT_SIGNATURE)
    signature, queue = serving.signature(key)
    rows = json_tensors.is_row_format(document)
    read = json_tensors.read_rows if rows else json_tensors.read_columns
    value = document["instances" if rows else "inputs"]
    arrays = await _aside(len(body), read, value, signature.runner.inputs)
    outputs = await queue.predict(arrays)
    size = sum(array.nbytes for array in outputs.values())
    text: bytes = await _aside(size, json_tensors.write_rows if rows else json_tensors.write_columns, outputs)
    return Answer(text, key, arrays, outputs)


async def _aside(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function: at once where there is little to do, else in a thread, so that other requests go on."""
    if size < _LITTLE:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def _classify_or_regress(serving: Serving, body: bytes, method: str) -> Answer:
    document = json_tensors.parse_body(body)
    key = json_tensors.signature_name(document, DEFAULT_SIGNATURE)
    signature, queue = serving.signature(key)
    require_method(signature, method)
    (info,) = signature.runner.inputs
    arrays = {info.name: read_examples(document, method)}
    outputs = await queue.predict(arrays)
    return Answer(json_tensors.write_results(results_of(outputs, method)), key, arrays, outputs)


def _spec(asked: dict[str, str | None]) -> tuple[str, int | None, str | None]:
    """Return name, version and label that a path asks for."""
    version, label = asked["version"], asked["label"]
    if version is not None and int(version[:20]) >= 2**63:
        raise RequestError(f"Failed to convert version: {version[:20]} to numeric.")
    name = urllib.parse.unquote(asked["name"] or "")
    return name, None if version is None else int(version), None if label is None else urllib.parse.unquote(label)


def _status(status: VersionStatus) -> dict[str, Any]:
    return {
        "version": str(status.version),
        "state": status.state,
        "status": {"error_code": status.error_code, "error_message": status.error_message},
    }


def _metadata(name: str, serving: Serving) -> bytes:
    signatures = {key: signature_definition(one) for key, one in serving.loaded.signatures.items()}
    return json.dumps(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(serving.version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        },
        indent=1,
    ).encode()
