"""Gradients of a model: a table by variable, and how they flow from the output to the input."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.profiles.gradients import GradientProfile, VariableGradient, Verdict
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable, short_path
from kopt.report.parts.row_choice import chosen_rows, more_rows
from kopt.report.parts.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_FINE, _BAD, _WEIGHT = "#0072b2", "#d55e00", "#8a8f98"
_ORDERS: dict[str, Callable[[VariableGradient], float]] = {
    "order": lambda one: 0,
    "norm": lambda one: -one.norm,
    "rms": lambda one: -one.rms,
    "ratio": lambda one: -(one.ratio or 0.0),
    "noise": lambda one: -(one.noise_scale or 0.0),
    "zeros": lambda one: -one.zero_fraction,
}
_MOST_NAMES, _NAME_LENGTH = 40, 34


def _table(profile: GradientProfile, rows: int | None = 20, sort: str = "order") -> RenderableType:
    shown, others = chosen_rows(profile.variables, _ORDERS, sort, rows)
    kinds = {verdict.where: verdict.kind for verdict in reversed(profile.verdicts)}
    columns = (
        Column[VariableGradient]("Variable", lambda one: one.path, is_number=False),
        Column[VariableGradient]("Norm", lambda one: _scientific(one.norm)),
        Column[VariableGradient]("Root mean\nsquare", lambda one: _scientific(one.rms), 3),
        Column[VariableGradient]("To\nweight", lambda one: _scientific(one.ratio), 1),
        Column[VariableGradient]("Zeros", lambda one: formats.share(one.zero_fraction), 5),
        Column[VariableGradient]("Cosine", lambda one: _two(one.cosine), 4),
        Column[VariableGradient]("Noise\nscale", lambda one: formats.number(one.noise_scale, 2), 2),
        Column[VariableGradient]("", lambda one: kinds.get(one.path, ""), is_number=False),
    )
    table = PathTable(f"Gradients of {profile.model}", shown, columns)
    lines = more_rows(len(others), "variables")
    lines += [_summary(profile), *(f"{one.kind}: {one.where}. {one.words}" for one in _told(profile.verdicts))]
    return Group(table, *map(Text, [*lines, *profile.notes]))


def _told(verdicts: Sequence[Verdict], most: int = 8) -> list[Verdict]:
    """Return verdicts to spell out: all but what is frozen on purpose, few of each kind."""
    told: list[Verdict] = []
    for verdict in verdicts:
        same = sum(one.kind == verdict.kind for one in told)
        if verdict.kind != "frozen" and same < 3 and len(told) < most:
            told.append(verdict)
    return told


def _summary(profile: GradientProfile) -> str:
    noise = (
        "the noise drowns it: take more batches"
        if profile.noise_scale is None
        else f"noise scale {formats.number(profile.noise_scale, 2)} examples"
    )
    return (
        f"{profile.batches} batches of {profile.batch_examples}: loss {formats.number(profile.loss)}, norm of the "
        f"gradient {_scientific(profile.norm)}, {noise}. {_finding(profile)}."
    )


def _finding(profile: GradientProfile) -> str:
    counts: dict[str, int] = {}
    for verdict in profile.verdicts:
        counts[verdict.kind] = counts.get(verdict.kind, 0) + 1
    return ", ".join(f"{kind}: {count}" for kind, count in counts.items()) if counts else "Nothing is wrong with them"


def _figure(profile: GradientProfile) -> Figure:
    variables = [one for one in profile.variables if len(one.shape) > 1 and one.connected] or list(profile.variables)
    places, bad = range(len(variables)), {verdict.where for verdict in profile.verdicts}
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    least = min((one.rms for one in variables if one.rms), default=1e-12)
    axes.plot(places, [one.rms or least for one in variables], color=_FINE, linewidth=1.2, zorder=1)
    for place, one in zip(places, variables, strict=True):
        color, marker = (_BAD, "v") if one.path in bad else (_FINE, "o")
        axes.plot([place], [one.rms or least], marker, color=color, markersize=6, zorder=2)
    ratios = [(place, one.ratio) for place, one in zip(places, variables, strict=True) if one.ratio]
    axes.plot(*zip(*ratios, strict=True), color=_WEIGHT, linestyle=":", linewidth=1.4) if ratios else None
    axes.plot([], [], "o-", color=_FINE, label="root mean square of the gradient")
    axes.plot([], [], "v", color=_BAD, label="with a verdict")
    axes.plot([], [], ":", color=_WEIGHT, label="norm over that of the weight")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    every = max(1, -(-len(variables) // _MOST_NAMES))
    names = [short_path(one.path, _NAME_LENGTH) for one in variables]
    axes.set_xticks(list(places)[::every], names[::every], rotation=60, ha="right")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("Gradient")
    axes.grid(axis="y", alpha=0.15, color=INK)
    axes.set_title(
        f"Gradient flow, input to output: {_finding(profile).lower()}", loc="left", fontsize=10, fontweight="bold"
    )
    axes.legend(loc="best", fontsize=9)
    return figure


def _words(profile: GradientProfile) -> str:
    return f"Gradients of {profile.model} by variable. {_summary(profile)}"


def _scientific(value: float | None) -> str:
    return formats.NOTHING if value is None else f"{value:.1e}"


def _two(value: float | None) -> str:
    return formats.NOTHING if value is None else f"{value:.2f}"


GRADIENTS = Look("gradients", _table, _figure, _words)
