"""An optimization run as one HTML file that needs no network."""

import dataclasses

from markupsafe import Markup

from kopt.core.records.candidates import OptimizationResult
from kopt.core.records.profiles.cost import ModelProfile
from kopt.core.records.profiles.sensitivity import SensitivityProfile
from kopt.report.parts import formats
from kopt.report.parts.html_tables import html_of
from kopt.report.parts.templating import environment
from kopt.report.profiles.costs import COSTS, hidden_layers
from kopt.report.profiles.sensitivity import SENSITIVITY
from kopt.report.run import outcome, plots
from kopt.report.run.cost_axis import cost_axis
from kopt.report.run.rows import Row, baseline_row, candidate_rows, open_questions, size_reference
from kopt.report.run.story import story

_LAYER_ROWS, _SENSITIVE_ROWS = 100, 20


@dataclasses.dataclass(frozen=True)
class _Tile:
    """A number to be seen from across the room."""

    label: str
    value: str
    detail: str
    is_gain: bool


def html(result: OptimizationResult) -> str:
    """Return a run as one self-contained HTML page: its story, candidates, plots, layers, model card, environment.

    Args:
        result: what `kopt.optimize` returned or `read_result` loaded.

    Example:
        >>> page = kopt.report.html(result)
        >>> page.startswith("<!DOCTYPE html>"), "tflite-int8" in page
        (True, True)
    """
    rows, baseline = candidate_rows(result), baseline_row(result)
    best = next((row for row in rows if row.is_best), None)
    template = environment().get_template("report.html")
    return template.render(
        result=result,
        told=story(result),
        metric=result.budget.metric,
        headline=outcome.headline(result),
        best=best,
        baseline=baseline,
        size_reference=size_reference(result)[1],
        tiles=_tiles(result, best, baseline) if best else (),
        where=_where(result, best or baseline),
        rows=(baseline, *rows),
        tried=rows,
        questions=open_questions(rows),
        has_energy=any(row.energy for row in (baseline, *rows)),
        plots=_plots(result, (baseline, *rows)),
        against=cost_axis(result.budget).name,
        sensitivity=_sensitivity(result.sensitivity),
        layer_plot=_layer_plot(result.profile),
        hidden_layers=hidden_layers,
        layers=result.profile.layers[:_LAYER_ROWS] if result.profile else (),
    )


def _tiles(result: OptimizationResult, best: Row, baseline: Row) -> list[_Tile]:
    metric = result.budget.metric
    tiles = []
    if best.speedup is not None:
        pair = f"{formats.number(baseline.latency_ms)} → {formats.number(best.latency_ms)} ms a call"
        tiles.append(_Tile("Speed", formats.times(best.speedup), pair, best.speedup > 1))
    if best.size_ratio is not None:
        pair = f"{formats.size(baseline.size_bytes)} → {formats.size(best.size_bytes)}"
        tiles.append(_Tile("Size", formats.share(best.size_ratio), pair, best.size_ratio < 1))
    if best.drop is not None:
        change = formats.metric_change(-best.drop, metric)
        signed = change if change.startswith("-") or float(change) == 0 else f"+{change}"
        pair = f"{formats.metric_value(baseline.metric, metric)} → {formats.metric_value(best.metric, metric)}"
        unit = "points" if formats.is_counted(metric) else ""
        tiles.append(
            _Tile(metric.capitalize(), f"{signed} {unit}".strip().replace("-", "\N{MINUS SIGN}"), pair, best.drop < 0)
        )
    if best.agreement is not None:
        detail = "of examples get the same answer as before"
        tiles.append(_Tile("Agreement", formats.agreement(best.agreement), detail, False))
    return tiles


def _where(result: OptimizationResult, row: Row) -> str:
    machine = result.machine
    place = f"{machine.processor}, {machine.cores} core{'s' if machine.cores != 1 else ''}, {machine.system}"
    runtime = outcome.runtime_text(result, row)
    return f"Measured in {runtime} on {place}." if runtime else f"Measured on {place}."


def _plots(result: OptimizationResult, rows: tuple[Row, ...]) -> dict[str, Markup | None]:
    shown: dict[str, Markup | None] = {"pareto": None, "size": None, "latency": None}
    axis = cost_axis(result.budget)
    if any(row.drawable and axis.value(row) is not None for row in rows):
        shown["pareto"] = Markup(plots.pareto_plot(result))
    if any(row.size_bytes is not None and not row.failed for row in rows):
        shown["size"] = Markup(plots.bars(result, "size"))
    if any(row.latency_ms is not None and not row.failed for row in rows):
        shown["latency"] = Markup(plots.bars(result, "latency"))
    return shown


def _sensitivity(profile: SensitivityProfile | None) -> tuple[Markup, Markup] | None:
    """Return the plot and the table of the layers that react most."""
    if profile is None:
        return None
    return Markup(SENSITIVITY.svg(profile)), html_of(SENSITIVITY.table(profile, rows=_SENSITIVE_ROWS))


def _layer_plot(profile: ModelProfile | None) -> Markup | None:
    if profile is None or not any(layer.parameters or layer.macs for layer in profile.layers):
        return None
    return Markup(COSTS.svg(profile))
