"""What a search looked at before it made files, and what it left out, as a table and lines."""

from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.candidates import OptimizationResult
from kopt.core.records.search.decisions import Decision
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable


def decisions_table(result: OptimizationResult) -> RenderableType:
    """Return the models that were looked at, in order, then what was not tried and why the search ended.

    Example:
        >>> from rich.console import Console
        >>> Console(width=100).print(kopt.report.decisions_table(result))
        <BLANKLINE>
        Everything that was proposed was tried.
    """
    metric = result.budget.metric
    columns = (
        Column[Decision]("Looked at", lambda one: f"{'>' if one.kept else ' '} {one.name}", is_number=False),
        Column[Decision](metric.capitalize(), lambda one: formats.metric_value(one.metric, metric), 1),
        Column[Decision]("Drop", lambda one: formats.metric_change(one.drop, metric)),
        Column[Decision]("Seconds", lambda one: formats.number(one.seconds, 2), 2),
    )
    table = FittedTable(
        "Models on the way, judged in Keras; > went on",
        result.decisions,
        columns,
        lambda one: "" if one.kept else "dim",
        lambda one: one.reason.splitlines()[0] if one.reason else "",
        "Why",
    )
    lines = [*result.notes, *([result.ended] if result.ended else [])]
    looked: list[RenderableType] = [Text(), table] if result.decisions else []
    return Group(*looked, Text(), *(Text(line) for line in lines))
