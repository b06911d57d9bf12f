"""Which layers of an integer file stay in float, as a table and a plot."""

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.fallback import FallbackPlan, FallbackStep
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.time_parts import BLUE


def _table(plan: FallbackPlan) -> RenderableType:
    columns = [
        Column[FallbackStep]("Goes to float", _added, is_number=False),
        Column[FallbackStep]("Outputs dB", lambda one: formats.number(one.output_db)),
    ]
    if plan.metric != "output_db":
        columns.append(
            Column[FallbackStep](plan.metric.capitalize(), lambda one: formats.metric_value(one.metric, plan.metric))
        )
    table = PathTable(f"{plan.model}: {plan.scheme} with {plan.to}", plan.steps, columns, caption=[_words(plan)])
    return Group(table, *map(Text, plan.notes))


def _added(step: FallbackStep) -> str:
    return ", ".join(step.added) or "nothing"


def _figure(plan: FallbackPlan) -> Figure:
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * len(plan.steps)), layout="constrained")
    values = [max(step.output_db, 0.0) for step in plan.steps]
    texts = [f"{formats.number(step.output_db)} dB" for step in plan.steps]
    draw_bars(figure.add_subplot(), [_added(step) for step in plan.steps], values, texts, [BLUE] * len(values))
    figure.suptitle("Outputs, as layers go to float", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _words(plan: FallbackPlan) -> str:
    layers = f"{len(plan.layers)} layer(s) in {plan.to}: {', '.join(plan.layers)}." if plan.layers else "None in float."
    if plan.metric == "output_db":
        found = f"{formats.number(plan.measured)} dB, {formats.number(plan.least_db)} wanted"
    else:
        drop = formats.metric_change(plan.reference - plan.measured, plan.metric)
        allowed = formats.metric_change(plan.max_drop, plan.metric)
        found = f"{plan.metric} {formats.metric_value(plan.measured, plan.metric)}, {drop} lost and {allowed} allowed"
    verdict = "The budget holds" if plan.within_budget else "The budget does not hold"
    return f"{layers} {verdict}: the file has {found}, on {plan.examples} examples."


FALLBACK = Look("fallback", _table, _figure, _words)
