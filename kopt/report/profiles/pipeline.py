"""The diagnosis of an input pipeline as one sentence, as text for the terminal and as a plot."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.training.data import PipelineDiagnosis, StageTime
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_STAGE, _SLOWEST, _BEFORE, _STEP = "#56b4e9", "#d55e00", "#8a8f98", "#009e73"
_NAME_LENGTH = 36


def pipeline_headline(diagnosis: PipelineDiagnosis) -> str:
    """Return the verdict in one or two sentences.

    Example:
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=64)
        >>> print(kopt.report.pipeline_headline(kopt.data.diagnose(train, seconds=0.1)))
        The pipeline makes a batch in ... ms, ... examples a second; ... costs most.
    """
    batch = f"{formats.number(diagnosis.batch_ms)} ms"
    slowest = f"`{diagnosis.slowest}` costs most"
    if diagnosis.step_ms is None or diagnosis.ratio is None or diagnosis.waiting is None:
        rate = formats.number(diagnosis.examples_per_s)
        return f"The pipeline makes a batch in {batch}, {rate} examples a second; {slowest}."
    step = f"{formats.number(diagnosis.step_ms)} ms"
    if diagnosis.verdict == "input-bound":
        return (
            f"Input-bound: a batch takes {batch}, a training step {step}, so that the model waits at least "
            f"{formats.share(diagnosis.waiting)} of the time; {slowest}."
        )
    if diagnosis.verdict == "compute-bound":
        return (
            f"Compute-bound: a training step takes {step}, a batch {batch}: the input has "
            f"{formats.times(1 / diagnosis.ratio)} the speed that the model needs."
        )
    return f"Balanced: a batch takes {batch}, a training step {step}; {slowest}."


def _table(diagnosis: PipelineDiagnosis) -> RenderableType:
    """Return stages, verdict and advice."""
    columns = (
        Column[StageTime]("Stage", lambda stage: stage.stage, is_number=False),
        Column[StageTime]("", _marks, 2, is_number=False),
        Column[StageTime]("Up to here ms", lambda stage: formats.number(stage.up_to_ms), 1),
        Column[StageTime]("Adds ms", lambda stage: formats.number(stage.added_ms)),
        Column[StageTime]("Share", lambda stage: _share(stage, diagnosis)),
    )
    lines = [pipeline_headline(diagnosis), *(f"- {line}" for line in diagnosis.advice)]
    if diagnosis.verdict == "compute-bound":
        lines.append("A faster input would not shorten training.")
    return Group(FittedTable("Milliseconds to make one batch", diagnosis.stages, columns), *map(Text, lines))


def _figure(diagnosis: PipelineDiagnosis) -> Figure:
    rows = len(diagnosis.stages) + (diagnosis.step_ms is not None)
    figure = Figure(figsize=(8.6, 1.3 + 0.36 * rows), layout="constrained")
    axes = figure.add_subplot()
    longest = max(diagnosis.step_ms or 0.0, *(stage.up_to_ms for stage in diagnosis.stages))
    names = []
    for row, stage in enumerate(diagnosis.stages):
        begin = max(0.0, stage.up_to_ms - stage.added_ms)
        color = _SLOWEST if stage.stage == diagnosis.slowest and stage.added_ms == _most(diagnosis) else _STAGE
        _bar(axes, row, begin, stage.added_ms, color, longest)
        names.append(_short(f"{stage.stage} {_detail(stage)}".strip()))
    if diagnosis.step_ms is not None:
        _bar(axes, rows - 1, 0.0, diagnosis.step_ms, _STEP, longest)
        axes.axvline(diagnosis.step_ms, color=_STEP, linewidth=1.0, linestyle="--", zorder=0)
        axes.axhline(rows - 1.5, color=INK, linewidth=0.6, alpha=0.4)
        names.append("training step")
    axes.set_yticks(range(rows), names)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.14)
    axes.set_xlabel("Milliseconds to make one batch, stage after stage")
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.15, color=INK)
    axes.set_title(_title(diagnosis), loc="left", fontsize=10, fontweight="bold")
    return figure


def _bar(axes: Axes, row: int, begin: float, length: float, color: str, longest: float) -> None:
    axes.barh(row, begin, color=_BEFORE, alpha=0.18, height=0.62)
    axes.barh(row, max(length, 0.002 * longest), left=begin, color=color, height=0.62)
    axes.annotate(
        formats.number(length),
        (begin + length, row),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )


def _most(diagnosis: PipelineDiagnosis) -> float:
    return max(stage.added_ms for stage in diagnosis.stages)


def _title(diagnosis: PipelineDiagnosis) -> str:
    if diagnosis.ratio is None:
        return f"Input pipeline: {formats.number(diagnosis.examples_per_s)} examples a second"
    if diagnosis.verdict == "balanced":
        return "Balanced: a batch takes about as long as a training step"
    times = max(diagnosis.ratio, 1 / diagnosis.ratio)
    longer, shorter = ("a batch", "a training step") if diagnosis.ratio > 1 else ("a training step", "a batch")
    return f"{diagnosis.verdict.capitalize()}: {longer} takes {formats.times(times)} as long as {shorter}"


def _detail(stage: StageTime) -> str:
    marks = _marks(stage)
    return f"({marks})" if marks else ""


def _marks(stage: StageTime) -> str:
    return ", ".join(filter(None, (stage.detail, "Python" if stage.python else "")))


def _share(stage: StageTime, diagnosis: PipelineDiagnosis) -> str:
    total = sum(one.added_ms for one in diagnosis.stages)
    return formats.share(stage.added_ms / total) if total else formats.NOTHING


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _words(diagnosis: PipelineDiagnosis) -> str:
    stages = ", ".join(f"{stage.stage} {formats.number(stage.added_ms)} ms" for stage in diagnosis.stages)
    return f"{pipeline_headline(diagnosis)} Stages: {stages}."


PIPELINE = Look("pipeline", _table, _figure, _words)
"""How the stages of an input pipeline are shown; `.table()` and `.plot()` of `kopt.data.diagnose` do it.

Example:
    >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=64)
    >>> found = kopt.data.diagnose(train, seconds=0.1)
    >>> kopt.report.PIPELINE.svg(found)[:4]
    '<svg'
"""
