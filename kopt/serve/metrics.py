"""Counts, sizes and times of a server as Prometheus reads them.

Source: "Exposition formats", text format 0.0.4, of the Prometheus documentation.
"""

import bisect
import threading
from collections.abc import Callable, Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_EXAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_HELP = {
    "kopt_requests_total": ("counter", "Answers by method and HTTP status."),
    "kopt_loads_total": ("counter", "Versions that were loaded, or refused."),
    "kopt_request_seconds": ("histogram", "Seconds from a request to its answer, by method."),
    "kopt_batch_examples": ("histogram", "Examples in a call of the runtime."),
    "kopt_batch_seconds": ("histogram", "Seconds that a call of the runtime took."),
    "kopt_examples_total": ("counter", "Examples answered, by version."),
    "kopt_predictions_total": ("counter", "Examples by predicted class and version."),
    "kopt_prediction_confidence": ("histogram", "Probability of the predicted class, by version."),
    "kopt_input_value": ("summary", "Finite numbers of an input: their sum and how many."),
    "kopt_input_square": ("summary", "Squares of the finite numbers of an input: their sum and how many."),
    "kopt_input_nonfinite_total": ("counter", "NaN and infinite numbers by input."),
    "kopt_labels_total": ("counter", "Requests that labels came for, by what became of them."),
    "kopt_shadow_total": ("counter", "Copies for the shadow, by what became of them."),
    "kopt_shadow_examples_total": (
        "counter",
        "Examples that the shadow answered too, by whether the class is the same.",
    ),
    "kopt_monitor_lost_total": ("counter", "Requests that the monitor had no time for."),
}
_BOUNDS: dict[str, tuple[float, ...]] = {
    "kopt_request_seconds": _SECONDS,
    "kopt_batch_examples": _EXAMPLES,
    "kopt_batch_seconds": _SECONDS,
    "kopt_prediction_confidence": _SHARES,
}
Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, bounds: Iterable[float]):
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """The numbers of one server; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, Labels], int] = {}
        self._histograms: dict[tuple[str, Labels], _Histogram] = {}
        self._summaries: dict[tuple[str, Labels], tuple[float, int]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float | Mapping[Labels, float]]]] = {}

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + amount

    def summarize(self, name: str, total: float, count: int, **labels: str) -> None:
        """Add the sum of so many values to a summary."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            before = self._summaries.get(key, (0.0, 0))
            self._summaries[key] = (before[0] + total, before[1] + count)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._histograms.setdefault(key, _Histogram(_BOUNDS[name])).observe(value)

    def observe_batch(self, examples: int, seconds: float) -> None:
        """Note one call of a runtime."""
        self.observe("kopt_batch_examples", examples)
        self.observe("kopt_batch_seconds", seconds)

    def gauge(self, name: str, explanation: str, read: Callable[[], float | Mapping[Labels, float]]) -> None:
        """Let `read` give the value of a gauge, or its values by labels, whenever it is asked for."""
        self._gauges[name] = (explanation, read)

    def text(self) -> str:
        """Return all numbers in Prometheus' text format."""
        lines: list[str] = []
        with self._lock:
            for name, (kind, explanation) in _HELP.items():
                lines += [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
                for (found, labels), number in sorted(self._counters.items()):
                    lines += [f"{name}{_labels(labels)} {number}"] if found == name else []
                for (found, labels), histogram in sorted(self._histograms.items(), key=lambda item: item[0]):
                    lines += _histogram_lines(name, labels, histogram) if found == name else []
                for (found, labels), (total, number) in sorted(self._summaries.items()):
                    if found == name:
                        lines += [f"{name}_sum{_labels(labels)} {total:.9g}", f"{name}_count{_labels(labels)} {number}"]
        for name, (explanation, read) in self._gauges.items():
            lines += [f"# HELP {name} {explanation}", f"# TYPE {name} gauge"]
            values = read()
            named = values if isinstance(values, Mapping) else {(): values}
            lines += [f"{name}{_labels(labels)} {value:g}" for labels, value in named.items()]
        return "\n".join(lines) + "\n"


def _histogram_lines(name: str, labels: Labels, histogram: _Histogram) -> list[str]:
    lines, below = [], 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        below += count
        lines.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {below}")
    return [*lines, f"{name}_sum{_labels(labels)} {histogram.total:.9g}", f"{name}_count{_labels(labels)} {below}"]


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
