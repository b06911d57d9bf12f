"""A log, read once from its oldest line to its newest: what a report needs of it, and no more than fits into memory."""

import collections
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import DataError
from kopt.serve.monitoring import predictions
from kopt.serve.monitoring.lines import decoded, unpacked
from kopt.serve.monitoring.log_files import log_lines
from kopt.serve.monitoring.recent import Table

_MOST_ANSWERS = 200_000
_MOST_TIMES = 200_000
_CLOCK_STEP_S = 1.0
Event = Mapping[str, Any]


class VersionLines:
    """What the lines of one version add up to.

    Attributes:
        path: that it was loaded from; empty if the log does not say.
        requests, examples: answered with 200.
        nonfinite: requests with NaN or infinity among the inputs.
        times_ms: of the last answers.
        roles: requests by role.
        inputs, outputs: features of the last examples that were kept.
        kept: their references as `((id, which of this id), row, confidence)`.
        predictions: examples by class.
        scores: of labelled examples.
    """

    def __init__(self, length: int):
        self.path = ""
        self.requests = self.examples = self.nonfinite = 0
        self.times_ms: collections.deque[float] = collections.deque(maxlen=_MOST_TIMES)
        self.roles: collections.Counter[str] = collections.Counter()
        self.inputs, self.outputs = Table(length), Table(length)
        self.kept: collections.deque[tuple[tuple[str, int], int, float]] = collections.deque(maxlen=length)
        self.predictions: collections.Counter[int] = collections.Counter()
        self.scores: list[float] = []


