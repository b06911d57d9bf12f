"""Two runs as one table: what differs in their conditions, and what became of every candidate."""

from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.search.run_comparison import CandidateChange, RunComparison
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable

_STYLES = {"best": "bold green", "failed": "red", "absent": "dim", "outside": "dim"}


def comparison_table(found: RunComparison) -> RenderableType:
    """Return the differences of two runs, then every candidate in both.

    Example:
        >>> from rich.console import Console
        >>> found = kopt.report.compare_runs("run", "run")
        >>> Console(width=100).print(kopt.report.comparison_table(found))
        Same model, data, budget, machine and versions.
        ...
        Best: tflite-int8, 1.0x its time, 100% of its size, 0.00 points.
    """
    metric = found.metric
    columns = (
        Column[CandidateChange]("Candidate", lambda one: one.name, is_number=False),
        Column[CandidateChange]("Status", _status, 3, is_number=False),
        Column[CandidateChange](metric.capitalize(), lambda one: _pair(one.metric_a, one.metric_b, metric), 4),
        Column[CandidateChange]("Points" if formats.is_counted(metric) else "Change", lambda one: _points(one, metric)),
        Column[CandidateChange]("p50 ms", _times, 2),
        Column[CandidateChange]("Time", lambda one: formats.times(one.latency_ratio)),
        Column[CandidateChange]("KiB", _sizes, 5),
        Column[CandidateChange]("Size", lambda one: formats.share(one.size_ratio)),
        Column[CandidateChange]("File", _file, 1, is_number=False),
    )
    table = FittedTable(
        f"{found.a} -> {found.b}",
        (found.baseline, *found.candidates),
        columns,
        lambda one: _STYLES.get(one.status_b, ""),
        caption=["Change, time and size: of the second run against the first. File: = the same, bit for bit."],
    )
    return Group(*_conditions(found), table, Text(conclusion(found)))


def conclusion(found: RunComparison) -> str:
    """Return what became of the best, in a sentence."""
    if found.best_a is None and found.best_b is None:
        return "Neither run has a candidate inside its budget."
    if found.best_b is None:
        return f"The second run has no candidate inside its budget; the first had {found.best_a}."
    if found.best_a is None:
        return f"{found.best_b} is inside the budget now; the first run had no candidate that was."
    a, b = (next(one for one in found.candidates if one.name == name) for name in (found.best_a, found.best_b))
    times = b.latency_ms_b / a.latency_ms_a if a.latency_ms_a and b.latency_ms_b else None
    sizes = b.size_bytes_b / a.size_bytes_a if a.size_bytes_a and b.size_bytes_b else None
    change = None if a.metric_a is None or b.metric_b is None else b.metric_b - a.metric_a
    best = found.best_a if found.best_a == found.best_b else f"{found.best_b} in place of {found.best_a}"
    unit = formats.change_unit(found.metric)
    return (
        f"Best: {best}, {formats.times(times)} its time, {formats.share(sizes)} of its size, "
        f"{_signed(formats.metric_change(change, found.metric))} {unit}."
    )


def _conditions(found: RunComparison) -> list[RenderableType]:
    if not found.differences:
        return [Text("Same model, data, budget, machine and versions.\n")]
    lines = []
    for one in found.differences:
        text = f"{one.what}: {one.a} -> {one.b}"
        lines.append(Text(f"{text}; {one.matters}" if one.matters else text))
    return [*lines, Text()]


def _status(one: CandidateChange) -> str:
    return one.status_b if one.status_a == one.status_b else f"{one.status_a} -> {one.status_b}"


def _pair(a: float | None, b: float | None, metric: str) -> str:
    before, after = formats.metric_value(a, metric), formats.metric_value(b, metric)
    return after if before == after else f"{before} -> {after}"


def _points(one: CandidateChange, metric: str) -> str:
    return _signed(formats.metric_change(one.metric_change, metric))


def _signed(text: str) -> str:
    return text if text[0] == "-" or not any(mark in text for mark in "123456789") else f"+{text}"


def _times(one: CandidateChange) -> str:
    return f"{formats.number(one.latency_ms_a)} -> {formats.number(one.latency_ms_b)}"


def _sizes(one: CandidateChange) -> str:
    before, after = formats.kibibytes(one.size_bytes_a), formats.kibibytes(one.size_bytes_b)
    return after if before == after else f"{before} -> {after}"


def _file(one: CandidateChange) -> str:
    return {None: "", True: "=", False: "changed"}[one.is_same_file]
