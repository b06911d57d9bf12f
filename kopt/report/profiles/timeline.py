"""What ran when in every thread, during one step."""

import dataclasses
import statistics
from collections.abc import Iterator

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.console import RenderableType

from kopt.core.errors import InputError
from kopt.core.records.profiles.time import OpProfile, ThreadTimeline
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.svg import INK
from kopt.report.parts.time_parts import GREY, PHASE_COLORS, ms, short

# Spans of one phase that are closer than this share of the step are drawn as one.
_CLOSE = 1e-3
_HELPS = "helper"


@dataclasses.dataclass(frozen=True)
class _Thread:
    name: str
    spans: tuple[tuple[str, float, float], ...]  # phase, start, duration in ms
    calls: int

    @property
    def busy_ms(self) -> float:
        return sum(length for _, _, length in self.spans)


def _table(profile: OpProfile, rows: int | None = 20) -> RenderableType:
    threads, start, length = _one_step(profile)
    shown, hidden = first_rows(threads, rows, "threads")
    columns = (
        Column[_Thread]("Thread", lambda thread: thread.name, is_number=False),
        Column[_Thread]("Calls", lambda thread: str(thread.calls), 2),
        Column[_Thread]("Busy ms", lambda thread: ms(thread.busy_ms)),
        Column[_Thread]("Of the step", lambda thread: formats.share(thread.busy_ms / length)),
    )
    caption = [*hidden, f"Step {start + 1} of {profile.steps}: {ms(length)} ms under the profiler."]
    return FittedTable(f"{profile.model}: threads of one step", shown, columns, caption=caption)


def _figure(profile: OpProfile) -> Figure:
    threads, _, length = _one_step(profile)
    if not threads:
        raise InputError(f"Nothing ran in the profiled steps of {profile.model!r}, so there is no timeline to draw.")
    colors = {**PHASE_COLORS, _HELPS: GREY}
    figure = Figure(figsize=(8.6, 1.4 + 0.42 * len(threads)), layout="constrained")
    axes = figure.add_subplot()
    for row, thread in enumerate(threads):
        for phase, color in colors.items():
            spans = [(start, duration) for kind, start, duration in thread.spans if kind == phase]
            axes.broken_barh(list(_merged(spans, length * _CLOSE)), (row - 0.36, 0.72), color=color, linewidth=0)
    axes.set_yticks(range(len(threads)), [short(thread.name) for thread in threads])
    axes.set_ylim(len(threads) - 0.4, -0.6)
    axes.set_xlim(0, length)
    axes.set_xlabel("ms from the start of the step")
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.15, color=INK)
    figure.suptitle(f"One {profile.step} step, thread by thread", x=0.01, ha="left", fontsize=10, fontweight="bold")
    seen = {kind for thread in threads for kind, _, _ in thread.spans}
    handles = [Patch(color=color, label=phase) for phase, color in colors.items() if phase in seen]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))
    return figure


def _words(profile: OpProfile) -> str:
    threads, _, length = _one_step(profile)
    if not threads:
        return "Nothing ran in the profiled steps."
    busiest = max(threads, key=lambda thread: thread.busy_ms)
    return (
        f"The step of median duration, {ms(length)} ms, thread by thread. {busiest.name!r} is busy for "
        f"{formats.share(busiest.busy_ms / length)} of it. Empty space is time in which a thread waits."
    )


def _one_step(profile: OpProfile) -> tuple[list[_Thread], int, float]:
    """Return the threads that had something to do in the step of median duration, its number and its length in ms."""
    durations = profile.step_duration_us
    number = durations.index(statistics.median_low(durations))
    begin, length = profile.step_start_us[number], durations[number]
    threads = [_within(profile, timeline, begin, begin + length) for timeline in profile.timelines]
    return [thread for thread in threads if thread.spans], number, length / 1e3


def _within(profile: OpProfile, timeline: ThreadTimeline, begin: float, end: float) -> _Thread:
    """Return what a thread did between two times; of calls within each other only the outermost."""
    spans: list[tuple[str, float, float]] = []
    calls, reached = 0, begin
    for op, helper, start, length in zip(
        timeline.ops, timeline.helper, timeline.start_us, timeline.duration_us, strict=True
    ):
        first, last = max(start, reached), min(start + length, end)
        calls += begin <= start < end
        if first < last:
            spans.append((_HELPS if helper else profile.ops[op].phase, (first - begin) / 1e3, (last - first) / 1e3))
            reached = last
    return _Thread(timeline.thread, tuple(spans), calls)


def _merged(spans: list[tuple[float, float]], gap: float) -> Iterator[tuple[float, float]]:
    """Join neighbors that could not be told apart on paper, so that a page with thousands of calls stays small."""
    start, end = None, 0.0
    for begin, length in spans:
        if start is not None and begin - end > gap:
            yield start, end - start
            start = None
        start = begin if start is None else start
        end = begin + length
    if start is not None:
        yield start, end - start


TIMELINE = Look("timeline", _table, _figure, _words)
