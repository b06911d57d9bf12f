"""What changed from one run of the search to another: frozen, serialisable."""

import dataclasses

from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class RunDifference(Record):
    """A condition in which two runs differ.

    Attributes:
        what: e.g. `"model"` or `"tensorflow"`.
        a, b: of the first run and of the second.
        matters: why numbers cannot be held against each other without care; empty where they can.
    """

    what: str
    a: str
    b: str
    matters: str = ""


@dataclasses.dataclass(frozen=True)
class CandidateChange(Record):
    """One candidate in two runs; a number is `None` where it is not known.

    Attributes:
        name: of the candidate.
        status_a, status_b: `"best"`, `"inside"`, `"outside"`, `"failed"` or `"absent"`; of the model as given
            `"given"`.
        metric_a, metric_b: the guarded metric.
        latency_ms_a, latency_ms_b: median milliseconds a call.
        size_bytes_a, size_bytes_b: on disk.
        is_same_file: whether the two files are the same, bit for bit; `None` where one is absent.
    """

    name: str
    status_a: str
    status_b: str
    metric_a: float | None
    metric_b: float | None
    latency_ms_a: float | None
    latency_ms_b: float | None
    size_bytes_a: int | None
    size_bytes_b: int | None
    is_same_file: bool | None

    @property
    def metric_change(self) -> float | None:
        """Of `b` less that of `a`."""
        return None if self.metric_a is None or self.metric_b is None else self.metric_b - self.metric_a

    @property
    def latency_ratio(self) -> float | None:
        """Time of `b` over that of `a`."""
        return self.latency_ms_b / self.latency_ms_a if self.latency_ms_a and self.latency_ms_b else None

    @property
    def size_ratio(self) -> float | None:
        """Bytes of `b` over those of `a`."""
        return self.size_bytes_b / self.size_bytes_a if self.size_bytes_a and self.size_bytes_b else None


@dataclasses.dataclass(frozen=True)
class RunComparison(Record):
    """Two runs side by side.

    Attributes:
        a, b: where they lie.
        metric: that both guard.
        differences: in their conditions.
        baseline: the model as given.
        candidates: all that either of them tried, in the order of the second.
        best_a, best_b: names of the best; `None` if there was none.
    """

    a: str
    b: str
    metric: str
    differences: tuple[RunDifference, ...]
    baseline: CandidateChange
    candidates: tuple[CandidateChange, ...]
    best_a: str | None
    best_b: str | None
