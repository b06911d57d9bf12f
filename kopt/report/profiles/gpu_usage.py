"""The counters of GPUs as a table and as curves over time."""

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.records.profiles.runtime import GpuCounters, GpuUsage
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.svg import INK
from kopt.report.parts.time_parts import BLUE, GREEN, ORANGE, VERMILION


def _table(usage: GpuUsage) -> RenderableType:
    columns = (
        Column[GpuCounters]("GPU", lambda gpu: f"{gpu.index} {gpu.name}", is_number=False),
        Column[GpuCounters]("Busy", lambda gpu: formats.share(gpu.mean_utilization)),
        Column[GpuCounters]("Peak memory", lambda gpu: formats.size(gpu.peak_memory_bytes)),
        Column[GpuCounters]("of", lambda gpu: formats.size(gpu.memory_total_bytes), 2),
        Column[GpuCounters]("Power W", lambda gpu: formats.number(gpu.mean_power_w), 1),
        Column[GpuCounters]("Energy J", lambda gpu: formats.number(gpu.energy_j), 3),
    )
    caption = [f"Read for {formats.duration(usage.seconds)}; other programs on the board are counted, too."]
    return FittedTable("Counters of the GPU", usage.gpus, columns, caption=caption)


def _figure(usage: GpuUsage) -> Figure:
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for gpu, color in zip(usage.gpus, _repeated(len(usage.gpus)), strict=True):
        upper.plot(gpu.time_s, [100 * value for value in gpu.utilization], color=color, label=f"GPU {gpu.index}")
        lower.plot(gpu.time_s, [value / 2**30 for value in gpu.memory_bytes], color=color)
    busiest = max(usage.gpus, key=lambda gpu: gpu.mean_utilization)
    upper.set_title(
        f"GPU {busiest.index} was busy for {formats.share(busiest.mean_utilization)} of the time",
        loc="left",
        fontsize=10,
        fontweight="bold",
    )
    upper.set_ylabel("Utilization, %")
    upper.set_ylim(0, 105)
    lower.set_ylabel("Memory, GiB")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("Seconds")
    for axes in (upper, lower):
        axes.grid(alpha=0.15, color=INK)
    if len(usage.gpus) > 1:
        upper.legend(loc="best")
    return figure


def _words(usage: GpuUsage) -> str:
    parts = [
        f"GPU {gpu.index} ({gpu.name}) was busy for {formats.share(gpu.mean_utilization)} of "
        f"{formats.duration(usage.seconds)}, took up to {formats.size(gpu.peak_memory_bytes)}"
        + ("" if gpu.mean_power_w is None else f" and drew {formats.number(gpu.mean_power_w)} W")
        for gpu in usage.gpus
    ]
    return f"{'; '.join(parts)}."


def _repeated(count: int) -> list[str]:
    palette = (BLUE, VERMILION, GREEN, ORANGE)
    return [palette[place % len(palette)] for place in range(count)]


GPU_USAGE = Look("gpu-usage", _table, _figure, _words)
