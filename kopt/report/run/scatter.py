"""The metric-against-cost plot: scales, bubbles, the budget, the front and the names."""

import dataclasses
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from kopt.core.records.candidates import OptimizationResult
from kopt.report.parts import formats
from kopt.report.parts.labels import Box, place_labels
from kopt.report.parts.svg import INK, PAPER
from kopt.report.run.cost_axis import CostAxis, cost_axis
from kopt.report.run.rows import Row

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_LARGEST_RADIUS, _SMALLEST_RADIUS = 13.0, 4.5
# Points that a legend entry takes beside its text; points of an average character at size 9, in the widest of the
# usual interface fonts.
_LEGEND_MARK, _CHARACTER = 34.0, 5.6
_LOG_FROM = 10.0
# Budgets below the baseline that the plot shows; what lies deeper sits on the lower border with its value.
_DEPTH = 3.0
_LEAST_DROP = 0.005


@dataclasses.dataclass(frozen=True)
class _Point:
    row: Row
    x: float
    y: float
    radius: float
    color: str
    below: bool


def draw(axes: Axes, result: OptimizationResult, rows: Sequence[Row]) -> None:
    """Draw `rows`, all of them drawable, into empty axes."""
    low, high = metric_range(result, rows)
    axis = cost_axis(result.budget, rows)
    points = _points(rows, axis, low, high)
    _set_scales(axes, points, (low, high), result.budget.metric)
    axes.set_xlabel(axis.label)
    _draw_budget(axes, result, low)
    _draw_front(axes, points)
    for point in sorted(points, key=lambda point: -point.radius):
        _draw_point(axes, point, inside=point.row.is_baseline or point.row.candidate.within_budget)
    _draw_legend(axes, points)
    _write_names(axes, points, result.budget.metric)


def metric_range(result: OptimizationResult, rows: Sequence[Row]) -> tuple[float, float]:
    """Return the lower and upper end of the metric axis.

    It always shows the budget, so that candidates a hair apart look a hair apart, and never goes much deeper, so that a
    broken candidate does not squeeze the others together.
    """
    values = [row.metric for row in rows if row.metric is not None]
    drop = max(result.budget.max_drop, _LEAST_DROP)
    reference = next((row.metric for row in rows if row.is_baseline and row.metric is not None), max(values))
    floor = reference - _DEPTH * drop
    low = min([value for value in values if value >= floor] + [reference - drop])
    high = max(*values, reference)
    margin = 0.12 * (high - low)
    return low - margin, high + margin


def _points(rows: Sequence[Row], axis: CostAxis, low: float, high: float) -> list[_Point]:
    largest = max(row.size_bytes or 0 for row in rows) or 1
    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    bottom = low + 0.06 * (high - low)
    points = []
    for row in rows:
        metric, share = row.metric or 0.0, (row.size_bytes or 0) / largest
        points.append(
            _Point(
                row=row,
                x=axis.value(row) or 0.0,
                y=max(metric, bottom),
                # Not the area: beside a SavedModel of 300 KiB, files of 15 and 60 KiB would be equal specks.
                radius=max(_SMALLEST_RADIUS, _LARGEST_RADIUS * share**0.25),
                color=_COLORS[runtimes.index(row.runtime) % len(_COLORS)],
                below=metric < low,
            )
        )
    return points


def _set_scales(axes: Axes, points: Sequence[_Point], metric_ends: tuple[float, float], metric: str) -> None:
    fastest, slowest = min(point.x for point in points), max(point.x for point in points)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    if fastest > 0 and slowest / fastest > _LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(fastest / 1.6, slowest * 1.9)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, slowest * 1.22 or 1)
    axes.xaxis.set_major_formatter(plain)
    axes.set_ylim(*metric_ends)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if formats.is_counted(metric):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.4g}%"))
    axes.set_ylabel(f"{metric.capitalize()}  (up is better)")
    axes.grid(alpha=0.12, color=INK, linewidth=0.8)


