"""How a pruned model came back, as a table, a plot and words."""

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.records.changes.recovery import RecoveryReport, RecoveryStage
from kopt.core.settings import whole
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.time_parts import BLUE, GREY


def _table(report: RecoveryReport, rows: int | None = None) -> RenderableType:
    """Return the stages, the last `rows` of them."""
    learned = f"Learned from {report.teacher}. " if report.teacher else ""
    caption = [f"{learned}Judged on the {report.judged_on} data.", _words(report)]
    return stages_table(report, f"{report.model}: recovery", rows, caption)


def stages_table(report: RecoveryReport, title: str, rows: int | None, caption: list[str]) -> RenderableType:
    """Return the stages of a training, the last `rows` of them."""
    shown = report.stages if rows is None else report.stages[-whole("rows", rows) :]
    columns = [
        Column[RecoveryStage]("Stage", lambda stage: stage.name, is_number=False),
        Column[RecoveryStage]("Loss", lambda stage: formats.number(stage.loss), 1),
        Column[RecoveryStage](report.metric, lambda stage: formats.metric_value(stage.metric, report.metric)),
        Column[RecoveryStage]("", lambda stage: "best" if stage.name == report.best else "", is_number=False),
    ]
    if report.metric == "loss":
        columns.pop(2)
    return FittedTable(title, shown, columns, caption=caption)


def _words(report: RecoveryReport) -> str:
    before, after = (formats.metric_value(value, report.metric) for value in (report.before, report.after))
    return f"{report.model}: {report.metric} from {before} to {after} ({report.best})."


def stages_figure(report: RecoveryReport) -> Figure:
    """Return a bar a stage, the best one in blue."""
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * len(report.stages)), layout="constrained")
    values = [report.value(stage) for stage in report.stages]
    texts = [formats.metric_value(value, report.metric) for value in values]
    colors = [BLUE if stage.name == report.best else GREY for stage in report.stages]
    draw_bars(figure.add_subplot(), [stage.name for stage in report.stages], values, texts, colors)
    figure.suptitle(f"{report.metric} by stage", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


RECOVERY = Look("recovery", _table, stages_figure, _words)
