"""A penalty on whole channels, as a table, a plot and words."""

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.errors import InputError
from kopt.core.records.changes.group_lasso import GroupLassoReport, PenalizedGroup
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.time_parts import BLUE

_MOST_GROUPS = 40


def _table(report: GroupLassoReport, rows: int | None = None) -> RenderableType:
    """Return one row a group; `rows` limits them."""
    columns = (
        Column[PenalizedGroup]("Layers", _name, is_number=False),
        Column[PenalizedGroup]("Units", lambda group: str(group.units)),
        Column[PenalizedGroup]("Weights\neach", lambda group: formats.count(group.weights_per_unit), 2),
        Column[PenalizedGroup]("Penalty", lambda group: formats.number(group.penalty), 1),
        Column[PenalizedGroup]("Small", lambda group: str(group.small)),
    )
    shown, caption = first_rows(report.groups, rows, "groups")
    return FittedTable(
        f"{report.model}: group lasso of {report.strength:g}",
        shown,
        columns,
        lambda group: "dim" if group.left else "",
        lambda group: group.left and f"no penalty: {group.left}",
        "Remark",
        caption=[*caption, _words(report)],
    )


def _name(group: PenalizedGroup) -> str:
    more = len(group.layers) - 1
    return f"{group.layers[0]} +{more}" if more else group.layers[0]


def _words(report: GroupLassoReport) -> str:
    groups = [group for group in report.groups if not group.left]
    units, small = sum(group.units for group in groups), sum(group.small for group in groups)
    scales = f", {formats.number(report.scale_penalty)} of it by scales" if report.scale_strength else ""
    return (
        f"{report.model}: a penalty of {formats.number(report.penalty)}{scales}; {small} of {units} units in "
        f"{len(groups)} groups are below a hundredth of the largest."
    )


def _figure(report: GroupLassoReport) -> Figure:
    shown = [group for group in report.groups if not group.left][:_MOST_GROUPS]
    if not shown:
        raise InputError(f"No group of {report.model} has a penalty: there is nothing to plot.")
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * len(shown)), layout="constrained")
    texts = [f"{group.small} of {group.units}" for group in shown]
    shares = [group.small / group.units for group in shown]
    draw_bars(figure.add_subplot(), [_name(group) for group in shown], shares, texts, [BLUE] * len(shown))
    figure.suptitle("Units below a hundredth of the largest", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


GROUP_LASSO = Look("group-lasso", _table, _figure, _words)
