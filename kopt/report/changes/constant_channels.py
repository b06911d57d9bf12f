"""Which constant channels went and which stayed, as a table, a plot and words."""

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.errors import InputError
from kopt.core.records.changes.constant_channels import ConstantChannels, ConstantChannelsReport
from kopt.report.changes.footprints import footprints_table
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.time_parts import BLUE

_MOST_GROUPS = 40


def _table(report: ConstantChannelsReport, rows: int | None = None) -> RenderableType:
    """Return the groups with constant channels; `rows` limits them."""
    columns = (
        Column[ConstantChannels]("Layers", _name, is_number=False),
        Column[ConstantChannels]("Before", lambda group: str(group.before)),
        Column[ConstantChannels]("Constant", lambda group: str(group.constant), 1),
        Column[ConstantChannels]("Removed", lambda group: str(group.removed)),
        Column[ConstantChannels]("Of these\nzero", lambda group: str(group.zeros), 2),
    )
    shown, caption = first_rows(report.groups, rows, "groups")
    caption += [f"Absorbed by: {', '.join(report.absorbed)}."] if report.absorbed else []
    groups = FittedTable(
        f"{report.model}: channels constant to {report.tolerance:g} over {report.examples} examples",
        shown,
        columns,
        remark=lambda group: "; ".join(group.skipped),
        remark_header="Kept because",
        caption=[*caption, _words(report)],
    )
    return Group(groups, Text(), footprints_table(report.measured))


def _name(group: ConstantChannels) -> str:
    more = len(group.layers) - 1
    return f"{group.layers[0]} +{more}" if more else group.layers[0]


def _words(report: ConstantChannelsReport) -> str:
    constant = sum(group.constant for group in report.groups)
    return (
        f"{report.model}: {report.removed} of {constant} constant channels removed, "
        f"{formats.count(report.macs_before)} to {formats.count(report.macs_after)} multiply-accumulates, "
        f"{formats.count(report.parameters_before)} to {formats.count(report.parameters_after)} parameters."
    )


def _figure(report: ConstantChannelsReport) -> Figure:
    shown = report.groups[:_MOST_GROUPS]
    if not shown:
        raise InputError(f"No channel of {report.model} is constant: there is nothing to plot.")
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * len(shown)), layout="constrained")
    texts = [f"{group.removed} of {group.constant} constant, of {group.before}" for group in shown]
    removed = [group.removed for group in shown]
    draw_bars(figure.add_subplot(), [_name(group) for group in shown], removed, texts, [BLUE] * len(shown))
    figure.suptitle("Constant channels removed", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


CONSTANT_CHANNELS = Look("constant-channels", _table, _figure, _words)
