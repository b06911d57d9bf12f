"""One comparable row a candidate: what the tables, the plots and the page all show."""

import dataclasses
import math
from collections.abc import Sequence

from kopt.core.records.candidates import Candidate, OptimizationResult
from kopt.core.records.measurements import Energy, Evaluation, Latency
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.quantities import joint, smallest_batch
from kopt.report.parts.formats import is_counted
from kopt.report.parts.statistics import Interval, paired_interval, unpaired_interval, wilson_interval

# A drop smaller than this is what is left of subtracting equal fractions.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Row:
    """A candidate with its numbers set against the baseline.

    Attributes:
        runtime, format: what it ran in, and what kind of file it is.
        metric: the guarded metric; `interval` its interval, where there is one.
        drop_interval: interval of the drop; `None` where there is none.
        size_bytes: of the file; of a baseline that has none, of its weights in float32.
        speedup: baseline latency over its own; `None` unless both ran at the same batch size.
        size_ratio: its size over the baseline's.
    """

    candidate: Candidate
    is_baseline: bool
    is_best: bool
    runtime: str
    format: str
    metric: float | None
    examples: int | None
    interval: Interval | None
    drop: float | None
    drop_interval: Interval | None
    latency: Latency | None
    speedup: float | None
    size_bytes: int | None
    size_ratio: float | None
    agreement: float | None

    @property
    def name(self) -> str:
        """Name of the candidate."""
        return self.candidate.name

    @property
    def failed(self) -> bool:
        """Whether it could not be made or measured."""
        return self.candidate.status != "ok"

    @property
    def latency_ms(self) -> float | None:
        """Median milliseconds a call."""
        return self.latency.p50_ms if self.latency else None

    @property
    def energy(self) -> Energy | None:
        """Energy of one example."""
        return self.candidate.measurement.energy if self.candidate.measurement else None

    @property
    def within_noise(self) -> bool:
        """Whether so small a drop (or gain) is to be expected from the choice of examples alone."""
        if self.drop is None or self.drop_interval is None or abs(self.drop) < _ROUNDING:
            return False
        return self.drop_interval[0] <= 0 <= self.drop_interval[1]

    @property
    def why(self) -> str:
        """Why it won, lost or failed."""
        if self.failed:
            return f"failed: {self.reason_lines[0]}"
        return self.candidate.verdict

    @property
    def doubt(self) -> str:
        """What so many examples cannot tell about it, in a line with its name; empty if nothing is open."""
        return f"{self.name}: {self.candidate.doubt}" if self.candidate.doubt else ""

    @property
    def reason_lines(self) -> list[str]:
        """Why it failed: the reason, then what the converter printed, if anything."""
        lines = [line for line in self.candidate.reason.splitlines() if line.strip()]
        return lines or [self.candidate.verdict or "no reason was recorded"]

    @property
    def drawable(self) -> bool:
        """Whether it has what a point in the plot needs."""
        size_bytes = 0 if self.is_baseline else self.size_bytes
        numbers = (self.metric, self.latency_ms, size_bytes)
        return not self.failed and all(value is not None and math.isfinite(value) for value in numbers)


def baseline_row(result: OptimizationResult) -> Row:
    """Return the row of the model as it was given."""
    return _row(result, result.baseline)


def candidate_rows(result: OptimizationResult) -> tuple[Row, ...]:
    """Return the candidates: inside the budget by objective, then outside it, then failed."""
    rows = [_row(result, candidate) for candidate in result.candidates]
    return tuple(sorted(rows, key=lambda row: _rank(row, result.budget)))


def open_questions(rows: Sequence[Row]) -> list[str]:
    """Return what so many examples cannot tell, a line a candidate after a heading; nothing if nothing is open."""
    found = [row.doubt for row in rows if row.doubt]
    return ["Undecided, whether the drop is inside the budget:", *found] if found else []


