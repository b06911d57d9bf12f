"""What a restructured model became: a table of the layers with what was left, and bars of what they cost."""

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.changes.restructuring import RestructuredLayer, RestructureReport
from kopt.report.changes.footprints import footprints_table
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.row_choice import first_rows

_MOST_LAYERS, _MOST_LEFT = 20, 10
_BEFORE, _AFTER = "#9aa3ab", "#0072b2"


def _table(report: RestructureReport, rows: int | None = None) -> RenderableType:
    """Return the treated layers before and after; `rows` limits them."""
    columns = (
        Column[RestructuredLayer]("Layer", lambda layer: layer.name, is_number=False),
        Column[RestructuredLayer]("Type", lambda layer: layer.type, 4, is_number=False),
        Column[RestructuredLayer]("Became", lambda layer: layer.detail, 3, is_number=False),
        Column[RestructuredLayer](
            "Parameters", lambda layer: _change(layer.parameters_before, layer.parameters_after), 2
        ),
        Column[RestructuredLayer]("MACs", lambda layer: _change(layer.macs_before, layer.macs_after)),
        Column[RestructuredLayer]("Error", lambda layer: formats.share(layer.error) if layer.error else "", 1),
    )
    shown, hidden = first_rows(report.applied, rows, "layers")
    title = f"{report.model}: {report.transform}"
    layers = PathTable(title, shown, columns, caption=[*hidden, *_caption(report)])
    return Group(layers, Text(), footprints_table(report.measured))


def _caption(report: RestructureReport) -> list[str]:
    caption = [_totals(report)]
    if report.unknown:
        caption.append(f"{report.unknown} layer(s) of unknown work are not in the multiply-accumulates.")
    if report.left:
        caption.append(f"Left as they were: {len(report.left)}.")
        caption += [f"  {action.layer} ({action.type}): {action.detail}" for action in report.left[:_MOST_LEFT]]
        if len(report.left) > _MOST_LEFT:
            caption.append(f"  and {len(report.left) - _MOST_LEFT} more, see `report.left`.")
    return caption


def _totals(report: RestructureReport) -> str:
    return (
        f"Parameters {_change(report.parameters_before, report.parameters_after)}, multiply-accumulates an example "
        f"{_change(report.macs_before, report.macs_after)}."
    )


def _change(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "?"
    if before == after:
        return f"{after:,}"
    return f"{before:,} -> {after:,}"


def _figure(report: RestructureReport) -> Figure:
    layers = _largest(report)
    figure = Figure(figsize=(8.6, 0.8 + 0.5 * max(len(layers), 1)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = [name for layer in layers for name in (layer.name, "after")]
    colors = [color for _ in layers for color in (_BEFORE, _AFTER)]
    parameters = [value for layer in layers for value in (layer.parameters_before, layer.parameters_after)]
    macs = [value for layer in layers for value in (layer.macs_before, layer.macs_after)]
    draw_bars(left, names, parameters, [formats.count(value) for value in parameters], colors)
    draw_bars(right, names, [value or 0 for value in macs], [formats.count(value) for value in macs], colors)
    left.set_title("Parameters", loc="left", fontsize=10, fontweight="bold")
    right.set_title("Multiply-accumulates an example", loc="left", fontsize=10, fontweight="bold")
    right.tick_params(left=False, labelleft=False)
    return figure


def _largest(report: RestructureReport) -> list[RestructuredLayer]:
    ranked = sorted(report.applied, key=lambda layer: -(layer.macs_before or layer.parameters_before))
    kept = {id(layer) for layer in ranked[:_MOST_LAYERS]}
    return [layer for layer in report.applied if id(layer) in kept]


def _words(report: RestructureReport) -> str:
    left = f" {len(report.left)} left as they were." if report.left else ""
    worst = max(report.applied, key=lambda layer: layer.error, default=None)
    error = f" Largest relative error of the weights: {formats.share(worst.error)} ({worst.name})." if worst else ""
    treated = f"{report.transform} of {report.model} treated {len(report.applied)} layer(s)."
    return f"{treated}{left} {_totals(report)}{error if worst and worst.error else ''}"


RESTRUCTURING = Look("restructuring", _table, _figure, _words)
