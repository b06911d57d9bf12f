"""Pruning in rounds, as a table, a plot and words."""

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.iterative_pruning import IterativePruningReport, PruningRound
from kopt.core.settings import whole
from kopt.report.changes.footprints import footprints_table
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.time_parts import BLUE, GREY


def _table(report: IterativePruningReport, rows: int | None = None) -> RenderableType:
    """Return one row a round, the last `rows` of them."""
    shown = report.rounds if rows is None else report.rounds[-whole("rows", rows) :]

    def value(number: float | None) -> str:
        return formats.metric_value(number, report.metric)

    columns = [
        Column[PruningRound]("Round", lambda one: str(one.number), is_number=False),
        Column[PruningRound]("MACs", lambda one: formats.count(one.macs)),
        Column[PruningRound]("Kept", lambda one: formats.share(one.macs / report.macs_before), 2),
        Column[PruningRound]("Parameters", lambda one: formats.count(one.parameters), 3),
        Column[PruningRound](f"{report.metric}\npruned", lambda one: value(one.pruned), 1),
        Column[PruningRound](f"{report.metric}\nrecovered", lambda one: value(one.recovered)),
    ]
    if report.metric_before is None:
        del columns[-2:]
    caption = [f"{report.resumed} of the rounds were found finished."] if report.resumed else []
    title = f"{report.model}: {report.goal}"
    rounds = FittedTable(title, shown, columns, remark=lambda one: one.note, caption=[*caption, _words(report)])
    return Group(rounds, Text(), footprints_table(report.measured))


def _words(report: IterativePruningReport) -> str:
    last = report.rounds[-1]
    before, after = (formats.metric_value(value, report.metric) for value in (report.metric_before, last.recovered))
    judged = f" {report.metric} from {before} to {after}." if report.metric_before is not None else ""
    return (
        f"{report.model}: {formats.count(report.macs_before)} to {formats.count(last.macs)} multiply-accumulates and "
        f"{formats.count(report.parameters_before)} to {formats.count(last.parameters)} parameters in "
        f"{len(report.rounds)} rounds.{judged}"
    )


def _figure(report: IterativePruningReport) -> Figure:
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    axes = figure.subplots()
    kept = [1.0, *(one.macs / report.macs_before for one in report.rounds)]
    if report.metric_before is None:
        axes.plot(range(len(kept)), kept, color=BLUE, marker="o")
        axes.set_xlabel("round")
        axes.set_ylabel("multiply-accumulates kept")
        axes.set_xticks(range(len(kept)))
        return figure
    pruned = [one.pruned for one in report.rounds if one.pruned is not None]
    recovered = [one.recovered for one in report.rounds if one.recovered is not None]
    axes.plot(kept[1:], pruned, color=GREY, marker="o", label="after pruning")
    axes.plot(kept, [report.metric_before, *recovered], color=BLUE, marker="o", label="after training")
    axes.invert_xaxis()
    axes.set_xlabel("multiply-accumulates kept")
    axes.set_ylabel(report.metric)
    axes.legend(frameon=False)
    return figure


ITERATIVE_PRUNING = Look("iterative-pruning", _table, _figure, _words)