def size_reference(result: OptimizationResult) -> tuple[int | None, str]:
    """Return the bytes that sizes are compared with, and what they are the size of.

    A baseline that never was a file counts as its weights in float32: what is saved beside them, such as the state
    of an optimizer, would flatter every export.
    """
    if result.baseline.artifact:
        return result.baseline.artifact.size_bytes, "its file"
    if result.reference_bytes is not None:
        return result.reference_bytes, "its float32 weights" if result.profile else "its file"
    if result.profile:
        return 4 * result.profile.parameters, "its float32 weights"
    return None, ""


def _rank(row: Row, budget: Budget) -> tuple[bool, bool, bool, float]:
    return row.failed, not row.is_best, not row.candidate.within_budget, joint(row.candidate, budget)


def _row(result: OptimizationResult, candidate: Candidate) -> Row:
    metric = _metric(candidate.evaluation, result.budget.metric)
    latency = smallest_batch(candidate.measurement)
    reference_latency = smallest_batch(result.baseline.measurement)
    reference_bytes, _ = size_reference(result)
    size_bytes = _size_bytes(result, candidate)
    artifact = candidate.artifact
    return Row(
        candidate=candidate,
        is_baseline=candidate is result.baseline,
        is_best=candidate.name == result.best_name and candidate is not result.baseline,
        runtime=_runtime(candidate),
        format=artifact.format if artifact else ("keras" if candidate is result.baseline else candidate.config.format),
        metric=metric,
        examples=candidate.evaluation.examples if candidate.evaluation else None,
        interval=_interval(candidate, metric, result.budget.metric),
        drop=candidate.drop,
        drop_interval=_drop_interval(result, candidate),
        latency=latency,
        speedup=_speedup(reference_latency, latency),
        size_bytes=size_bytes,
        size_ratio=size_bytes / reference_bytes if size_bytes is not None and reference_bytes else None,
        agreement=artifact.parity.argmax_agreement if artifact and artifact.parity else None,
    )


def _size_bytes(result: OptimizationResult, candidate: Candidate) -> int | None:
    if candidate.artifact:
        return candidate.artifact.size_bytes
    return size_reference(result)[0] if candidate is result.baseline else None


def _runtime(candidate: Candidate) -> str:
    source = candidate.measurement or candidate.evaluation
    return source.runtime if source else ""


def _metric(evaluation: Evaluation | None, metric: str) -> float | None:
    return evaluation.metrics.get(metric) if evaluation else None


def _is_fraction(value: float | None, metric: str) -> bool:
    return is_counted(metric) and value is not None and 0.0 <= value <= 1.0


def _interval(candidate: Candidate, value: float | None, metric: str) -> Interval | None:
    if candidate.judgement is not None:
        return candidate.judgement.after_interval
    evaluation = candidate.evaluation
    if evaluation is None or value is None or evaluation.examples < 1 or not _is_fraction(value, metric):
        return None
    return wilson_interval(value, evaluation.examples)


def _drop_interval(result: OptimizationResult, candidate: Candidate) -> Interval | None:
    if candidate.judgement is not None:
        return candidate.judgement.interval
    metric, before, after = result.budget.metric, result.baseline.evaluation, candidate.evaluation
    if candidate is result.baseline or before is None or after is None or min(before.examples, after.examples) < 1:
        return None
    a, b = _metric(before, metric), _metric(after, metric)
    if a is None or b is None or not (_is_fraction(a, metric) and _is_fraction(b, metric)):
        return None
    unpaired = unpaired_interval(a, before.examples, b, after.examples)
    parity = candidate.artifact.parity if candidate.artifact else None
    if parity is None or parity.argmax_agreement is None or parity.examples < 1 or before.examples != after.examples:
        return unpaired
    # The agreement comes from other, fewer examples than the scores; its lowest plausible value is used.
    agreement, _ = wilson_interval(parity.argmax_agreement, parity.examples)
    paired = paired_interval(a - b, 1.0 - agreement, after.examples)
    return min(unpaired, paired, key=lambda interval: interval[1] - interval[0])


def _speedup(reference: Latency | None, latency: Latency | None) -> float | None:
    if reference is None or latency is None or reference.batch_size != latency.batch_size or not latency.p50_ms > 0:
        return None
    return reference.p50_ms / latency.p50_ms
