"""Where a step spends its time, as tables and plots: by operations and by layers."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.text import Text

from kopt.core.records.profiles.time import LayerTime, LayerTimes, OpProfile, OpTime
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.row_choice import chosen_rows
from kopt.report.parts.time_parts import (
    BLUE,
    GREEN,
    GREY,
    MOST_BARS,
    ORANGE,
    PHASE_COLORS,
    VERMILION,
    bars_figure,
    left_out,
    ms,
    short,
    with_notes,
)

_OP_ORDERS: dict[str, Callable[[OpTime], Any]] = {
    "self": lambda op: -op.self_ms,
    "total": lambda op: -op.total_ms,
    "busy": lambda op: -op.busy_ms,
    "share": lambda op: -op.share,
    "count": lambda op: -op.count,
    "memory": lambda op: (op.memory_bytes is None, -(op.memory_bytes or 0) * op.count),
    "name": lambda op: op.name,
    "layer": lambda op: (op.layer is None, op.layer or ""),
}
_LAYER_ORDERS: dict[str, Callable[[LayerTime], Any]] = {
    "total": lambda layer: -layer.total_ms,
    "forward": lambda layer: -layer.forward_ms,
    "backward": lambda layer: -(layer.backward_ms or 0.0),
    "busy": lambda layer: -layer.busy_ms,
    "model": lambda layer: 0,
    "name": lambda layer: layer.layer,
}


def _ops_table(profile: OpProfile, rows: int | None = 20, sort: str = "self") -> RenderableType:
    shown, left = chosen_rows(profile.ops, _OP_ORDERS, sort, rows)
    if not profile.ops:
        return with_notes(Text(_ops_title(profile), style="bold"), profile.notes)
    columns = (
        Column[OpTime]("Operation", lambda op: op.name, is_number=False),
        Column[OpTime]("Kernel", lambda op: op.type.removeprefix("_"), 4, is_number=False),
        Column[OpTime]("Phase", lambda op: op.phase, 3, is_number=False),
        *(
            (Column[OpTime]("Device", lambda op: op.device, 2, is_number=False),)
            if any(op.device != "cpu" for op in profile.ops)
            else ()
        ),
        Column[OpTime]("Calls", lambda op: formats.number(op.count / profile.steps), 2),
        Column[OpTime]("Self ms", lambda op: ms(op.self_ms)),
        Column[OpTime]("Total ms", lambda op: ms(op.total_ms), 5),
        Column[OpTime]("Busy ms", lambda op: ms(op.busy_ms), 1),
        Column[OpTime]("Share", lambda op: formats.share(op.share)),
        Column[OpTime]("KiB", lambda op: formats.kibibytes(op.memory_bytes), 2),
    )
    caption = [
        left_out(len(left), "operations", sum(op.share for op in profile.ops) - sum(op.share for op in shown)),
        f"Share of {ms(profile.step_ms)} ms; no operation runs for {formats.share(profile.rest_ms / profile.step_ms)}. "
        f"Busy: all threads, {formats.times(profile.busy_ms / profile.step_ms)} the step on {profile.machine_cores} "
        f"cores.",
        f"Without the profiler a step takes {ms(profile.plain_step_ms)} ms.",
    ]
    title = f"{profile.model}: one {profile.step} step of {profile.batch_examples} examples, mean of {profile.steps}"
    return with_notes(FittedTable(title, shown, columns, caption=list(filter(None, caption))), profile.notes)


def _ops_figure(profile: OpProfile) -> Figure:
    shown, left = chosen_rows(profile.ops, _OP_ORDERS, "share", MOST_BARS)
    bars = [(op.name, [(op.wall_ms, PHASE_COLORS[op.phase])]) for op in shown]
    hidden = sum(op.wall_ms for op in profile.ops) - sum(op.wall_ms for op in shown)
    if left:
        bars.append((f"{len(left)} other operations", [(hidden, GREY)]))
    bars.append(("no operation runs" if profile.ops else "the compiled step", [(profile.rest_ms, GREY)]))
    phases = [phase for phase in PHASE_COLORS if any(op.phase == phase for op in shown)]
    legend = [(phase, PHASE_COLORS[phase]) for phase in phases] if len(phases) > 1 else []
    return bars_figure(bars, _ops_title(profile), f"Milliseconds of one {profile.step} step", legend)


def _ops_title(profile: OpProfile) -> str:
    if not profile.ops:
        return f"{profile.model}: one {profile.step} step takes {ms(profile.step_ms)} ms, compiled by XLA"
    first = max(profile.ops, key=lambda op: op.wall_ms)
    return (
        f"{short(first.name)} takes {formats.share(first.share)} of one {profile.step} step of {ms(profile.step_ms)} ms"
    )


def _ops_words(profile: OpProfile) -> str:
    opening = (
        f"One {profile.step} step of {profile.model} on {profile.batch_examples} examples takes "
        f"{ms(profile.step_ms)} ms"
    )
    if not profile.ops:
        return f"{opening}. {' '.join(profile.notes)}"
    shown, _ = chosen_rows(profile.ops, _OP_ORDERS, "share", 5)
    parts = ", ".join(f"{op.name} {formats.share(op.share)}" for op in shown)
    rest = formats.share(profile.rest_ms / profile.step_ms)
    return f"{opening}; {len(profile.ops)} operations, most time in {parts}; no operation runs for {rest}."


def _layers_table(times: LayerTimes, rows: int | None = 20, sort: str = "total") -> RenderableType:
    shown, left = chosen_rows(times.layers, _LAYER_ORDERS, sort, rows)
    training = times.step == "training"
    columns = (
        Column[LayerTime]("Layer", lambda layer: layer.layer, is_number=False),
        Column[LayerTime]("Type", lambda layer: layer.type, 3, is_number=False),
        Column[LayerTime]("Forward ms", lambda layer: ms(layer.forward_ms)),
        *((Column[LayerTime]("Backward ms", lambda layer: ms(layer.backward_ms)),) if training else ()),
        Column[LayerTime]("Share", lambda layer: formats.share(layer.total_ms / times.step_ms)),
        Column[LayerTime]("Busy ms", lambda layer: ms(layer.busy_ms), 2),
        Column[LayerTime]("Ops", lambda layer: str(layer.ops), 4),
    )
    hidden = sum(layer.total_ms for layer in times.layers) - sum(layer.total_ms for layer in shown)
    parts = [f"forward {ms(times.forward_ms)}"]
    if training:
        parts += [f"backward {ms(times.backward_ms)}", f"update {ms(times.update_ms)}"]
    parts += [f"other operations {ms(times.other_ms)}", f"rest {ms(times.rest_ms)}"]
    caption = [
        left_out(len(left), "layers", hidden / times.step_ms),
        f"{ms(times.step_ms)} ms a step = {' + '.join(parts)}.",
        f"Without the profiler a step takes {ms(times.plain_step_ms)} ms.",
    ]
    title = f"{times.model}: one {times.step} step of {times.batch_examples} examples, mean of {times.steps}"
    return with_notes(FittedTable(title, shown, columns, caption=list(filter(None, caption))), times.notes)


def _layers_figure(times: LayerTimes) -> Figure:
    shown, left = chosen_rows(times.layers, _LAYER_ORDERS, "total", MOST_BARS)
    bars = [(row.layer, [(row.forward_ms, BLUE), (row.backward_ms or 0.0, VERMILION)]) for row in shown]
    if left:
        hidden = [row for row in times.layers if row not in shown]
        forward, backward = sum(row.forward_ms for row in hidden), sum(row.backward_ms or 0.0 for row in hidden)
        bars.append((f"{len(left)} other layers", [(forward, BLUE), (backward, VERMILION)]))
    legend = [("forward", BLUE), ("backward", VERMILION)]
    if times.update_ms is not None:
        bars.append(("optimizer update", [(times.update_ms, GREEN)]))
        legend.append(("update", GREEN))
    bars.append(("loss, metrics and others", [(times.other_ms, ORANGE)]))
    bars.append(("no operation runs", [(times.rest_ms, GREY)]))
    title = f"One {times.step} step takes {ms(times.step_ms)} ms"
    if shown:
        share = formats.share(shown[0].total_ms / times.step_ms)
        title = f"{short(shown[0].layer)} takes {share} of one {times.step} step of {ms(times.step_ms)} ms"
    return bars_figure(
        bars, title, f"Milliseconds of one {times.step} step", legend if times.step == "training" else []
    )


def _layers_words(times: LayerTimes) -> str:
    shown, _ = chosen_rows(times.layers, _LAYER_ORDERS, "total", 5)
    parts = ", ".join(f"{row.layer} {ms(row.total_ms)} ms" for row in shown)
    update = "" if times.update_ms is None else f" The optimizer takes {ms(times.update_ms)} ms."
    return (
        f"One {times.step} step of {times.model} on {times.batch_examples} examples takes {ms(times.step_ms)} ms; most "
        f"time in {parts}.{update}"
    )


OPS = Look("operation-times", _ops_table, _ops_figure, _ops_words)
LAYER_TIMES = Look("layer-times", _layers_table, _layers_figure, _layers_words)