class Log:
    """A log as it was read.

    Args:
        path: of the newest file.
        length: examples of each version that are kept.
        score: `"accuracy"` or `"absolute error"`.

    Raises:
        LoadError: there is none.
    """

    def __init__(self, path: Path, *, length: int, score: str):
        self.model = ""
        self.lines = self.damaged = self.clock_steps = 0
        self.statuses: collections.Counter[int] = collections.Counter()
        self.versions: dict[int, VersionLines] = {}
        # By id and which of the requests with this id it is, counted from 1: an id may be used again.
        self.labels: dict[tuple[str, int], list[Any]] = {}
        self._times: collections.Counter[str] = collections.Counter()
        self.shadow_scores: dict[tuple[int, int], list[tuple[float, float]]] = collections.defaultdict(list)
        self.shadow_counts: dict[tuple[int, int], list[int]] = collections.defaultdict(lambda: [0, 0])
        self.alerts: dict[str, Event] = {}
        self.fired: collections.Counter[str] = collections.Counter()
        self._length, self._score = length, score
        self._up: dict[str, float] = {}
        self._offsets: dict[str, float] = {}
        self._answers: collections.OrderedDict[str, tuple[int, np.ndarray]] = collections.OrderedDict()
        self._shadows: collections.OrderedDict[str, tuple[int, np.ndarray]] = collections.OrderedDict()
        for line in log_lines(path):
            if line:
                self._add(decoded(line))
        if self.damaged and not self.lines:
            raise DataError(f"{path} has no line that a server has written: {self.damaged} are something else.")

    @property
    def runs(self) -> int:
        """Starts of the server."""
        return len(self._up)

    @property
    def seconds(self) -> float:
        """Seconds over all runs, on the clock that nobody sets back."""
        return sum(self._up.values())

    def version(self, number: int) -> VersionLines:
        """Return what is known of a version, from now on at least."""
        return self.versions.setdefault(number, VersionLines(self._length))

    def _add(self, event: Event | None) -> None:
        if event is None:
            self.damaged += 1
            return
        self.lines += 1
        self._time(event)
        getattr(self, f"_add_{event['kind']}")(event)

    def _time(self, event: Event) -> None:
        run, up, offset = event["run"], float(event["up"]), float(event["t"]) - float(event["up"])
        self._up[run] = max(self._up.get(run, 0.0), up)
        self.clock_steps += offset < self._offsets.get(run, offset) - _CLOCK_STEP_S
        self._offsets[run] = offset

    def _add_start(self, event: Event) -> None:
        self.model = event["model"]
        self.alerts.clear()  # A server begins with all of them quiet, and writes what changes.

    def _add_version(self, event: Event) -> None:
        self.version(event["version"]).path = event["path"]

    def _add_request(self, event: Event) -> None:
        self.statuses[event["code"]] += 1
        self._times[event["id"]] += 1
        if event.get("version") is None:
            return
        found = self.version(event["version"])
        found.requests += 1
        found.examples += event["n"]
        found.nonfinite += bool(event.get("nonfinite"))
        found.times_ms.append(float(event["ms"]))
        found.roles[event["role"]] += 1
        numbers = event.get("classes")
        if isinstance(numbers, list):
            found.predictions.update(one for one in numbers if type(one) is int)
        self._keep(event, found)

    def _keep(self, event: Event, found: VersionLines) -> None:
        """Keep the features of a sampled request, and what its labels are to be held against."""
        x, y = unpacked(event.get("x")), unpacked(event.get("y"))
        inputs = _features(x) if x else unpacked(event.get("features"))
        outputs = _features(y) if y else unpacked(event.get("answers"))
        if inputs and _is_table(inputs, event["n"]):
            found.inputs.add(inputs)
            sure = (predictions.confidence(y) if y else None) or [1.0] * event["n"]
            if x:
                identity = event["id"], self._times[event["id"]]
                found.kept.extend((identity, row, value) for row, value in enumerate(sure))
        if outputs and _is_table(outputs, event["n"]):
            found.outputs.add(outputs)
        judged = predictions.judged_output(y) if y else None
        if judged is None and isinstance(event.get("classes"), list):
            judged = np.array(event["classes"])  # of a request that was not sampled; enough for an accuracy
        if judged is not None:
            _remember(self._answers, event["id"], (event["version"], judged))

    def _add_shadow(self, event: Event) -> None:
        answer = self._answers.get(event["id"])
        if answer is None:
            return
        counts = self.shadow_counts[answer[0], event["version"]]
        counts[0] += event["n"]
        counts[1] += event["same"]
        self.version(event["version"]).times_ms.append(float(event["ms"]))
        y = unpacked(event.get("y"))
        judged = predictions.judged_output(y) if y else None
        if judged is not None:
            _remember(self._shadows, event["id"], (event["version"], judged))

    def _add_label(self, event: Event) -> None:
        self.labels.setdefault((event["id"], self._times[event["id"]]), event["labels"])
        answer = self._answers.get(event["id"])
        scores = None if answer is None else self._scores(answer[1], event["labels"])
        if answer is None or scores is None:
            return
        del self._answers[event["id"]]
        self.version(answer[0]).scores += scores
        shadow = self._shadows.pop(event["id"], None)
        others = None if shadow is None else self._scores(shadow[1], event["labels"])
        if shadow is not None and others is not None:
            self.shadow_scores[answer[0], shadow[0]] += zip(scores, others, strict=True)
            self.version(shadow[0]).scores += others

    def _add_alert(self, event: Event) -> None:
        self.alerts[event["name"]] = event
        self.fired[event["name"]] += event["state"] == "firing"

    def _scores(self, judged: np.ndarray, labels: list[Any]) -> list[float] | None:
        if judged.dtype.kind == "i":
            fits = self._score == "accuracy" and np.shape(labels) == judged.shape
            return [float(one) for one in judged == np.array(labels)] if fits else None
        try:
            return predictions.label_scores({"y": judged}, labels, self._score)
        except DataError:
            return None


def logged_arrays(path: Path) -> Iterator[tuple[tuple[str, int], dict[str, np.ndarray]]]:
    """Yield id, which one of this id it is, and inputs of every request whose inputs are in the log, in order.

    Raises:
        LoadError: there is no log.
    """
    times: collections.Counter[str] = collections.Counter()
    for line in log_lines(path):
        event = decoded(line)
        if event is not None and event["kind"] == "request":
            times[event["id"]] += 1
            x = unpacked(event.get("x"))
            if x and all(array.ndim and len(array) == event.get("n") for array in x.values()):
                yield (event["id"], times[event["id"]]), x


def _features(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        return predictions.features(arrays)
    except DataError:
        return {}


def _is_table(columns: Mapping[str, np.ndarray], count: int) -> bool:
    return all(column.shape == (count,) and column.dtype.kind in "biuf" for column in columns.values())


def _remember(kept: Any, identity: str, answer: tuple[int, np.ndarray]) -> None:
    kept[identity] = answer
    if len(kept) > _MOST_ANSWERS:
        kept.popitem(last=False)
