"""What magnitude pruning did, as a table and a plot."""

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.magnitude_pruning import MagnitudePruning, PrunedVariable
from kopt.report.changes.footprints import footprints_table
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import shares_figure
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.row_choice import first_rows


def _table(report: MagnitudePruning, rows: int | None = 20) -> RenderableType:
    shown, hidden = first_rows(report.variables, rows, "variables")
    columns = (
        Column[PrunedVariable]("Variable", lambda one: one.path, is_number=False),
        Column[PrunedVariable]("Type", lambda one: one.layer_type, 3, is_number=False),
        Column[PrunedVariable]("Weights", lambda one: formats.count(one.weights), 1),
        Column[PrunedVariable]("Zero", lambda one: formats.share(one.sparsity)),
        Column[PrunedVariable]("Target", lambda one: formats.share(one.target), 2),
    )
    caption = [report.schedule, _words(report), *hidden, *report.notes]
    title = f"{report.model}: zero weights, {report.pattern.granularity}, {report.pattern.scope}"
    table = PathTable(title, shown, columns, caption=caption)
    dense = [Text(f"Left dense: {one.layer} ({one.type}): {one.detail}") for one in report.skipped[:rows]]
    slow = [Text(f"Not sparse in XNNPACK: {one.layer} ({one.type}): {one.detail}") for one in report.obstacles[:rows]]
    return Group(table, *dense, *slow, Text(), footprints_table(report.measured))


def _figure(report: MagnitudePruning) -> Figure:
    names = [one.path for one in report.variables]
    return shares_figure("Zero weights", names, [one.sparsity for one in report.variables])


def _words(report: MagnitudePruning) -> str:
    dense = f"; {len(report.skipped)} kernels stay dense" if report.skipped else ""
    return (
        f"{formats.share(report.sparsity)} of {formats.count(report.weights)} weights in {len(report.variables)} "
        f"kernels are zero ({report.pattern.granularity}){dense}."
    )


MAGNITUDE = Look("magnitude-pruning", _table, _figure, _words)
