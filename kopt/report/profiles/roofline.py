"""The layers of a model under the roof of a machine: operations a byte against operations a second."""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import RenderableType

from kopt.core.records.profiles.cost import LayerIntensity, RooflineProfile
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_COLORS = {"compute": "#0072b2", "memory": "#d55e00"}
_MOST_NAMES = 6


def _table(roofline: RooflineProfile, rows: int | None = 20) -> RenderableType:
    """Return the layers, those that take longest first."""
    ordered = sorted(roofline.layers, key=lambda layer: -layer.least_ms)
    shown, caption = first_rows(ordered, rows, "layers")
    total = roofline.least_ms or 1.0
    columns = (
        Column[LayerIntensity]("Layer", lambda layer: layer.name, is_number=False),
        Column[LayerIntensity]("Type", lambda layer: layer.type, 2, is_number=False),
        Column[LayerIntensity]("FLOPs", lambda layer: formats.count(layer.flops), 3),
        Column[LayerIntensity]("Moved", lambda layer: formats.size(layer.moved_bytes), 4),
        Column[LayerIntensity]("FLOPs\na byte", lambda layer: formats.number(layer.intensity)),
        Column[LayerIntensity]("Bound", lambda layer: layer.bound, is_number=False),
        Column[LayerIntensity]("Least ms", lambda layer: formats.number(layer.least_ms)),
        Column[LayerIntensity]("", lambda layer: formats.share(layer.least_ms / total), 1),
    )
    caption += [_summary(roofline), f"{_peaks(roofline)}: {roofline.peaks.method}."]
    caption += [f"Left out: {name}. {reason}" for name, reason in list(roofline.left_out.items())[:5]]
    if len(roofline.left_out) > 5:
        caption.append(f"Left out: {len(roofline.left_out) - 5} more layers of unknown cost.")
    return PathTable(f"Roofline of {roofline.model}, batch {roofline.batch_size}", shown, columns, caption=caption)


def _summary(roofline: RooflineProfile) -> str:
    return (
        f"{formats.share(roofline.share('memory'))} of the least time of {formats.number(roofline.least_ms)} ms is in "
        f"memory-bound layers: fewer bytes help them (smaller types, fused layers, larger batches), not fewer "
        f"operations."
    )


def _peaks(roofline: RooflineProfile) -> str:
    peaks = roofline.peaks
    return (
        f"Peaks of {peaks.device} in {peaks.dtype}: {formats.number(peaks.flops_per_s / 1e9)} GFLOP/s, "
        f"{formats.number(peaks.bytes_per_s / 1e9)} GB/s; the ridge is at {formats.number(peaks.ridge)} FLOPs a byte"
    )


def _figure(roofline: RooflineProfile) -> Figure:
    peaks = roofline.peaks
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    axes = figure.add_subplot()
    # A logarithmic scale has no place for layers that only move numbers.
    layers = [layer for layer in roofline.layers if layer.flops and layer.moved_bytes]
    intensities = [layer.intensity for layer in layers] or [peaks.ridge]
    low, high = min(*intensities, peaks.ridge) / 3, max(*intensities, peaks.ridge) * 3
    roof = [low * peaks.bytes_per_s / 1e9, peaks.flops_per_s / 1e9, peaks.flops_per_s / 1e9]
    axes.plot([low, peaks.ridge, high], roof, color=INK, linewidth=1.6)
    longest = max((layer.least_ms for layer in layers), default=1.0)
    named = sorted(layers, key=lambda layer: -layer.least_ms)[:_MOST_NAMES]
    for layer in layers:
        reached = layer.flops / (layer.least_ms / 1e3) / 1e9
        size = 20 + 260 * layer.least_ms / longest
        axes.scatter([layer.intensity], [reached], s=size, color=_COLORS[layer.bound], alpha=0.55, linewidths=0)
    for place, layer in enumerate(named):
        reached = layer.flops / (layer.least_ms / 1e3) / 1e9
        shift = (6, -12 - 11 * (place % 3))
        axes.annotate(layer.name, (layer.intensity, reached), xytext=shift, textcoords="offset points", fontsize=8)
    for bound, color in _COLORS.items():
        axes.scatter([], [], s=60, color=color, alpha=0.55, label=f"{bound}-bound")
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        # The default formatter writes mathematical notation, which `drawing` leaves unread.
        axis.set_major_formatter(FuncFormatter(lambda value, _: formats.number(value, 1)))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Floating-point operations a byte moved")
    axes.set_ylabel("Attainable GFLOP/s")
    share = formats.share(roofline.share("memory"))
    axes.set_title(f"{share} of the least time is memory-bound", loc="left", fontsize=10, fontweight="bold")
    axes.grid(alpha=0.15, color=INK)
    axes.legend(loc="lower right")
    return figure


def _words(roofline: RooflineProfile) -> str:
    return f"Roofline of {roofline.model} at batch {roofline.batch_size}. {_summary(roofline)} {_peaks(roofline)}."


ROOFLINE = Look("roofline", _table, _figure, _words)
