"""The report of a run as Markdown, for a repository or a review."""

from collections.abc import Iterable, Iterator, Sequence

from kopt.core.records.candidates import OptimizationResult
from kopt.report.parts import formats
from kopt.report.profiles.sensitivity import SENSITIVITY, worst
from kopt.report.run.cost_axis import cost_axis
from kopt.report.run.rows import Row, baseline_row, candidate_rows
from kopt.report.run.story import Step, Story, story

_MARKS = {"best": "**best**, ", "kept": "", "dropped": "dropped, ", "failed": "failed, ", "looked": ""}
_CHANGE_HEADS = ("", "before", "after", "change")
_SENSITIVE_ROWS = 10
_CLASS_HEADS = ("Class", "Examples", "Before", "After", "Points lost", "Interval")


def markdown(result: OptimizationResult, plot: str = "") -> str:
    """Return a run as Markdown.

    Args:
        result: what `kopt.optimize` returned or `read_result` loaded.
        plot: file name of the plot beside it; empty for no plot.

    Example:
        >>> kopt.report.markdown(result).splitlines()[0]
        '# digits: kopt report'
    """
    return "\n".join(_lines(result, story(result), plot)) + "\n"


def _lines(result: OptimizationResult, told: Story, plot: str) -> Iterator[str]:
    yield from (f"# {_text(result.model)}: kopt report", "", _text(told.headline), "")
    yield from (f"> {_text(note)}\n" for note in (*told.notes, *told.doubts))
    yield from (f"Asked: {_text('; '.join(told.asked))}. {_text(told.rule)}", "")
    yield from ("## The model as given", "", _text(told.baseline), "", *map(_text, told.bottleneck), "")
    if told.looks:
        looked = (_step(number, step) for number, step in enumerate(told.looks, 1))
        yield from ("## What was looked at", "", *looked, "")
    yield from ("## What was tried", "", *(_step(number, step) for number, step in enumerate(told.steps, 1)), "")
    if told.chosen is not None:
        title = "Before and after" if told.is_best else f"The nearest: {_text(told.chosen.name)}"
        rows = [(one.what, one.before, one.after, one.change) for one in told.changes]
        yield from (f"## {title}", "", *_table(_CHANGE_HEADS, rows), "")
        yield from _energy_note(told.chosen)
    if told.test:
        yield from ("## Test", "", _text(told.test), "")
    yield from _class_lines(told)
    yield from _front(result, plot)
    yield from _sensitive_layers(result)
    if told.card:
        yield from ("## Model card", "", *(f"- **{_text(head)}**: {_text(text)}" for head, text in told.card), "")
    yield from ("## Reproduce", "")
    for what, command in told.commands:
        yield from (f"{_text(what)}:", "", *(f"    {line}" for line in command.splitlines()), "")
    machine = result.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    yield f"Measured on {_text(machine.processor)}, {machine.cores} core(s), {machine.system}, {packages}."


def _step(number: int, step: Step) -> str:
    how = f" ({_text(step.how)})" if step.how else ""
    why = f" Tried because {_text(step.why.rstrip('.'))}." if step.why else ""
    return f"{number}. {_MARKS[step.kind]}`{step.name}`{how}:{why} {_text(step.found)}"


def _class_lines(told: Story) -> Iterator[str]:
    if not told.classes:
        return
    rows = [
        (
            one.label,
            f"{one.examples:,}",
            formats.metric_value(one.before, "accuracy"),
            formats.metric_value(one.after, "accuracy"),
            formats.metric_change(one.drop, "accuracy"),
            " to ".join(formats.metric_change(end, "accuracy") for end in (one.low, one.high)),
        )
        for one in told.classes
    ]
    yield from ("## Classes", "", *_table(_CLASS_HEADS, rows), "")
    if told.hidden_classes:
        yield from (f"{told.hidden_classes} more classes lost less; `report.json` has them all.", "")


def _energy_note(chosen: Row) -> Iterator[str]:
    if chosen.energy is not None:
        yield from (f"Energy: {_text(chosen.energy.method)}.", "")


def _sensitive_layers(result: OptimizationResult) -> Iterator[str]:
    """Yield the layers that react most when they are perturbed alone, or why that is not known."""
    profile = result.sensitivity
    if profile is None:
        if result.no_sensitivity:
            yield from ("## What its layers can take", "", _text(result.no_sensitivity), "")
        return
    layers = sorted(profile.layers, key=worst, reverse=True)[:_SENSITIVE_ROWS]
    rows = [
        (one.layer, *(formats.metric_change(effect.metric_drop, profile.metric) for effect in one.effects))
        for one in layers
    ]
    yield from ("## What its layers can take", "", *map(_text, (SENSITIVITY.words(profile),)), "")
    yield from (*_table(("Layer", *profile.perturbations), rows), "")


def _front(result: OptimizationResult, plot: str) -> Iterator[str]:
    metric = result.budget.metric
    rows = [baseline_row(result), *(row for row in candidate_rows(result) if row.candidate.pareto)]
    cells = [
        (
            row.name,
            formats.metric_value(row.metric, metric),
            formats.number(row.latency_ms),
            formats.kibibytes(row.size_bytes),
        )
        for row in rows
    ]
    yield from ("## Pareto front", "", *_table(("", metric.capitalize(), "p50 ms", "KiB"), cells), "")
    if plot:
        against = cost_axis(result.budget).name
        yield from (f"![{metric.capitalize()} against {against}]({plot})", "")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(heads) - 1)])}|"
    for row in rows:
        yield f"| {' | '.join(map(_text, row))} |"


def _text(text: str) -> str:
    """Return text in which nothing is Markdown or HTML."""
    for mark in ("\\", "|", "`", "*", "_", "<", "[", "#"):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
