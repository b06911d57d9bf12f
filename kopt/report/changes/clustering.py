"""What sharing weights did, as a table and a plot."""

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.clustering import ClusteredVariable, WeightClustering
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import shares_figure
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.row_choice import first_rows


def _table(report: WeightClustering, rows: int | None = 20) -> RenderableType:
    shown, hidden = first_rows(report.variables, rows, "variables")
    columns = (
        Column[ClusteredVariable]("Variable", lambda one: one.path, is_number=False),
        Column[ClusteredVariable]("Type", lambda one: one.layer_type, 4, is_number=False),
        Column[ClusteredVariable]("Weights", lambda one: formats.count(one.weights), 2),
        Column[ClusteredVariable]("Values", lambda one: formats.count(one.distinct)),
        Column[ClusteredVariable]("Zero", lambda one: formats.share(one.sparsity), 3),
        Column[ClusteredVariable]("Error", lambda one: "-" if one.error is None else formats.share(one.error), 1),
        Column[ClusteredVariable]("gzip", lambda one: formats.size(one.gzip_after)),
    )
    caption = [report.method, _words(report), *hidden, *report.notes]
    table = PathTable(f"{report.model}: shared weights", shown, columns, caption=caption)
    return Group(
        table, *[Text(f"Left as it is: {one.layer} ({one.type}): {one.detail}") for one in report.skipped[:rows]]
    )


def _figure(report: WeightClustering) -> Figure:
    names = [one.path for one in report.variables]
    compressed = [one.gzip_after / (4 * one.weights) for one in report.variables]
    return shares_figure("Compressed size over that of float32", names, compressed)


def _words(report: WeightClustering) -> str:
    before = report.gzip_before
    size = f"{formats.size(report.gzip_after)} compressed"
    size = size if before is None else f"{size}, {formats.size(before)} before"
    left = f"; {len(report.skipped)} kernels stay as they are" if report.skipped else ""
    return f"{formats.count(report.weights)} weights in {len(report.variables)} kernels: {size}{left}."


CLUSTERING = Look("weight-clustering", _table, _figure, _words)
