"""What changed between two sets of parameters, as tables and bars."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.records.profiles.parameter_changes import (
    ParameterComparison,
    ShapeDifference,
    StatisticsChange,
    StatisticsComparison,
    VariableChange,
)
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable, short_path
from kopt.report.parts.row_choice import chosen_rows, more_rows
from kopt.report.parts.svg import INK
from kopt.report.profiles.parameters import short_number

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_CHANGE, _PART = "#d55e00", "#56b4e9"
_BARS = 15
_NAME_LENGTH = 46
_LISTED = 5


def _finite_first(value: float) -> tuple[bool, float]:
    # What was all zero before has an infinite relative change, which would hide all others.
    return not math.isfinite(value), -value


_VALUE_ORDERS: dict[str, Callable[[VariableChange], Any]] = {
    "relative": lambda row: _finite_first(row.relative_change),
    "model": lambda row: 0,
    "name": lambda row: row.path,
    "norm": lambda row: -row.change_norm,
    "max": lambda row: -row.max_abs,
    "changed": lambda row: -row.fraction_changed,
    "cosine": lambda row: math.inf if row.cosine is None else row.cosine,
    "parameters": lambda row: -row.parameters,
}
_STATISTICS_ORDERS: dict[str, Callable[[StatisticsChange], Any]] = {
    "shift": lambda row: _finite_first(row.percentile_shift),
    "model": lambda row: 0,
    "name": lambda row: row.path,
    "mean": lambda row: _finite_first(abs(row.mean_shift)),
    "std": lambda row: -_distance(row.std_ratio),
    "l2": lambda row: -_distance(row.l2_ratio),
    "zeros": lambda row: -abs(row.zero_fraction_b - row.zero_fraction_a),
    "parameters": lambda row: -row.parameters,
}


def _distance(ratio: float) -> float:
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf


def changes_headline(comparison: ParameterComparison) -> str:
    """Return what changed in one sentence."""
    if comparison.identical:
        return f"{comparison.b} has exactly the parameters of {comparison.a}."
    return (
        f"From {comparison.a} to {comparison.b}, {len(comparison.changed)} of {len(comparison.changes)} variables and "
        f"{formats.share(comparison.fraction_changed)} of {comparison.parameters:,} parameters changed, by "
        f"{formats.share(comparison.relative_change)} of their norm."
    )


def _value_table(comparison: ParameterComparison, rows: int | None = 20, sort: str = "relative") -> RenderableType:
    shown, left = chosen_rows(comparison.changes, _VALUE_ORDERS, sort, rows)
    columns = (
        Column[VariableChange]("Variable", lambda row: row.path, is_number=False),
        Column[VariableChange]("Parameters", lambda row: f"{row.parameters:,}", 3),
        Column[VariableChange]("Dtype", _dtypes, 6, is_number=False),
        Column[VariableChange]("Norm", lambda row: short_number(row.norm_a), 4),
        Column[VariableChange]("Change", lambda row: short_number(row.change_norm), 5),
        Column[VariableChange]("Relative", lambda row: _percent(row.relative_change)),
        Column[VariableChange]("Cosine", lambda row: "" if row.cosine is None else f"{row.cosine:.4f}", 1),
        Column[VariableChange]("Largest", lambda row: short_number(row.max_abs), 2),
        Column[VariableChange]("Changed", lambda row: formats.share(row.fraction_changed), 1),
    )
    caption = [*more_rows(len(left), "variables"), changes_headline(comparison), *_structure(comparison)]
    nonfinite = [row.path for row in comparison.changes if row.nonfinite_a or row.nonfinite_b]
    if nonfinite:
        caption.append(f"With NaN or infinite entries, which are left out of the norms: {_listed(nonfinite)}.")
    return PathTable(f"{comparison.b} against {comparison.a}", shown, columns, caption=caption)


def _dtypes(row: VariableChange) -> str:
    return row.dtype_a if row.dtype_a == row.dtype_b else f"{row.dtype_a} > {row.dtype_b}"


def _structure(comparison: ParameterComparison | StatisticsComparison) -> list[str]:
    lines = []
    if comparison.matched_by == "order":
        lines.append("The names differ: variables were matched by their order, in which all shapes agree.")
    if comparison.reshaped:
        texts = [_shapes(one) for one in comparison.reshaped]
        lines.append(f"Of another shape, so not compared: {_listed(texts)}.")
    if comparison.only_in_a:
        lines.append(f"Only in {comparison.a}: {_listed(comparison.only_in_a)}.")
    if comparison.only_in_b:
        lines.append(f"Only in {comparison.b}: {_listed(comparison.only_in_b)}.")
    return lines


def _shapes(one: ShapeDifference) -> str:
    return f"{one.path} {formats.shape(one.shape_a)} > {formats.shape(one.shape_b)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


def _percent(ratio: float) -> str:
    return "new" if math.isinf(ratio) else formats.share(ratio)


def _value_figure(comparison: ParameterComparison) -> Figure:
    ordered, _ = chosen_rows(comparison.changed, _VALUE_ORDERS, "relative", None)
    finite = [row for row in ordered if math.isfinite(row.relative_change)]
    shown = finite[:_BARS]
    bars = [(row.path, 100 * row.relative_change, formats.share(row.relative_change)) for row in shown]
    title = "No parameter changed" if comparison.identical or not ordered else changes_headline(comparison)
    if shown:
        name = short_path(shown[0].path, _NAME_LENGTH)
        title = f"{name} changed most, by {formats.share(shown[0].relative_change)} of its norm"
    notes = [f"{len(finite) - len(shown)} changed less"] if len(finite) > len(shown) else []
    notes += [f"{len(ordered) - len(finite)} were all zero before"] if len(ordered) > len(finite) else []
    same = len(comparison.changes) - len(ordered)
    notes += [f"{same} did not change"] if same else []
    label = "Norm of the change, in percent of the norm before"
    return _bars(bars, title, f"{label} ({', '.join(notes)})" if notes else label)


def _bars(bars: Sequence[tuple[str, float, str]], title: str, label: str) -> Figure:
    figure = Figure(figsize=(8.6, 1.4 + 0.3 * max(len(bars), 1)), layout="constrained")
    axes = figure.add_subplot()
    longest = max((length for _, length, _ in bars), default=1.0)
    for row, (_, length, text) in enumerate(bars):
        axes.barh(row, length, color=_CHANGE if row == 0 else _PART, height=0.66)
        axes.annotate(text, (length, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [short_path(name, _NAME_LENGTH) for name, _, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.14)
    axes.set_xlabel(label)
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.15, color=INK)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    return figure


def _value_words(comparison: ParameterComparison) -> str:
    shown, _ = chosen_rows(comparison.changed, _VALUE_ORDERS, "relative", 5)
    parts = ", ".join(f"{row.path} {_percent(row.relative_change)}" for row in shown)
    lines = [changes_headline(comparison), f"Most: {parts}." if parts else "", *_structure(comparison)]
    return " ".join(filter(None, lines))


def statistics_headline(comparison: StatisticsComparison) -> str:
    """Return what changed in one sentence."""
    if not comparison.changes:
        return f"No variable has statistics both in {comparison.a} and in {comparison.b}."
    ordered, _ = chosen_rows(comparison.changes, _STATISTICS_ORDERS, "shift", None)
    moved = [row for row in ordered if row.percentile_shift]
    if not moved:
        return f"The percentiles of all {len(ordered)} variables of {comparison.b} are those of {comparison.a}."
    return (
        f"From {comparison.a} to {comparison.b}, the percentiles of {len(moved)} of {len(ordered)} variables changed; "
        f"{_farthest(moved[0])}."
    )


def _farthest(row: StatisticsChange) -> str:
    if math.isinf(row.percentile_shift):
        return f"{short_path(row.path, _NAME_LENGTH)} was all zero"
    shift = f"{short_number(row.percentile_shift)} standard deviations"
    return f"{short_path(row.path, _NAME_LENGTH)} moved most, percentile {row.percentile} by {shift}"


def _statistics_table(comparison: StatisticsComparison, rows: int | None = 20, sort: str = "shift") -> RenderableType:
    shown, left = chosen_rows(comparison.changes, _STATISTICS_ORDERS, sort, rows)
    columns = (
        Column[StatisticsChange]("Variable", lambda row: row.path, is_number=False),
        Column[StatisticsChange]("Parameters", lambda row: f"{row.parameters:,}", 5),
        Column[StatisticsChange]("Percentile\nshift", lambda row: short_number(row.percentile_shift)),
        Column[StatisticsChange]("at", lambda row: row.percentile, 4),
        Column[StatisticsChange]("Mean\nshift", lambda row: short_number(row.mean_shift), 1),
        Column[StatisticsChange]("±", lambda row: short_number(row.mean_error) if row.mean_error else "", 6),
        Column[StatisticsChange]("Std", lambda row: _times(row.std_ratio), 2),
        Column[StatisticsChange]("L2", lambda row: _times(row.l2_ratio), 3),
        Column[StatisticsChange](
            "Zeros", lambda row: _pair(row.zero_fraction_a, row.zero_fraction_b, formats.share), 2
        ),
        Column[StatisticsChange]("Dead", lambda row: _pair(row.dead_a, row.dead_b, str), 3),
        Column[StatisticsChange]("Rank", lambda row: _pair(row.rank_a, row.rank_b, short_number), 4),
    )
    caption = [*more_rows(len(left), "variables"), statistics_headline(comparison), *_structure(comparison)]
    if comparison.without_statistics:
        caption.append(f"Without statistics on one side: {_listed(comparison.without_statistics)}.")
    caption.append(f"Shifts are in standard deviations of {comparison.a}.")
    return PathTable(f"{comparison.b} against {comparison.a}", shown, columns, caption=caption)


def _zeros(row: StatisticsChange) -> str:
    return _pair(row.zero_fraction_a, row.zero_fraction_b, formats.share)


def _times(ratio: float) -> str:
    return "new" if math.isinf(ratio) else formats.times(ratio)


def _pair(a: Any, b: Any, text: Callable[[Any], str]) -> str:
    if a is None or b is None:
        return ""
    return text(a) if text(a) == text(b) else f"{text(a)} > {text(b)}"


def _statistics_figure(comparison: StatisticsComparison) -> Figure:
    ordered, _ = chosen_rows(comparison.changes, _STATISTICS_ORDERS, "shift", None)
    moved = [row for row in ordered if row.percentile_shift]
    finite = [row for row in moved if math.isfinite(row.percentile_shift)]
    shown = finite[:_BARS]
    bars = [
        (row.path, row.percentile_shift, f"{short_number(row.percentile_shift)} at {row.percentile}") for row in shown
    ]
    title = _farthest(moved[0]) if moved else "No distribution moved"
    notes = [f"{len(finite) - len(shown)} moved less"] if len(finite) > len(shown) else []
    notes += [f"{len(moved) - len(finite)} were all zero before"] if len(moved) > len(finite) else []
    label = "Largest shift of a percentile, in standard deviations"
    return _bars(bars, title, f"{label} ({', '.join(notes)})" if notes else label)


def _statistics_words(comparison: StatisticsComparison) -> str:
    return " ".join([statistics_headline(comparison), *_structure(comparison)])


CHANGES = Look("parameter-changes", _value_table, _value_figure, _value_words)
STATISTICS_CHANGES = Look("parameter-statistics-changes", _statistics_table, _statistics_figure, _statistics_words)
