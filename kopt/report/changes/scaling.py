"""A scaled model beside the one it came from."""

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.records.changes.restructuring import ScalingReport
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column, FittedTable

_BEFORE, _AFTER = "#8a8f98", "#0072b2"
_Row = tuple[str, int, int]


def _table(report: ScalingReport) -> RenderableType:
    """Return parameters and multiply-accumulates before and after."""
    columns = (
        Column[_Row]("", lambda row: row[0], is_number=False),
        Column[_Row]("Before", lambda row: f"{row[1]:,}"),
        Column[_Row]("After", lambda row: f"{row[2]:,}"),
        Column[_Row]("", lambda row: formats.times(row[2] / row[1]) if row[1] else ""),
    )
    return FittedTable(f"{report.model}: scale", _rows(report), columns, caption=[_words(report)])


def _rows(report: ScalingReport) -> list[_Row]:
    return [
        ("Parameters", report.parameters_before, report.parameters_after),
        ("Multiply-accumulates an example", report.macs_before, report.macs_after),
    ]


def _figure(report: ScalingReport) -> Figure:
    figure = Figure(figsize=(8.6, 1.4), layout="constrained")
    for axes, (title, before, after) in zip(figure.subplots(1, 2, sharey=True), _rows(report), strict=True):
        texts = [formats.count(before), formats.count(after)]
        draw_bars(axes, ["before", "after"], [before, after], texts, [_BEFORE, _AFTER])
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    return figure


def _words(report: ScalingReport) -> str:
    phi = "" if report.phi is None else f"phi {report.phi:g}: "
    return (
        f"{phi}width x {formats.number(report.width)}, depth x {formats.number(report.depth)}, resolution x "
        f"{formats.number(report.resolution)} ({report.pixels} pixels). Multiply-accumulates x "
        f"{formats.number(report.mac_ratio)}; convolutions alone, without rounding, x "
        f"{formats.number(report.expected_ratio)}."
    )


SCALING = Look("scaling", _table, _figure, _words)
