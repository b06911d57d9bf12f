"""What tables and plots of times have in common: orders, rows that are left out, stacked bars."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.report.parts import formats
from kopt.report.parts.row_choice import more_rows
from kopt.report.parts.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
BLUE, VERMILION, GREEN, ORANGE, GREY = "#56b4e9", "#d55e00", "#009e73", "#e69f00", "#8a8f98"
PHASE_COLORS = {"forward": BLUE, "backward": VERMILION, "update": GREEN, "other": ORANGE}
MOST_BARS = 15
_NAME_LENGTH = 46


def left_out(count: int, what: str, share: float) -> str:
    """Return the sentence about rows that are not shown; empty if there are none."""
    return "".join(more_rows(count, f"{what} with {formats.share(max(share, 0.0))} of the time"))


def with_notes(table: RenderableType, notes: Sequence[str]) -> RenderableType:
    """Return the table with notes below it."""
    return Group(table, *(Text(f"- {note}") for note in notes)) if notes else table


def bars_figure(
    bars: Sequence[tuple[str, Sequence[tuple[float, str]]]], title: str, label: str, legend: Sequence[tuple[str, str]]
) -> Figure:
    """Draw horizontal bars of one or more colored parts, one below the other."""
    figure = Figure(figsize=(8.6, 1.4 + 0.3 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    longest = max(sum(length for length, _ in parts) for _, parts in bars) or 1.0
    for row, (_, parts) in enumerate(bars):
        begin = 0.0
        for length, color in parts:
            axes.barh(row, length, left=begin, color=color, height=0.66)
            begin += length
        axes.annotate(ms(begin), (begin, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    for name, color in legend:
        axes.barh(0, 0, color=color, label=name)
    axes.set_yticks(range(len(bars)), [short(name) for name, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.12)
    axes.set_xlabel(label)
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.15, color=INK)
    # Over the whole width, because the names may take half of it.
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    if legend:
        figure.legend(loc="outside lower right", ncols=len(legend))
    return figure


def ms(value: float | None) -> str:
    """Return ms to a microsecond: what is below is not told apart from nothing."""
    if value is None:
        return formats.NOTHING
    return f"{value:.3f}" if value < 10 else formats.number(value, 4)


def short(name: str) -> str:
    """Return the end of a long path, which tells more than its beginning."""
    return name if len(name) <= _NAME_LENGTH else f"…{name[-_NAME_LENGTH + 1 :]}"
