"""How a student learned, as a table, a plot and words."""

import dataclasses
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.distillation import TeachingReport
from kopt.report.changes.recovery import stages_figure, stages_table
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    teacher: float | None
    student: float
    text: Callable[[float], str]


def _table(report: TeachingReport, rows: int | None = None) -> RenderableType:
    """Return the stages, the last `rows` of them, and the student beside its teacher."""

    def worth(value: float) -> str:
        return formats.metric_value(value, report.metric)

    caption = [f"Judged on the {report.judged_on} data.", *str(report.distillation).splitlines()[1:]]
    stages = stages_table(report, f"{report.model} learned from {report.teacher}", rows, caption)
    lines = (
        _Line(report.metric, report.teacher_value, report.after, worth),
        _Line("Parameters", report.teacher_parameters, report.parameters, _count),
        _Line("Multiply-accumulates", report.teacher_macs, report.macs, _count),
    )
    columns = (
        Column[_Line]("", lambda line: line.name, is_number=False),
        Column[_Line]("Teacher", lambda line: formats.NOTHING if line.teacher is None else line.text(line.teacher)),
        Column[_Line]("Student", lambda line: line.text(line.student)),
        Column[_Line]("Left", _left),
    )
    return Group(stages, Text(), FittedTable("", lines, columns))


def _count(value: float) -> str:
    return formats.count(int(value))


def _left(line: _Line) -> str:
    return formats.share(line.student / line.teacher) if line.teacher and line.text is _count else formats.NOTHING


def _words(report: TeachingReport) -> str:
    value = formats.metric_value(report.after, report.metric)
    teacher = report.teacher_value
    beside = "" if teacher is None else f"; the teacher: {formats.metric_value(teacher, report.metric)}"
    return f"{report.model}, taught by {report.teacher}: {report.metric} {value} ({report.best}){beside}."


TEACHING = Look("teaching", _table, stages_figure, _words)
