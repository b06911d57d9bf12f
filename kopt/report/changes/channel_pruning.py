"""What pruning of channels did, as a table, a plot and words."""

from collections.abc import Callable

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.errors import InputError
from kopt.core.records.changes.channel_pruning import ChannelPruningReport, LatencyProbe, PrunedGroup
from kopt.core.settings import whole
from kopt.report.changes.footprints import footprints_table
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.row_choice import first_rows

_MOST_GROUPS = 40
# What one channel saves: heading and text.
_SAVINGS: dict[str, tuple[str, Callable[[float], str]]] = {
    "macs": ("MACs each", lambda saved: formats.count(round(saved))),
    "params": ("Params each", lambda saved: formats.count(round(saved))),
    "latency": ("µs each", lambda saved: formats.number(1000 * saved)),
}
_LEFT, _GONE = "#0072b2", "#bbbbbb"


def _table(report: ChannelPruningReport, rows: int | None = None) -> RenderableType:
    """Return the widths before and after, a row a group, with what stayed and why; `rows` limits them."""
    if rows is not None:
        whole("rows", rows)
    columns = (
        Column[PrunedGroup]("Layers", _name, is_number=False),
        Column[PrunedGroup]("Kind", lambda group: group.kind, 3, is_number=False),
        Column[PrunedGroup]("Before", lambda group: str(group.before)),
        Column[PrunedGroup]("After", lambda group: str(group.after)),
        Column[PrunedGroup]("Kept", lambda group: formats.share(group.after / group.before), 2),
        Column[PrunedGroup]("Multiple of", lambda group: str(group.divisor), 4),
        *([_savings(report.per)] if report.per else []),
    )
    shown, hidden = first_rows(report.groups, rows, "groups")
    per = f" per {report.per}" if report.per else ""
    widths = FittedTable(
        f"{report.model}: {report.goal}, {report.criterion}{per}, {report.scope}",
        shown,
        columns,
        lambda group: "dim" if group.frozen else "",
        lambda group: f"stays: {group.frozen}" if group.frozen else group.remark,
        "Remark",
        caption=[*hidden, _words(report), *report.notes],
    )
    probes = [Text(), _probes(report)] if report.probes else []
    return Group(widths, *probes, Text(), footprints_table(report.measured))


def _probes(report: ChannelPruningReport) -> RenderableType:
    columns = (
        Column[LatencyProbe](
            "Tried",
            lambda probe: f"{'>' if probe.macs == report.macs_after else ' '} {formats.count(probe.macs)} MACs",
            is_number=False,
        ),
        Column[LatencyProbe]("Parameters", lambda probe: formats.count(probe.parameters), 1),
        Column[LatencyProbe]("ms", lambda probe: formats.number(probe.latency_ms)),
        Column[LatencyProbe]("Before, same turns", lambda probe: formats.number(probe.reference_ms)),
        Column[LatencyProbe]("Share", lambda probe: f"{probe.share:.3f}"),
    )
    return FittedTable("", report.probes, columns)


def _savings(per: str) -> Column[PrunedGroup]:
    header, text = _SAVINGS[per]
    return Column(header, lambda group: formats.NOTHING if group.saving is None else text(group.saving), 5)


def _name(group: PrunedGroup) -> str:
    more = len(group.layers) - 1
    return f"{group.layers[0]} +{more}" if more else group.layers[0]


def _words(report: ChannelPruningReport) -> str:
    frozen = f" {len(report.frozen)} of {len(report.groups)} groups stay." if report.frozen else ""
    return (
        f"{report.model}: {formats.count(report.macs_before)} to {formats.count(report.macs_after)} "
        f"multiply-accumulates ({formats.share(report.macs_kept)} kept), "
        f"{formats.count(report.parameters_before)} to {formats.count(report.parameters_after)} parameters "
        f"({formats.share(report.parameters_kept)} kept).{frozen}"
    )


def _figure(report: ChannelPruningReport) -> Figure:
    shown = [group for group in report.groups if not group.frozen][:_MOST_GROUPS]
    if not shown:
        raise InputError(f"All channels of {report.model} stay: there is nothing to plot.")
    figure = Figure(figsize=(8.6, 0.9 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    names = [_name(group) for group in shown]
    axes.barh(range(len(shown)), [group.before for group in shown], color=_GONE, height=0.68)
    texts = [f"{group.after} of {group.before}" for group in shown]
    draw_bars(axes, names, [group.after for group in shown], texts, [_LEFT] * len(shown))
    axes.set_xlim(0, max(group.before for group in shown) * 1.15)
    axes.set_title("Channels left (blue) of those before (gray)", loc="left", fontsize=10, fontweight="bold")
    return figure


CHANNEL_PRUNING = Look("channel-pruning", _table, _figure, _words)
