"""A model before and after, as the files that ship: the table that reports of pruning have in common."""

import dataclasses
from collections.abc import Callable

from rich.console import RenderableType
from rich.text import Text

from kopt.core.records.changes.footprint import Footprint, Footprints
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable

_UNMEASURED = "Size and time are not measured: `kopt.prune.measured(report, before, after)` exports and times both."


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    value: Callable[[Footprint], float]
    text: Callable[[float], str]


_LINES = (
    _Line("Parameters", lambda one: one.parameters, lambda value: formats.count(int(value))),
    _Line("  not zero", lambda one: one.nonzero_parameters, lambda value: formats.count(int(value))),
    _Line("Multiply-accumulates", lambda one: one.macs, lambda value: formats.count(int(value))),
    _Line("File KiB", lambda one: one.size_bytes, lambda value: formats.kibibytes(int(value))),
    _Line("  after gzip", lambda one: one.gzip_bytes, lambda value: formats.kibibytes(int(value))),
    _Line("Milliseconds a call", lambda one: one.latency_ms, formats.number),
    _Line("  quickest", lambda one: one.least_ms, formats.number),
)


def footprints_table(pair: Footprints | None) -> RenderableType:
    """Return what was measured, before and after; a line that says how to measure if nothing was."""
    if pair is None:
        return Text(_UNMEASURED, style="dim")
    columns = (
        Column[_Line]("As the file that ships", lambda line: line.name, is_number=False),
        Column[_Line]("Before", lambda line: line.text(line.value(pair.before))),
        Column[_Line]("After", lambda line: line.text(line.value(pair.after))),
        Column[_Line]("Left", lambda line: _left(line.value(pair.before), line.value(pair.after))),
    )
    where = f".{pair.format} in float32, {pair.runtime}, {pair.threads} thread, one example, timed in turns"
    return FittedTable("", _LINES, columns, caption=[f"{where}; {pair.processor}."])


def _left(before: float, after: float) -> str:
    return formats.share(after / before) if before else formats.NOTHING
