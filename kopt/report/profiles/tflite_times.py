"""Where a call of a `.tflite` file spends its time, as a table and a plot."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.records.profiles.runtime import TFLiteOpProfile, TFLiteOpTime
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.row_choice import chosen_rows
from kopt.report.parts.time_parts import (
    BLUE,
    GREY,
    MOST_BARS,
    ORANGE,
    bars_figure,
    left_out,
    ms,
    short,
    with_notes,
)

_ORDERS: dict[str, Callable[[TFLiteOpTime], Any]] = {
    "self": lambda op: -(op.time_ms or 0.0),
    "file": lambda op: 0,
    "count": lambda op: -op.count,
    "kernel": lambda op: op.kernel,
}


def _table(profile: TFLiteOpProfile, rows: int | None = 20, sort: str = "self") -> RenderableType:
    shown, left = chosen_rows(profile.ops, _ORDERS, sort, rows)
    columns = (
        Column[TFLiteOpTime]("Output", _name, is_number=False),
        Column[TFLiteOpTime]("Operator", lambda op: op.operator or formats.NOTHING, 3, is_number=False),
        Column[TFLiteOpTime]("Kernel", lambda op: op.kernel, 2, is_number=False),
        Column[TFLiteOpTime]("Runs in", lambda op: op.runs_in, 4, is_number=False),
        Column[TFLiteOpTime]("Calls", lambda op: formats.number(op.count), 5),
        Column[TFLiteOpTime]("ms", lambda op: ms(op.time_ms)),
        Column[TFLiteOpTime]("Share", lambda op: formats.share(op.share)),
        Column[TFLiteOpTime]("KiB", lambda op: formats.kibibytes(op.output_bytes), 6),
    )
    hidden = sum(op.share or 0.0 for op in profile.ops) - sum(op.share or 0.0 for op in shown)
    caption = [
        left_out(len(left), "operators", hidden),
        f"Share of the operators' {ms(profile.ops_ms)} ms. A call takes {ms(profile.call_ms)} ms, under the profiler "
        f"{ms(profile.profiled_call_ms)} ms.",
    ]
    title = f"{profile.file} in {profile.runtime}, {profile.threads} thread(s), median of {profile.runs} calls"
    return with_notes(FittedTable(title, shown, columns, caption=list(filter(None, caption))), profile.notes)


def _figure(profile: TFLiteOpProfile) -> Figure:
    shown, left = chosen_rows(profile.ops, _ORDERS, "self", MOST_BARS)
    colors = {"XNNPACK": BLUE, "LiteRT": ORANGE}
    bars = [(f"{_name(op)} {op.operator or op.kernel}", [(op.time_ms or 0.0, colors[op.runs_in])]) for op in shown]
    if left:
        hidden = profile.ops_ms - sum(op.time_ms or 0.0 for op in shown)
        bars.append((f"{len(left)} other operators", [(hidden, GREY)]))
    title = f"A call takes {ms(profile.call_ms)} ms"
    if shown:
        share = formats.share(shown[0].share)
        title = f"{short(_name(shown[0]))} takes {share} of the operators' {ms(profile.ops_ms)} ms"
    return bars_figure(bars, title, "Milliseconds in one call", list(colors.items()))


def _words(profile: TFLiteOpProfile) -> str:
    shown, _ = chosen_rows(profile.ops, _ORDERS, "self", 5)
    parts = ", ".join(f"{_name(op)} ({op.kernel}) {formats.share(op.share)}" for op in shown)
    return (
        f"A call of {profile.file} takes {ms(profile.call_ms)} ms in {profile.runtime}; of the operators' "
        f"{ms(profile.ops_ms)} ms most is in {parts}."
    )


def _name(op: TFLiteOpTime) -> str:
    """Return the name of the result, without the model's and without those of what was fused into it."""
    if op.output is None:
        return formats.NOTHING
    first = op.output.partition(";")[0]
    return first.partition("/")[2] or first


TFLITE_OPS = Look("tflite-operator-times", _table, _figure, _words)