def _draw_budget(axes: Axes, result: OptimizationResult, low: float) -> None:
    evaluation = result.baseline.evaluation
    reference = evaluation.metrics.get(result.budget.metric) if evaluation else None
    if reference is None or not math.isfinite(reference):
        return
    border = reference - result.budget.max_drop
    axes.axhline(border, color="#d55e00", linewidth=1.2, linestyle=(0, (5, 3)))
    axes.axhspan(low, border, color="#d55e00", alpha=0.05, linewidth=0)
    axes.annotate(
        f"budget: {formats.metric_value(border, result.budget.metric)}",
        (1.0, border),
        xycoords=("axes fraction", "data"),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color="#d55e00",
    )


def _draw_front(axes: Axes, points: Sequence[_Point]) -> None:
    front = sorted((point.x, point.y) for point in points if point.row.candidate.pareto and not point.row.is_baseline)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=INK, alpha=0.35, linewidth=1.2, zorder=1.5)


def _draw_point(axes: Axes, point: _Point, *, inside: bool) -> None:
    marker = "v" if point.below else ("D" if point.row.is_baseline else "o")
    # A diamond as wide as a circle of the same radius has 2 / pi of its area; it is drawn larger to weigh the same.
    diameter = 2 * point.radius * (math.sqrt(math.pi / 4) if marker == "D" else 1.0)
    axes.plot(
        [point.x],
        [point.y],
        marker,
        markersize=diameter,
        markerfacecolor=point.color if inside else PAPER,
        markeredgecolor=PAPER if inside else point.color,
        markeredgewidth=0.8 if inside else 1.8,
        alpha=0.88,
        clip_on=False,
    )
    if point.row.is_best:
        axes.plot(
            [point.x],
            [point.y],
            "o",
            markersize=diameter + 7,
            markerfacecolor="none",
            markeredgecolor=INK,
            clip_on=False,
        )


def _draw_legend(axes: Axes, points: Sequence[_Point]) -> None:
    colors = {point.row.runtime or "unknown": point.color for point in points}
    handles = [
        Line2D([], [], marker="o", linestyle="", color=color, markersize=8, label=runtime)
        for runtime, color in colors.items()
    ]
    figure = axes.get_figure()
    if isinstance(figure, Figure):
        widest = _LEGEND_MARK + _CHARACTER * max(map(len, colors))
        columns = max(1, int(72 * figure.get_figwidth() // widest))
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=9, handletextpad=0.2)


def _write_names(axes: Axes, points: Sequence[_Point], metric: str) -> None:
    figure = axes.get_figure()
    if not isinstance(figure, Figure):
        return
    figure.draw_without_rendering()  # so that the layout, and with it the place of every point, is final
    order = sorted(points, key=lambda point: (not point.row.is_best, not point.row.is_baseline))
    centers = [tuple(axes.transData.transform((point.x, point.y))) for point in order]
    names = [_name(point, metric) for point in order]
    sizes = [
        (_CHARACTER * len(name) * (1.08 if point.row.is_best else 1.0), 11.0)
        for name, point in zip(names, order, strict=True)
    ]
    frame = axes.get_window_extent()
    boxes = place_labels(
        centers, [point.radius + 3 for point in order], sizes, Box(frame.x0, frame.y0, frame.x1, frame.y1)
    )
    for point, name, center, box in zip(order, names, centers, boxes, strict=True):
        _write_name(axes, point, name, center, box)


def _write_name(axes: Axes, point: _Point, name: str, center: tuple[float, float], box: Box) -> None:
    offset = ((box.left + box.right) / 2 - center[0], (box.bottom + box.top) / 2 - center[1])
    distance = math.hypot(max(0.0, abs(offset[0]) - (box.right - box.left) / 2), max(0.0, abs(offset[1]) - 5.5))
    leader = {"arrowstyle": "-", "color": INK, "alpha": 0.35, "linewidth": 0.7, "shrinkB": point.radius}
    axes.annotate(
        name,
        (point.x, point.y),
        xytext=offset,
        textcoords="offset pixels",
        ha="center",
        va="center",
        fontsize=9,
        fontweight="bold" if point.row.is_best else "normal",
        arrowprops=leader if distance > point.radius + 12 else None,
        annotation_clip=False,
    )


def _name(point: _Point, metric: str) -> str:
    name = formats.shortened(point.row.name, 26)
    if point.row.is_baseline:
        name = f"{name} (as given)"
    return f"{name}: {formats.metric_value(point.row.metric, metric)}" if point.below else name
