"""The standard deviation of every layer's output before and after new initial values: a table and a plot."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from rich.console import RenderableType

from kopt.core.records.changes.restructuring import LayerVariance, ReinitializationReport
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.svg import INK

_MOST_LEFT = 10
_BEFORE, _AFTER = "#8a8f98", "#0072b2"


def _table(report: ReinitializationReport, rows: int | None = None) -> RenderableType:
    """Return the layers with the standard deviations of weights and outputs; `rows` limits them."""
    columns = (
        Column[LayerVariance]("Layer", lambda layer: layer.name, is_number=False),
        Column[LayerVariance]("Type", lambda layer: layer.type, 3, is_number=False),
        Column[LayerVariance]("Drawn", lambda layer: layer.rule, 2, is_number=False),
        Column[LayerVariance]("Weights std", lambda layer: _change(layer.weight_std_before, layer.weight_std_after), 1),
        Column[LayerVariance]("Output std", lambda layer: _change(layer.output_std_before, layer.output_std_after)),
    )
    shown, hidden = first_rows(report.layers, rows, "layers")
    caption = [*hidden, _words(report)]
    caption += [f"  left: {action.layer} ({action.type}): {action.detail}" for action in report.left[:_MOST_LEFT]]
    if len(report.left) > _MOST_LEFT:
        caption.append(f"  and {len(report.left) - _MOST_LEFT} more, see `report.left`.")
    return PathTable(f"{report.model}: {report.initializer}", shown, columns, caption=caption)


def _figure(report: ReinitializationReport) -> Figure:
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    places = range(1, len(report.layers) + 1)
    for label, color, values in (
        ("before", _BEFORE, [layer.output_std_before for layer in report.layers]),
        ("after", _AFTER, [layer.output_std_after for layer in report.layers]),
    ):
        drawn = [(place, value) for place, value in zip(places, values, strict=True) if value > 0]
        axes.plot([place for place, _ in drawn], [value for _, value in drawn], "o-", color=color, ms=4, label=label)
    axes.set_yscale("log")
    # The default formatter writes mathematical notation, which `drawing` leaves unread.
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    axes.set_xlabel("Layer, in the order of the model")
    axes.set_ylabel("Standard deviation of the output")
    axes.set_title(f"{report.model}: {report.initializer}", loc="left", fontsize=10, fontweight="bold")
    axes.grid(alpha=0.15, color=INK)
    axes.legend(loc="best")
    return figure


def _words(report: ReinitializationReport) -> str:
    what = "noise" if report.data == "noise" else "data"
    left = f" {len(report.left)} layer(s) with weights left as they were." if report.left else ""
    return (
        f"{len(report.layers)} layer(s) of {report.model} drawn anew by {report.initializer}. Largest over smallest "
        f"standard deviation of an output, on {report.examples} examples of {what}: "
        f"{formats.number(report.spread_before)} before, {formats.number(report.spread_after)} after.{left}"
    )


def _change(before: float, after: float) -> str:
    return f"{formats.number(before)} -> {formats.number(after)}"


VARIANCES = Look("variances", _table, _figure, _words)
