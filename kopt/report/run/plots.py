"""Records as plots: one self-contained SVG element each, equal bytes for equal records."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.candidates import OptimizationResult
from kopt.report.parts import formats
from kopt.report.parts.bars import draw_bars
from kopt.report.parts.svg import drawing, to_svg
from kopt.report.run import scatter
from kopt.report.run.cost_axis import cost_axis
from kopt.report.run.rows import Row, baseline_row, candidate_rows

_PLAIN, _CHOSEN, _GIVEN = "#56b4e9", "#009e73", "#8a8f98"


def pareto_plot(result: OptimizationResult) -> str:
    """Return the guarded metric against the cost that is to improve, latency or another, as SVG.

    The larger a bubble, the larger the file; its color is the runtime; hollow bubbles are outside the budget, whose
    border is the dashed line. The Pareto front is connected. Candidates that failed or lack a number are absent.

    Raises:
        InputError: neither the baseline nor any candidate has a metric, that cost and a size.

    Example:
        >>> kopt.report.pareto_plot(result)[:4]
        '<svg'
    """
    axis = cost_axis(result.budget)
    shown = (row for row in (baseline_row(result), *candidate_rows(result)) if row.drawable)
    rows = [row for row in shown if axis.value(row) is not None]
    if not rows:
        raise InputError(f"No candidate has a metric, a {axis.name} and a size: there is nothing to plot.")
    with drawing():
        figure = Figure(figsize=(8.6, 5.0), layout="constrained")
        axes = figure.add_subplot()
        scatter.draw(axes, result, rows)
        return to_svg(figure, "pareto", _pareto_words(result, rows))


def bars(result: OptimizationResult, what: str) -> str:
    """Return the baseline and the candidates as horizontal bars, smallest first, as SVG.

    Args:
        result: what to draw; candidates without the number are absent.
        what: `"size"` (KiB on disk) or `"latency"` (median milliseconds a call).

    Raises:
        ConfigError: `what` is something else.
        InputError: no candidate has the number.

    Example:
        >>> kopt.report.bars(result, "size")[:4]
        '<svg'
    """
    if what not in ("size", "latency"):
        raise ConfigError(f"`what` must be 'size' or 'latency'. Received: {what!r}.")
    values = sorted(_bar_values(result, what), key=lambda pair: pair[1])
    if not values:
        raise InputError(f"No candidate has a {what}: there is nothing to plot.")
    texts = [formats.kibibytes(round(value)) if what == "size" else formats.number(value) for _, value in values]
    rows, title = [row for row, _ in values], _bar_title([row for row, _ in values], what)
    with drawing():
        figure = Figure(figsize=(5.2, 0.7 + 0.34 * len(values)), layout="constrained")
        axes = figure.add_subplot()
        draw_bars(
            axes,
            [_bar_name(row, what) for row in rows],
            [value for _, value in values],
            texts,
            list(map(_bar_color, rows)),
        )
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        words = ", ".join(f"{row.name} {text}" for row, text in zip(rows, texts, strict=True))
        return to_svg(figure, f"bars-{what}", f"{title}: {words}.")


def _bar_values(result: OptimizationResult, what: str) -> list[tuple[Row, float]]:
    pairs = []
    for row in (baseline_row(result), *candidate_rows(result)):
        value = row.size_bytes if what == "size" else row.latency_ms
        if value is not None and not row.failed:
            pairs.append((row, float(value)))
    return pairs


def _bar_name(row: Row, what: str) -> str:
    without_file = what == "size" and row.is_baseline and row.candidate.artifact is None
    return f"{row.name}: float32 weights" if without_file else row.name


def _bar_color(row: Row) -> str:
    if row.is_best:
        return _CHOSEN
    return _GIVEN if row.is_baseline else _PLAIN


def _bar_title(rows: Sequence[Row], what: str) -> str:
    if what == "size":
        return "Size on disk, KiB"
    batches = sorted({row.latency.batch_size for row in rows if row.latency})
    return f"Latency, ms a call at batch {' or '.join(map(str, batches))}"


def _pareto_words(result: OptimizationResult, rows: Sequence[Row]) -> str:
    metric, axis = result.budget.metric, cost_axis(result.budget)
    points = "; ".join(
        f"{row.name}: {formats.metric_value(row.metric, metric)} at {axis.text(axis.value(row) or 0.0)}, "
        f"{formats.kibibytes(row.size_bytes)} KiB"
        for row in rows
    )
    return f"{metric.capitalize()} against {axis.name}. {points}."
