"""The sensitivity of layers as a table, a heat map and words."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.profiles.sensitivity import (
    LayerSensitivity,
    Perturbation,
    SensitivityProfile,
)
from kopt.core.settings import choice, whole
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.svg import INK

MOST_ROWS = 40
_NAME_LENGTH = 34
# Around Okabe and Ito's vermilion; every step is darker, so that it reads without color as well.
_HEAT = LinearSegmentedColormap.from_list("drop", ["#f7f4ef", "#fdc98c", "#d55e00", "#6b1f00"])
_PALE = 0.55  # Above this share of the scale a cell is dark enough for white digits.


def worst(layer: LayerSensitivity) -> float:
    """Return the largest drop of the metric under any perturbation; infinite where the model broke."""
    drops = [effect.metric_drop for effect in layer.effects]
    return max(math.inf if math.isnan(drop) else drop for drop in drops)


def _table(profile: SensitivityProfile, *, rows: int = 20, sort: str = "order") -> RenderableType:
    """Return the drop of the metric, a row a layer and a column a perturbation.

    Args:
        profile: what to show.
        rows: at most so many, the most sensitive ones; where some are left out it is said.
        sort: `"order"` of execution, `"parameters"`, or a perturbation, worst first.
    """
    layers, left_out = _chosen(profile, rows, sort)
    columns = [
        Column[LayerSensitivity]("Layer", lambda layer: layer.layer, is_number=False),
        Column[LayerSensitivity]("Type", lambda layer: layer.type, 9, is_number=False),
        Column[LayerSensitivity]("Weights", lambda layer: formats.count(layer.parameters), 8),
    ]
    columns += [
        Column[LayerSensitivity](name.replace("_", "\n"), _cell(profile, name), 1 + place)
        for place, name in enumerate(_mildest_last(profile.perturbations))
    ]
    columns = _in_order(columns, profile.perturbations)
    lines = [_headline(profile), _error_line(profile), *_agreement_lines(profile), _cost_line(profile), *left_out]
    lines += [f"Skipped: {_skipped_words(profile)}"] if profile.skipped else []
    title = f"How much worse {profile.metric} gets ({unit_of(profile.metric)}) when one layer is perturbed"
    return Group(FittedTable(title, layers, columns), Text(), *map(Text, [*lines, *profile.notes]))


def _chosen(profile: SensitivityProfile, rows: int, sort: str) -> tuple[list[LayerSensitivity], list[str]]:
    whole("rows", rows)
    choice("sort", sort, ("order", "parameters", *profile.perturbations))
    kept = _most_sensitive(profile, rows)
    if sort == "parameters":
        kept.sort(key=lambda layer: -layer.parameters)
    elif sort != "order":
        kept.sort(key=lambda layer: -_finite(layer.effect(sort).metric_drop))
    missing = len(profile.layers) - len(kept)
    return kept, [f"Left out: the {missing} least sensitive of {len(profile.layers)} layers."] if missing else []


def _most_sensitive(profile: SensitivityProfile, rows: int) -> list[LayerSensitivity]:
    """Return the layers with the largest drops, in order of execution."""
    scores = sorted(profile.layers, key=lambda layer: -worst(layer))[:rows]
    kept = {layer.layer for layer in scores}
    return [layer for layer in profile.layers if layer.layer in kept]


def _mildest_last(names: Sequence[str]) -> list[str]:
    """Return perturbations in the order in which their columns are kept on a narrow console."""
    first = [name for name in ("int4", "pruned_50", "removed", "int8") if name in names]
    return [*first, *(name for name in names if name not in first)]


def _in_order(columns: list[Column[LayerSensitivity]], names: Sequence[str]) -> list[Column[LayerSensitivity]]:
    by_header = {column.header: column for column in columns}
    return [*columns[:3], *(by_header[name.replace("_", "\n")] for name in names)]


def _cell(profile: SensitivityProfile, name: str) -> Callable[[LayerSensitivity], str]:
    def text(layer: LayerSensitivity) -> str:
        effect = layer.effect(name)
        return formats.metric_change(effect.metric_drop, profile.metric) + ("*" if effect.passed_over else "")

    return text


def _headline(profile: SensitivityProfile) -> str:
    layer = max(profile.layers, key=worst)
    effect = max(layer.effects, key=lambda one: _finite(one.metric_drop))
    value = formats.metric_value(profile.metric_value, profile.metric)
    if worst(layer) <= 0:
        return f"No perturbation of a single layer makes {profile.metric} worse than {value}."
    return (
        f"`{layer.layer}` matters most: {_perturbed_words(effect.perturbation)}, it makes {profile.metric} worse by "
        f"{drop_words(effect.metric_drop, profile.metric)}, from {value}. The most that any layer costs: "
        f"{_largest(profile)}."
    )


def _largest(profile: SensitivityProfile) -> str:
    found = []
    for name in profile.perturbations:
        drops = [_finite(layer.effect(name).metric_drop) for layer in profile.layers]
        found.append(f"{name} {formats.metric_change(max(drops), profile.metric)}")
    return ", ".join(found)


def _perturbed_words(name: str) -> str:
    perturbation = Perturbation.of(name)
    return {
        "quantized": f"in {perturbation.amount:g} bits",
        "pruned": f"with {perturbation.amount * 100:g}% of its weights pruned",
        "noise": f"with noise of {perturbation.amount * 100:g}%",
        "removed": "removed",
    }[perturbation.kind]


def drop_words(value: float, metric: str) -> str:
    """Return a drop with its unit."""
    text = formats.metric_change(value, metric)
    return f"{text} points" if formats.is_counted(metric) else text


def unit_of(metric: str) -> str:
    """Return the unit in which drops of a metric are shown."""
    return "points" if formats.is_counted(metric) else "as it counts"


def _error_line(profile: SensitivityProfile) -> str:
    errors = [one.metric_error for layer in profile.layers for one in layer.effects if one.metric_error is not None]
    star = " * passed over; other removed layers have kernels of zeros." if _any_passed(profile) else ""
    finite = [error for error in errors if math.isfinite(error)]
    if not finite:
        return f"Measured on {profile.examples:,} examples; {profile.metric} has no standard error.{star}"
    unit = "points" if formats.is_counted(profile.metric) else ""
    text = f"{formats.metric_change(max(finite), profile.metric)} {unit}".strip()
    return f"Measured on {profile.examples:,} examples; standard errors of the drops are at most {text}.{star}"


def _any_passed(profile: SensitivityProfile) -> bool:
    return any(effect.passed_over for layer in profile.layers for effect in layer.effects)


def _agreement_lines(profile: SensitivityProfile) -> list[str]:
    """Say how the estimates rank the layers: the mean of the rank correlations over the perturbations."""
    found = {}
    for estimate in ("first_order", "second_order", "taylor", "fisher"):
        values = [one.spearman for one in profile.agreements if one.estimate == estimate]
        values = [value for value in values if math.isfinite(value)]
        if values:
            found[estimate.replace("_", " ")] = sum(values) / len(values)
    if not found:
        return []
    words = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    return [f"Ranks of estimates against the measured change of the loss (Spearman, mean): {words}."]


def _cost_line(profile: SensitivityProfile) -> str:
    return (
        f"{profile.perturbed_runs} perturbed runs cost as much as {formats.number(profile.forward_passes, 2)} forward "
        f"passes; {formats.number(profile.seconds, 2)} s in all."
    )


def _skipped_words(profile: SensitivityProfile) -> str:
    by_reason: dict[str, list[str]] = {}
    for layer, reason in profile.skipped.items():
        by_reason.setdefault(reason, []).append(layer)
    return "; ".join(f"{_few(layers)} ({reason})" for reason, layers in by_reason.items()) + "."


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _finite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _figure(profile: SensitivityProfile) -> Figure:
    layers = _most_sensitive(profile, MOST_ROWS)
    drops = np.array([[effect.metric_drop for effect in layer.effects] for layer in layers])
    figure = Figure(figsize=(8.6, 1.5 + 0.27 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    finite = drops[np.isfinite(drops)]
    # Drops differ by orders of magnitude: the root lets the small ones be seen.
    norm = PowerNorm(0.45, vmin=0.0, vmax=max(float(finite.max(initial=0.0)), 1e-9), clip=True)
    axes.pcolormesh(np.ma.masked_invalid(drops), cmap=_HEAT, norm=norm, edgecolors="white", linewidth=1.0)
    for (row, column), drop in np.ndenumerate(drops):
        _write_cell(axes, column, row, drop, float(norm(drop)) if math.isfinite(drop) else 0.0, profile.metric)
    names = [f"{name.replace('_', ' ')}%" if "_" in name else name for name in profile.perturbations]
    axes.set_xticks(np.arange(len(names)) + 0.5, names, fontsize=9)
    axes.set_yticks(np.arange(len(layers)) + 0.5, [short_name(layer.layer) for layer in layers])
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(_below(profile, len(layers)), fontsize=9)
    axes.set_title(_title(profile), loc="left", fontsize=10, fontweight="bold")
    return figure


def _write_cell(axes: Axes, column: int, row: int, drop: float, share: float, metric: str) -> None:
    is_finite = math.isfinite(drop)
    color = INK if not is_finite else "white" if share > _PALE else "#1a1a1a"
    text = formats.metric_change(drop, metric)
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=color)


def _below(profile: SensitivityProfile, shown: int) -> str:
    what = f"How much worse {profile.metric} gets ({unit_of(profile.metric)})"
    text = f"{what}, one layer at a time; {profile.examples:,} examples"
    left = len(profile.layers) - shown
    return f"{text}\n{left} least sensitive of {len(profile.layers)} layers are not shown" if left else text


def _title(profile: SensitivityProfile) -> str:
    layer = max(profile.layers, key=worst)
    effect = max(layer.effects, key=lambda one: _finite(one.metric_drop))
    if worst(layer) <= 0:
        return f"No layer matters: none of the perturbations makes {profile.metric} worse"
    drop = drop_words(effect.metric_drop, profile.metric)
    return f"{short_name(layer.layer)} matters most: {_perturbed_words(effect.perturbation)}, it costs {drop}"


def short_name(name: str) -> str:
    """Return the end of a long path, which tells layers apart."""
    return name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}"


def _words(profile: SensitivityProfile) -> str:
    return _headline(profile)


SENSITIVITY = Look("sensitivity", _table, _figure, _words)
