"""What the server tells about itself while it runs: metrics, a log, drift, scores, alerts.

The event loop only puts what happened into a bounded queue; a thread works it off, so that a request waits for none of
it. What the thread has no time for is counted and left out.
"""

import collections
import concurrent.futures
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kopt.core.errors import DataError, LoadError, OverloadedError, RequestError
from kopt.core.records.shipping.drift import DriftReport
from kopt.core.records.shipping.monitoring import Alert, Monitoring, MonitoringProfile
from kopt.measure.loading import DEFAULT_SIGNATURE
from kopt.serve.metrics import Labels, Metrics
from kopt.serve.monitoring import predictions
from kopt.serve.monitoring.alerts import changed, evaluate
from kopt.serve.monitoring.lines import encoded, packed
from kopt.serve.monitoring.log_files import LogFile
from kopt.serve.monitoring.profiles import read_profile, require_own
from kopt.serve.monitoring.recent import Counts, Recent
from kopt.serve.monitoring.routing import is_chosen

_MOST_WAITING = 10_000
_MOST_WAITING_BYTES = 64 << 20
_MOST_CLASSES = 100  # of a metric, which has a line for each
_MOST_FEATURES = 20
_MOST_VERSIONS = 8
_PAUSE_S = 0.05
_TURN_S = 0.25
Arrays = Mapping[str, np.ndarray]


class Exchange(NamedTuple):
    """A request and its answer; the last fields are `None` unless a version answered it."""

    id: str
    method: str
    code: int
    seconds: float
    version: int | None = None
    role: str | None = None
    signature: str | None = None
    arrays: Arrays | None = None
    outputs: Arrays | None = None


class ShadowAnswer(NamedTuple):
    """What the shadow answered to a request that another version answered with `expected`."""

    id: str
    version: int
    seconds: float
    outputs: Arrays
    expected: Arrays


class _Labels(NamedTuple):
    id: str
    labels: Any
    done: "concurrent.futures.Future[None]"


class _Loaded(NamedTuple):
    version: int
    path: Path | None


class _Left(NamedTuple):
    version: int


class _Answer(NamedTuple):
    """An answer that a label may come for."""

    version: int
    output: Arrays


