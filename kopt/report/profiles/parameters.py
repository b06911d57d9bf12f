"""The parameters of a model as a table, by variable or by layer, and as a grid of histograms."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.records.profiles.parameter_layers import LayerParameters, PooledStatistics, layers_of
from kopt.core.records.profiles.parameters import ParameterProfile, ValueStatistics, VariableParameters
from kopt.core.settings import choice
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable, short_path
from kopt.report.parts.row_choice import chosen_rows, more_rows
from kopt.report.parts.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_BAR, _MEAN = "#56b4e9", "#d55e00"
_PANELS, _PANEL_COLUMNS = 12, 4
_NAME_LENGTH = 34
_SHOWN_ZEROS = 0.001


def _statistic(name: str) -> Callable[[Any], tuple[bool, float]]:
    """Return a key that sorts by a statistic, largest first, with rows that have none at the end."""

    def key(row: Any) -> tuple[bool, float]:
        value = math.nan if row.statistics is None else getattr(row.statistics, name)
        return math.isnan(value), -value

    return key


_ORDERS: dict[str, Callable[[Any], Any]] = {
    "parameters": lambda row: -row.parameters,
    "model": lambda row: 0,
    "name": lambda row: row.path,
    "bytes": lambda row: -row.size_bytes,
    "std": _statistic("std"),
    "l2": _statistic("l2"),
    "zeros": _statistic("zero_fraction"),
    "near_zeros": _statistic("near_zero_fraction"),
}
_VARIABLE_ORDERS: dict[str, Callable[[VariableParameters], Any]] = {
    **_ORDERS,
    "dead": lambda row: -(row.channels.dead if row.channels else -1),
    "rank": lambda row: row.effective_rank.value / row.effective_rank.full if row.effective_rank else math.inf,
    "kurtosis": _statistic("excess_kurtosis"),
}
_LAYER_ORDERS: dict[str, Callable[[LayerParameters], Any]] = {**_ORDERS, "dead": lambda row: -row.dead_channels}


def parameters_headline(profile: ParameterProfile) -> str:
    """Return the counts in one sentence."""
    sizes = ", ".join(f"{formats.size(size)} {dtype}" for dtype, size in profile.bytes_by_dtype.items())
    return (
        f"{profile.model} has {profile.parameters:,} parameters in {len(profile.variables)} variables, "
        f"{profile.trainable_parameters:,} of them trainable: {sizes or 'nothing'}."
    )


def _table(
    profile: ParameterProfile, rows: int | None = 20, sort: str = "parameters", by: str = "variable"
) -> RenderableType:
    choice("by", by, ("variable", "layer"))
    lines = [parameters_headline(profile), *_remarks(profile)]
    if by == "layer":
        layers, left_layers = chosen_rows(layers_of(profile), _LAYER_ORDERS, sort, rows)
        caption = [*_left_out("layers", left_layers), *lines]
        return PathTable("Parameters by layer", layers, _layer_columns(profile), caption=caption)
    variables, left = chosen_rows(profile.variables, _VARIABLE_ORDERS, sort, rows)
    caption = [*_left_out("variables", left), *lines]
    return PathTable("Parameters by variable", variables, _variable_columns(profile), caption=caption)


def _left_out(what: str, rows: Sequence[VariableParameters] | Sequence[LayerParameters]) -> list[str]:
    count = sum(row.parameters for row in rows)
    return more_rows(len(rows), f"{what} with {count:,} parameters")


def _remarks(profile: ParameterProfile) -> list[str]:
    lines = []
    if any(variable.reading == "sample" for variable in profile.variables):
        lines.append(
            f"~ estimated from {profile.settings.sample:,} entries a variable; the standard errors are in `.errors`, "
            f"the least and largest entry are those of the sample."
        )
    counted = sum(variable.reading == "counts" for variable in profile.variables)
    if counted:
        lines.append(f"Of {counted} variables nothing but the counts was asked for.")
    if profile.nonfinite:
        lines.append(f"{profile.nonfinite:,} entries are NaN or infinite: `kopt.profile.check(model)` says which.")
    shared = [variable for variable in profile.variables if variable.also_in]
    if shared:
        names = ", ".join(variable.path for variable in shared[:3])
        lines.append(f"Held by several layers and counted once: {names}{', ...' if len(shared) > 3 else ''}.")
    lines += [f"{variable.path}: without {variable.skipped}." for variable in profile.variables if variable.skipped]
    lines.append(f"Near zero: at most {profile.settings.near_zero:g} of the variable's root mean square.")
    return lines


def _variable_columns(profile: ParameterProfile) -> tuple[Column[VariableParameters], ...]:
    return (
        Column("Variable", lambda row: row.path, is_number=False),
        Column("Type", lambda row: row.layer_type, 8, is_number=False),
        Column("Shape", lambda row: formats.shape(row.shape), 7, is_number=False),
        Column("Dtype", lambda row: row.dtype, 10, is_number=False),
        Column("Parameters", lambda row: f"{row.parameters:,}"),
        Column("Share", lambda row: formats.share(row.parameters / max(profile.parameters, 1)), 5),
        Column("Mean", lambda row: _cell(row, lambda one: one.mean), 4),
        Column("Std", lambda row: _cell(row, lambda one: one.std), 1),
        Column("Min", lambda row: _cell(row, lambda one: one.minimum), 6),
        Column("Max", lambda row: _cell(row, lambda one: one.maximum), 6),
        Column("L2", lambda row: _cell(row, lambda one: one.l2), 9),
        Column("Zeros", lambda row: _cell(row, lambda one: one.zero_fraction, formats.share), 1),
        Column("Near 0", lambda row: _cell(row, lambda one: one.near_zero_fraction, formats.share), 3),
        Column("Dead\nchannels", lambda row: f"{row.channels.dead}/{row.channels.count}" if row.channels else "", 2),
        Column("Effective\nrank", _rank, 2),
    )


def _layer_columns(profile: ParameterProfile) -> tuple[Column[LayerParameters], ...]:
    return (
        Column("Layer", lambda row: row.path, is_number=False),
        Column("Type", lambda row: row.type, 3, is_number=False),
        Column("Parameters", lambda row: f"{row.parameters:,}"),
        Column("Share", lambda row: formats.share(row.parameters / max(profile.parameters, 1)), 3),
        Column("Trainable", lambda row: f"{row.trainable_parameters:,}", 4),
        Column("Size", lambda row: formats.size(row.size_bytes), 5),
        Column("Mean", lambda row: _cell(row, lambda one: one.mean), 7),
        Column("Std", lambda row: _cell(row, lambda one: one.std), 1),
        Column("Min", lambda row: _cell(row, lambda one: one.minimum), 8),
        Column("Max", lambda row: _cell(row, lambda one: one.maximum), 8),
        Column("L2", lambda row: _cell(row, lambda one: one.l2), 9),
        Column("Zeros", lambda row: _cell(row, lambda one: one.zero_fraction, formats.share), 1),
        Column("Near 0", lambda row: _cell(row, lambda one: one.near_zero_fraction, formats.share), 6),
        Column("Dead\nchannels", lambda row: f"{row.dead_channels}/{row.channels}" if row.channels else "", 2),
    )


def short_number(value: float) -> str:
    """Return three significant digits, in powers of ten where the number is tiny or huge."""
    return "NaN" if math.isnan(value) else f"{value:.3g}"


def _cell(
    row: VariableParameters | LayerParameters, read: Callable[[Any], float], text: Callable[[float], str] = short_number
) -> str:
    statistics: ValueStatistics | PooledStatistics | None = row.statistics
    if statistics is None:
        return formats.NOTHING
    sampled = row.sampled if isinstance(row, LayerParameters) else row.reading == "sample"
    return f"{'~' if sampled else ''}{text(read(statistics))}"


def _rank(row: VariableParameters) -> str:
    rank = row.effective_rank
    if rank is None:
        return ""
    return f"{'' if rank.error is None else '~'}{short_number(rank.value)}/{rank.full}"


def _figure(profile: ParameterProfile) -> Figure:
    found = [variable for variable in profile.variables if variable.statistics and variable.statistics.histogram.counts]
    shown, left = chosen_rows(found, _VARIABLE_ORDERS, "parameters", _PANELS)
    columns = min(_PANEL_COLUMNS, max(len(shown), 1))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(2.15 * columns if columns > 2 else 4.3 * columns, 0.9 + 1.75 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for place, panel in enumerate(panels):
        if place < len(shown):
            _panel(panel, shown[place])
        else:
            panel.set_axis_off()
    rest = f"\n{len(left)} smaller variables are not shown" if left else ""
    figure.suptitle(f"{_title(profile)}{rest}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    figure.supxlabel("Value (line: mean); counts on a logarithmic axis from 1 up", fontsize=8)
    return figure


def _panel(axes: Axes, variable: VariableParameters) -> None:
    assert variable.statistics is not None
    statistics = variable.statistics
    edges, counts = statistics.histogram.edges, statistics.histogram.counts
    axes.stairs(counts, edges, fill=True, color=_BAR)
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2.0 * max(counts))
    axes.axvline(statistics.mean, color=_MEAN, linewidth=1.0)
    about = "~" if variable.reading == "sample" else ""
    lines = [short_path(variable.path, _NAME_LENGTH)]
    lines.append(f"{formats.count(variable.parameters)}, std {about}{short_number(statistics.std)}")
    findings = []
    if statistics.zero_fraction >= _SHOWN_ZEROS:
        findings.append(f"{about}{formats.share(statistics.zero_fraction)} zero")
    if variable.channels and variable.channels.dead:
        findings.append(f"{variable.channels.dead} of {variable.channels.count} channels dead")
    if findings:
        lines.append(", ".join(findings))
    axes.set_title("\n".join(lines), loc="left", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.tick_params(axis="y", which="both", left=False, labelleft=False)
    axes.locator_params(axis="x", nbins=3)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.15, color=INK)


def _title(profile: ParameterProfile) -> str:
    if not profile.variables:
        return f"{profile.model} has no parameters"
    largest = max(profile.variables, key=lambda variable: variable.parameters)
    part = formats.share(largest.parameters / max(profile.parameters, 1))
    findings = [
        f"{short_path(largest.path, _NAME_LENGTH)} holds {part} of {formats.count(profile.parameters)} parameters"
    ]
    dead = sum(variable.channels.dead for variable in profile.variables if variable.channels)
    if dead:
        findings.append(f"{dead:,} output channel{'s are' if dead > 1 else ' is'} dead")
    if profile.nonfinite:
        findings.insert(0, f"{profile.nonfinite:,} entries are NaN or infinite")
    return "; ".join(findings)


def _words(profile: ParameterProfile) -> str:
    return f"{parameters_headline(profile)} {_title(profile)}."


PARAMETERS = Look("parameters", _table, _figure, _words)
