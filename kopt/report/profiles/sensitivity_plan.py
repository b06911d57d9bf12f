"""The plan of what layers can take, as a table, a plot and words."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.profiles.sensitivity_plan import JointMeasurement, LayerAllowance, SensitivityPlan
from kopt.core.settings import choice, whole
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.svg import INK
from kopt.report.profiles.sensitivity import MOST_ROWS, drop_words, short_name, unit_of

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_BITS, _SPARSITY = "#0072b2", "#d55e00"


def _table(plan: SensitivityPlan, *, rows: int = 20, sort: str = "order") -> RenderableType:
    """Return bits and sparsity, a row a layer.

    Args:
        plan: what to show.
        rows: at most so many, those with the most weights.
        sort: `"order"` of execution, `"parameters"`, `"bits"` or `"sparsity"`, most to spare first.
    """
    whole("rows", rows)
    choice("sort", sort, ("order", "parameters", "bits", "sparsity"))
    largest = {layer.layer for layer in sorted(plan.layers, key=lambda one: -one.parameters)[:rows]}
    layers = [layer for layer in plan.layers if layer.layer in largest]
    keys: dict[str, Callable[[LayerAllowance], float]] = {
        "parameters": lambda layer: -layer.parameters,
        "bits": lambda layer: -(layer.bits or 99),
        "sparsity": lambda layer: layer.sparsity,
    }
    if sort in keys:
        layers.sort(key=keys[sort])
    columns = (
        Column[LayerAllowance]("Layer", lambda layer: layer.layer, is_number=False),
        Column[LayerAllowance]("Type", lambda layer: layer.type, 2, is_number=False),
        Column[LayerAllowance]("Weights", lambda layer: formats.count(layer.parameters), 1),
        Column[LayerAllowance]("Bits", _bits),
        Column[LayerAllowance]("Drop", lambda layer: _own_drop(layer.bits_drop, layer.bits, plan.metric)),
        Column[LayerAllowance]("Sparsity", lambda layer: formats.share(layer.sparsity) if layer.sparsity else "dense"),
        Column[LayerAllowance](
            "Drop ", lambda layer: _own_drop(layer.sparsity_drop, layer.sparsity or None, plan.metric)
        ),
    )
    missing = len(plan.layers) - len(layers)
    lines = [_words(plan), *(_joint_line(one, plan.metric) for one in plan.joint)]
    lines += [f"Left out: the {missing} smallest of {len(plan.layers)} layers."] if missing else []
    title = f"What each layer can take, and how much worse {plan.metric} gets ({unit_of(plan.metric)})"
    return Group(FittedTable(title, layers, columns), Text(), *map(Text, [*lines, *plan.notes]))


def _bits(layer: LayerAllowance) -> str:
    return "float" if layer.bits is None else str(layer.bits)


def _own_drop(drop: float, amount: float | None, metric: str) -> str:
    return formats.NOTHING if amount is None else formats.metric_change(drop, metric)


def _joint_line(one: JointMeasurement, metric: str) -> str:
    error = "" if one.error is None else f" ± {formats.metric_change(one.error, metric)}"
    unit = " points" if formats.is_counted(metric) else ""
    return (
        f"All layers together, {one.what}: {metric} drops by {formats.metric_change(one.drop, metric)}{error}{unit}; "
        f"one by one they add up to {formats.metric_change(one.sum_of_drops, metric)}{unit}."
    )


def _words(plan: SensitivityPlan) -> str:
    floats = sum(1 for layer in plan.layers if layer.bits is None)
    dense = sum(1 for layer in plan.layers if not layer.sparsity)
    return (
        f"Within a drop of {drop_words(plan.max_drop, plan.metric)} of {plan.metric}: "
        f"{formats.number(plan.mean_bits, 2)} bits a weight on average ({floats} of {len(plan.layers)} layers in "
        f"floating point), or {formats.share(plan.mean_sparsity)} of the weights pruned ({dense} layers dense). "
        f"{'Measured with all layers together.' if plan.is_verified else 'Not measured with all layers together.'}"
    )


def _figure(plan: SensitivityPlan) -> Figure:
    largest = {layer.layer for layer in sorted(plan.layers, key=lambda one: -one.parameters)[:MOST_ROWS]}
    layers = [layer for layer in plan.layers if layer.layer in largest]
    figure = Figure(figsize=(8.6, 1.5 + 0.27 * len(layers)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(layers))
    _bars(left, [layer.bits or 32 for layer in layers], [_bits(layer) for layer in layers], _BITS, "Bits of a weight")
    left.set_xlim(0, 37)
    shares = [formats.share(layer.sparsity) if layer.sparsity else "dense" for layer in layers]
    _bars(right, [layer.sparsity * 100 for layer in layers], shares, _SPARSITY, "Sparsity in percent")
    right.set_xlim(0, 115)
    left.set_yticks(rows, [short_name(layer.layer) for layer in layers])
    left.set_ylim(len(layers) - 0.4, -0.6)
    missing = len(plan.layers) - len(layers)
    note = f" ({missing} smallest layers not shown)" if missing else ""
    title = (
        f"For {drop_words(plan.max_drop, plan.metric)} of {plan.metric}: {formats.number(plan.mean_bits, 2)} bits a "
        f"weight, or {formats.share(plan.mean_sparsity)} pruned{note}"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _bars(axes: Axes, values: Sequence[float], texts: Sequence[str], color: str, label: str) -> None:
    axes.barh(range(len(values)), values, color=color, height=0.62)
    for row, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.annotate(text, (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlabel(label)
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.15, color=INK)


PLAN = Look("sensitivity-plan", _table, _figure, _words)