class Monitor:
    """Watches one server.

    Args:
        model: name.
        settings: see `Monitoring`.
        metrics: that it adds to.
        say: takes a line when something is wrong with the log or a profile, or an alert changes.

    Raises:
        ConfigError: another server writes the log.
        OutputError: the log cannot be written.
    """

    def __init__(self, model: str, settings: Monitoring, metrics: Metrics, say: Callable[[str], None]):
        self.alerts: tuple[Alert, ...] = ()
        self._settings = settings
        self._metrics = metrics
        self._say = say
        self._began = time.monotonic()
        self._run = secrets.token_hex(4)
        self._counts = Counts()
        self._recent: dict[int, Recent] = {}
        self._drift: dict[int, tuple[DriftReport | None, DriftReport | None]] = {}
        self._answers: collections.OrderedDict[str, _Answer] = collections.OrderedDict()
        self._shadows: collections.OrderedDict[str, _Answer] = collections.OrderedDict()
        self._queue: collections.deque[tuple[float, float, int, Any]] = collections.deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._log = None
        if settings.log is not None:
            self._log = LogFile(Path(settings.log), settings.max_log_bytes, settings.keep_logs, say)
        self._lines: list[bytes] = []
        self._look_at = self._began + settings.every_s
        self._add_gauges()
        self._line("start", time.time(), 0.0, model=model)
        self._thread = threading.Thread(target=self._work, name="kopt-monitor", daemon=True)
        self._thread.start()

    def loaded(self, version: int, path: Path | None) -> None:
        """Begin with a version anew, and with the profile beside it."""
        self._put(_Loaded(version, path), 0)

    def left(self, version: int) -> None:
        """Forget a version that is no longer served, so that nothing of it fires any more."""
        self._put(_Left(version), 0)

    def note(self, exchange: Exchange) -> None:
        """Take note of an answer."""
        self._put(exchange, _size(exchange.arrays) + _size(exchange.outputs))

    def note_shadow(self, answer: ShadowAnswer) -> None:
        """Take note of what the shadow answered."""
        self._put(answer, _size(answer.outputs) + _size(answer.expected))

    def label(self, identity: str, labels: Any) -> "concurrent.futures.Future[None]":
        """Take the labels of an earlier request.

        The future raises a `RequestError` if they do not fit, a `LookupError` if the request is not remembered, and an
        `OverloadedError` if too much waits.
        """
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        if not self._put(_Labels(identity, labels, done), 0):
            done.set_exception(OverloadedError("More waits for the monitor than it can take. Send these labels again."))
        return done

    def close(self) -> None:
        """Work off what waits, then let go of the log."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        if self._log is not None:
            self._log.close()

    def _put(self, item: Any, size: int) -> bool:
        with self._lock:
            fits = len(self._queue) < _MOST_WAITING and (not self._queue or self._bytes + size <= _MOST_WAITING_BYTES)
            if fits:
                self._queue.append((time.time(), time.monotonic() - self._began, size, item))
                self._bytes += size
        if not fits:
            self._metrics.count("kopt_monitor_lost_total")
        return fits

    def _work(self) -> None:
        while True:
            is_last = self._closing
            self._work_off()
            if time.monotonic() >= self._look_at or is_last:
                self._look()
                self._look_at = time.monotonic() + self._settings.every_s
            if self._lines:
                if self._log is not None:
                    self._log.write(self._lines)
                self._lines = []
            if is_last and not self._queue:
                return
            if not self._queue:
                self._wake.wait(_PAUSE_S)

    def _work_off(self) -> None:
        """Take what waits, for a while at most: the log is to be written and rules are due under load, too."""
        until = time.monotonic() + _TURN_S
        while self._queue and time.monotonic() < until:
            with self._lock:
                t, up, size, item = self._queue.popleft()
                self._bytes -= size
            try:
                self._take(item, t, up)
            except Exception:  # one request that nobody foresaw must not end the watch over all others
                self._metrics.count("kopt_monitor_lost_total")
                logging.getLogger("kopt.serve").exception("the monitor stumbled over %s", type(item).__name__)
                if isinstance(item, _Labels) and not item.done.done():
                    item.done.set_exception(LookupError(item.id))

    def _take(self, item: Any, t: float, up: float) -> None:
        if isinstance(item, Exchange):
            self._take_exchange(item, t, up)
        elif isinstance(item, ShadowAnswer):
            self._take_shadow(item, t, up)
        elif isinstance(item, _Labels):
            self._take_labels(item, t, up)
        elif isinstance(item, _Left):
            self._recent.pop(item.version, None)
            self._drift.pop(item.version, None)
        else:
            self._take_version(item, t, up)

    def _recent_of(self, version: int) -> Recent:
        """Return what is known of a version, which is now the one used last; those unused for longest go first."""
        recent = self._recent.pop(version, None) or Recent(self._settings.recent, None)
        self._recent[version] = recent
        return recent

    def _take_version(self, item: _Loaded, t: float, up: float) -> None:
        profile: MonitoringProfile | None = None
        if item.path is not None:
            try:
                profile = read_profile(item.path)
                if profile is not None:
                    require_own(profile, item.path)
            except LoadError as error:
                profile = None
                self._say(str(error))
        self._recent.pop(item.version, None)
        self._recent[item.version] = Recent(self._settings.recent, profile)
        self._drift.pop(item.version, None)
        for unused in list(self._recent)[:-_MOST_VERSIONS]:
            del self._recent[unused]
            self._drift.pop(unused, None)
        self._line("version", t, up, version=item.version, path="" if item.path is None else str(item.path))

    def _take_exchange(self, item: Exchange, t: float, up: float) -> None:
        ms = item.seconds * 1e3
        bad = predictions.nonfinite(item.arrays) if item.arrays is not None else 0
        self._counts.request(up, item.code, ms, bad > 0)
        told: dict[str, Any] = {"id": item.id, "method": item.method, "code": item.code, "ms": round(ms, 3)}
        if item.version is not None and item.arrays is not None and item.outputs is not None:
            told |= {"version": item.version, "role": item.role, "n": _count(item.outputs), "nonfinite": bad}
            # Of other signatures scores may be sorted, and say nothing of classes.
            shown = item.outputs if item.signature == DEFAULT_SIGNATURE else {}
            self._measure(item.version, item.arrays, shown, bad, told["n"])
            if item.signature == DEFAULT_SIGNATURE:
                told |= self._kept(item.id, item.version, item.arrays, item.outputs)
            else:
                told["signature"] = item.signature
        self._line("request", t, up, **told)

    def _measure(self, version: int, arrays: Arrays, outputs: Arrays, bad: int, count: int) -> None:
        metrics, word = self._metrics, str(version)
        metrics.count("kopt_examples_total", count, version=word)
        for number in predictions.classes(outputs) or ():
            if number < _MOST_CLASSES:
                metrics.count("kopt_predictions_total", 1, **{"version": word, "class": str(number)})
        for value in predictions.confidence(outputs) or ():
            metrics.observe("kopt_prediction_confidence", value, version=word)
        for name, array in predictions.numeric(arrays).items():
            values = array.astype(np.float64).ravel()
            values = values[np.isfinite(values)] if bad else values
            metrics.summarize("kopt_input_value", float(values.sum()), values.size, input=name)
            metrics.summarize("kopt_input_square", float(values @ values), values.size, input=name)
            if bad:
                metrics.count("kopt_input_nonfinite_total", array.size - values.size, input=name)

    def _kept(self, identity: str, version: int, arrays: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Keep what labels and drift need, and return what the log tells of it."""
        settings = self._settings
        told: dict[str, Any] = {}
        found = predictions.classes(outputs)
        if found is not None:
            told["classes"] = found
        judged = predictions.judged_output(outputs)
        if judged is not None and judged.nbytes <= settings.max_example_bytes:
            # A copy: rows of a batch would keep all of it.
            _remember(self._answers, identity, _Answer(version, {"y": judged.copy()}), settings.remembered)
        if is_chosen(identity, "sample", settings.sample):
            recent = self._recent_of(version)
            inputs, answers = predictions.kept(arrays), predictions.numeric(outputs)
            columns = predictions.features(inputs)
            recent.inputs.add(columns)
            recent.outputs.add(predictions.features(answers))
            if self._log is not None:
                is_small = _size(inputs) + _size(answers) <= settings.max_example_bytes
                told |= {"x": packed(inputs)} if is_small else {"features": packed(columns)}
                told |= {"y": packed(answers)} if is_small else {"answers": packed(predictions.features(answers))}
        return told

    def _take_shadow(self, item: ShadowAnswer, t: float, up: float) -> None:
        mine, other = predictions.classes(item.expected), predictions.classes(item.outputs)
        if mine is not None and other is not None and len(mine) == len(other):
            n, same = len(mine), sum(a == b for a, b in zip(mine, other, strict=True))
        else:
            n = same = 0
        self._metrics.count("kopt_shadow_total", outcome="compared")
        for word, number in (("yes", same), ("no", n - same)):
            self._metrics.count("kopt_shadow_examples_total", number, same=word)
        self._counts.shadow(up, n, same)
        judged = predictions.judged_output(item.outputs)
        told: dict[str, Any] = {}
        if judged is not None and judged.nbytes <= self._settings.max_example_bytes:
            _remember(self._shadows, item.id, _Answer(item.version, {"y": judged.copy()}), self._settings.remembered)
            told = {"y": packed({"y": judged})}
        ms = round(item.seconds * 1e3, 3)
        self._line("shadow", t, up, id=item.id, version=item.version, n=n, same=same, ms=ms, **told)

    def _take_labels(self, item: _Labels, t: float, up: float) -> None:
        answer = self._answers.get(item.id)
        if answer is None:
            self._metrics.count("kopt_labels_total", outcome="unknown")
            item.done.set_exception(LookupError(item.id))
            return
        try:
            given = predictions.label_array(item.labels)
            scores = predictions.label_scores(answer.output, given, self._settings.score)
        except DataError as error:
            self._metrics.count("kopt_labels_total", outcome="refused")
            item.done.set_exception(RequestError(f"Labels of request {item.id!r}: {error}"))
            return
        del self._answers[item.id]
        self._recent_of(answer.version).scores.extend(scores)
        shadow = self._shadows.pop(item.id, None)
        if shadow is not None:
            try:
                others = predictions.label_scores(shadow.output, given, self._settings.score)
                self._recent_of(shadow.version).shadow_scores.extend(others)
            except DataError:  # labels fit the one that answered, not of need its shadow
                self._metrics.count("kopt_labels_total", outcome="unfit for the shadow")
        self._metrics.count("kopt_labels_total", outcome="taken")
        is_class = self._settings.score == "accuracy"
        labels = predictions.class_numbers(answer.output, given) if is_class else given
        self._line("label", t, up, id=item.id, labels=labels.tolist())
        item.done.set_result(None)

    def _look(self) -> None:
        """Work out drift, and hold the rules against everything."""
        for version, recent in self._recent.items():
            self._drift[version] = recent.drift()
        now = time.monotonic() - self._began
        before = self.alerts
        values = {rule.name: self._value(rule.metric, now, rule.window_s) for rule in self._settings.rules}
        self.alerts = evaluate(self._settings.rules, before, values, now)
        for alert in changed(before, self.alerts):
            value = None if alert.value is None else round(alert.value, 6)
            self._line("alert", time.time(), now, name=alert.name, state=alert.state, value=value)
            self._say(f"alert {alert.name} is {alert.state}" + ("" if value is None else f" at {value:g}"))

    def _value(self, metric: str, now: float, window_s: float) -> float | None:
        if metric == "score":
            scores = [one for recent in self._recent.values() for one in recent.scores]
            return float(np.mean(scores)) if scores else None
        if metric in ("drifted_inputs", "drifted_predictions"):
            place = metric == "drifted_predictions"
            reports = [found[place] for found in self._drift.values()]
            return max((len(one.drifted) for one in reports if one is not None), default=None)
        return self._counts.value(metric, now, window_s)

    def _line(self, kind: str, t: float, up: float, **told: Any) -> None:
        if self._log is not None:
            event = {"kind": kind, "t": round(t, 3), "up": round(up, 3), "run": self._run, **told}
            self._lines.append(encoded(event))

    def _add_gauges(self) -> None:
        gauge = self._metrics.gauge
        gauge("kopt_drift_psi", "Stability index of the features that moved most.", self._psi)
        gauge("kopt_drifted_features", "Features that have drifted from the profile.", self._drifted)
        gauge("kopt_score", f"Mean {self._settings.score} of the last labelled examples.", self._scores)
        gauge("kopt_alert_firing", "1 while the alert fires.", self._firing)
        if self._log is not None:
            gauge("kopt_log_lines_written", "Lines that the log took.", lambda: self._log.written)  # type: ignore[union-attr]
            gauge("kopt_log_lines_dropped", "Lines that the disk refused.", lambda: self._log.dropped)  # type: ignore[union-attr]

    def _reports(self) -> list[tuple[str, str, DriftReport]]:
        return [
            (str(version), side, report)
            for version, pair in sorted(self._drift.copy().items())
            for side, report in zip(("input", "prediction"), pair, strict=True)
            if report is not None
        ]

    def _psi(self) -> dict[Labels, float]:
        return {
            (("feature", one.name), ("side", side), ("version", version)): one.psi
            for version, side, report in self._reports()
            for one in sorted(report.features, key=lambda one: -one.psi)[:_MOST_FEATURES]
        }

    def _drifted(self) -> dict[Labels, float]:
        return {(("side", side), ("version", version)): len(one.drifted) for version, side, one in self._reports()}

    def _scores(self) -> dict[Labels, float]:
        found = {version: recent.score for version, recent in sorted(self._recent.copy().items())}
        return {(("version", str(version)),): score for version, score in found.items() if score is not None}

    def _firing(self) -> dict[Labels, float]:
        return {(("alert", alert.name),): float(alert.state == "firing") for alert in self.alerts}


def _remember(kept: "collections.OrderedDict[str, _Answer]", identity: str, answer: _Answer, most: int) -> None:
    kept[identity] = answer
    kept.move_to_end(identity)
    while len(kept) > most:
        kept.popitem(last=False)


def _size(arrays: Arrays | None) -> int:
    return 0 if arrays is None else sum(array.nbytes for array in arrays.values())


def _count(outputs: Arrays) -> int:
    return next((len(array) for array in outputs.values() if array.ndim), 1)
