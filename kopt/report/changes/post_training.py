"""What post-training quantization tried and chose, as a table and a plot."""

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.post_training import PostTrainingQuantization, TriedOption
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.time_parts import BLUE, GREEN, GREY


def _table(report: PostTrainingQuantization, rows: int | None = 20) -> RenderableType:
    columns = (
        Column[TriedOption]("Option", lambda one: one.name, is_number=False),
        Column[TriedOption]("Kept", lambda one: "yes" if one.kept else "", is_number=False),
        Column[TriedOption]("Error", lambda one: formats.share(one.error)),
        Column[TriedOption]("Layers", lambda one: str(one.layers or ""), 1),
        Column[TriedOption]("Changes", lambda one: ", ".join(one.changes), 2, is_number=False),
    )
    quantization = report.quantization
    table = FittedTable(
        f"{quantization.model}: {quantization.scheme}",
        report.options,
        columns,
        remark=lambda one: one.reason,
        remark_header="Why",
        caption=[_words(report), *report.warnings],
    )
    left = quantization.left[:rows]
    return Group(table, *(Text(f"In float: {one.layer} ({one.type}): {one.detail}") for one in left))


def _figure(report: PostTrainingQuantization) -> Figure:
    measured = [one for one in report.options if one.error is not None]
    names = ["minmax alone", *(one.name for one in measured), "returned"]
    errors = [report.plain_error, *(one.error or 0.0 for one in measured), report.error]
    colors = [GREY, *(GREEN if one.kept else GREY for one in measured), BLUE]
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * len(names)), layout="constrained")
    draw_bars(figure.add_subplot(), names, errors, [formats.share(error) for error in errors], colors)
    figure.suptitle("Error of the rounded outputs", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _words(report: PostTrainingQuantization) -> str:
    kept = ", ".join(one.name for one in report.options if one.kept) or "nothing but ranges from the extremes"
    same = f"; the largest one is the same in {formats.agreement(report.agreement)}"
    return (
        f"Error of the outputs of {report.held_out} held-out example(s) {formats.share(report.error)}, "
        f"{formats.share(report.plain_error)} with minmax alone{same if report.agreement is not None else ''}. "
        f"Kept: {kept}."
    )


POST_TRAINING = Look("post-training-quantization", _table, _figure, _words)
