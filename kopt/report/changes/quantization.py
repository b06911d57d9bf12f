"""What quantization-aware training rounds, as a table and a plot."""

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.aware_training import KeptWeights, Quantization, QuantizedKernel
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.time_parts import BLUE


def _table(report: Quantization, rows: int | None = 20) -> RenderableType:
    shown, hidden = first_rows(report.kernels, rows, "kernels")
    columns = (
        Column[QuantizedKernel]("Kernel of", lambda one: one.layer, is_number=False),
        Column[QuantizedKernel]("Type", lambda one: one.type, 2, is_number=False),
        Column[QuantizedKernel]("Bits", lambda one: str(one.bits)),
        Column[QuantizedKernel]("Folded", lambda one: one.folded, 1, is_number=False),
        Column[QuantizedKernel]("Kept", _kept, 3, is_number=False),
    )
    caption = [*hidden, _words(report)]
    table = PathTable(f"{report.model}: {report.scheme}", shown, columns, caption=caption)
    left = (f"In float: {one.layer} ({one.type}): {one.detail}" for one in report.left[:rows])
    kept = (f"Kept, not rounded: {one.layer}, {one.variable}: {_kept(one)}" for one in report.kept[:rows])
    return Group(table, *map(Text, (*left, *kept)))


def _kept(one: QuantizedKernel | KeptWeights) -> str:
    if one.values:
        return f"{one.values} values"
    return f"{formats.share(one.zeros)} zeros" if one.zeros else ""


def _figure(report: Quantization) -> Figure:
    figure = Figure(figsize=(8.6, 2.2), layout="constrained")
    values = [len(report.kernels), len(report.ranges), len(report.left)]
    names = ["kernels on a grid", "ranges of activations", "layers in float"]
    draw_bars(figure.add_subplot(), names, values, [str(value) for value in values], [BLUE] * 3)
    figure.suptitle("Rounded in training", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _words(report: Quantization) -> str:
    left = f"{len(report.left)} layer(s) compute in float." if report.left else "No layer computes in float."
    return f"{len(report.kernels)} kernels and {len(report.ranges)} ranges are rounded as {report.scheme}. {left}"


QUANTIZATION = Look("quantization", _table, _figure, _words)
