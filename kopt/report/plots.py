"""Records as plots: one self-contained SVG element each, equal bytes for equal records."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kopt.core.errors import ConfigError, InputError
from kopt.core.records import LayerCost, ModelProfile, OptimizationResult
from kopt.report import formats, scatter
from kopt.report.rows import Row, baseline_row, candidate_rows
from kopt.report.svg import drawing, to_svg

_MOST_LAYERS = 20
_PLAIN, _CHOSEN, _GIVEN = "#56b4e9", "#009e73", "#8a8f98"
_PARAMETERS, _MACS = "#0072b2", "#e69f00"


def pareto_plot(result: OptimizationResult) -> str:
    """Return the guarded metric against latency as SVG.

    The larger a bubble, the larger the file; its color is the runtime; hollow bubbles are outside the budget, whose
    border is the dashed line. The Pareto front is connected. Candidates that failed or lack a number are absent.

    Raises:
        InputError: neither the baseline nor any candidate has a metric, a latency and a size.
    """
    rows = [row for row in (baseline_row(result), *candidate_rows(result)) if row.drawable]
    if not rows:
        raise InputError("No candidate has a metric, a latency and a size: there is nothing to plot.")
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
        _draw_bars(
            axes,
            [_bar_name(row, what) for row in rows],
            [value for _, value in values],
            texts,
            list(map(_bar_color, rows)),
        )
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        words = ", ".join(f"{row.name} {text}" for row, text in zip(rows, texts, strict=True))
        return to_svg(figure, f"bars-{what}", f"{title}: {words}.")


def layer_bars(profile: ModelProfile) -> str:
    """Return parameters and multiply-accumulates of the layers as SVG; of more than 20 layers, the 20 largest.

    Raises:
        InputError: no layer has parameters or multiply-accumulates.
    """
    layers = _largest(profile)
    if not layers:
        raise InputError(
            f"No layer of {profile.model} has parameters or multiply-accumulates: there is nothing to plot."
        )
    names = [layer.name for layer in layers]
    with drawing():
        figure = Figure(figsize=(8.6, 0.8 + 0.27 * len(layers)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        parameters = [layer.parameters for layer in layers]
        _draw_bars(left, names, parameters, [formats.count(value) for value in parameters], [_PARAMETERS] * len(names))
        macs = [layer.macs or 0 for layer in layers]
        _draw_bars(right, names, macs, [formats.count(layer.macs) for layer in layers], [_MACS] * len(names))
        left.set_title("Parameters", loc="left", fontsize=10, fontweight="bold")
        right.set_title("Multiply-accumulates an example", loc="left", fontsize=10, fontweight="bold")
        right.tick_params(left=False, labelleft=False)
        return to_svg(figure, "layers", _layer_words(profile, layers))


def hidden_layers(profile: ModelProfile) -> int:
    """Return how many layers with a cost `layer_bars` leaves out."""
    return max(0, sum(map(_has_cost, profile.layers)) - _MOST_LAYERS)


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


def _draw_bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], texts: Sequence[str], colors: Sequence[str]
) -> None:
    places = range(len(names))
    axes.barh(places, values, color=colors, height=0.68)
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(text, (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(places, [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max(*values, 0) * 1.22 or 1)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[["bottom"]].set_visible(False)
    axes.spines["left"].set_alpha(0.4)


def _short(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _has_cost(layer: LayerCost) -> bool:
    return bool(layer.parameters or layer.macs)


def _largest(profile: ModelProfile) -> list[LayerCost]:
    parameters, macs = max(profile.parameters, 1), max(profile.macs, 1)
    costly = [layer for layer in profile.layers if _has_cost(layer)]
    ranked = sorted(costly, key=lambda layer: -max(layer.parameters / parameters, (layer.macs or 0) / macs))
    kept = {id(layer) for layer in ranked[:_MOST_LAYERS]}
    return [layer for layer in costly if id(layer) in kept]


def _pareto_words(result: OptimizationResult, rows: Sequence[Row]) -> str:
    metric = result.budget.metric
    points = "; ".join(
        f"{row.name}: {formats.metric_value(row.metric, metric)} at {formats.number(row.latency_ms)} ms, "
        f"{formats.kibibytes(row.size_bytes)} KiB"
        for row in rows
    )
    return f"{metric.capitalize()} against latency. {points}."


def _layer_words(profile: ModelProfile, layers: Sequence[LayerCost]) -> str:
    costs = "; ".join(
        f"{layer.name}: {formats.count(layer.parameters)} parameters, {formats.count(layer.macs)} multiply-accumulates"
        for layer in layers
    )
    return f"Cost of the layers of {profile.model}. {costs}."
