"""A training as it was seen: losses, gradients, updates and learning rate over time, and the advice."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.profiles.gradients import VariableGradient
from kopt.core.records.profiles.training import TrainingTrends
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column
from kopt.report.parts.paths import PathTable, short_path
from kopt.report.parts.row_choice import first_rows
from kopt.report.parts.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8f98")
_NAME_LENGTH = 26


def _table(trends: TrainingTrends, rows: int | None = 20) -> RenderableType:
    """Return the last epoch by variable, and the advice."""
    if not trends.epochs:
        return Text("No epoch has ended yet.")
    last = trends.epochs[-1]
    shown, caption = first_rows(last.gradients, rows, "variables")
    updates = dict(zip((one.path for one in last.gradients), last.update_ratios, strict=True))
    columns = (
        Column[VariableGradient]("Variable", lambda one: one.path, is_number=False),
        Column[VariableGradient]("Gradient\nnorm", lambda one: f"{one.norm:.1e}"),
        Column[VariableGradient]("Between\nsteps", lambda one: f"{one.variance:.1e}", 2),
        Column[VariableGradient]("Zeros", lambda one: formats.share(one.zero_fraction), 3),
        Column[VariableGradient]("Weight\nnorm", lambda one: formats.number(one.weight_norm), 4),
        Column[VariableGradient]("Update to\nweight", lambda one: f"{updates[one.path]:.1e}"),
    )
    caption.append(f"Means over {last.sampled_steps} sampled steps of epoch {last.epoch + 1}.")
    title = f"{trends.run.model} in epoch {last.epoch + 1}"
    table = PathTable(title, shown, columns, caption=caption)
    advice = [f"{one.kind}: {one.where}. {one.words}" for one in trends.advice]
    return Group(table, *map(Text, [*(advice or ["No advice: nothing is wrong."]), *trends.notes]))


def _figure(trends: TrainingTrends) -> Figure:
    figure = Figure(figsize=(8.6, 6.2), layout="constrained")
    (losses, norms), (updates, rates) = figure.subplots(2, 2)
    _draw_losses(losses, trends)
    kernels = _shown(trends)
    steps = [sample.step for sample in trends.samples]
    for color, place in zip(_COLORS, kernels, strict=False):
        name = short_path(trends.run.variables[place], _NAME_LENGTH)
        norms.plot(steps, [sample.norms[place] or float("nan") for sample in trends.samples], color=color, label=name)
        ratios = [sample.update_ratios[place] or float("nan") for sample in trends.samples]
        updates.plot(steps, ratios, color=color)
    rates.plot(steps, [sample.learning_rate for sample in trends.samples], color=_COLORS[0])
    updates.axhline(1e-3, color=INK, linewidth=0.8, linestyle=":", alpha=0.6)
    for axes, title in (
        (norms, "Norm of the gradient"),
        (updates, "Change of a step over weight; about 0.001 is usual"),
        (rates, "Learning rate"),
    ):
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("Step")
    for axes in (norms, updates):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    for axes in (losses, norms, updates, rates):
        axes.grid(alpha=0.15, color=INK)
        axes.tick_params(labelsize=8)
    norms.legend(fontsize=7)
    figure.suptitle(_title(trends), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _draw_losses(axes: Axes, trends: TrainingTrends) -> None:
    for color, name in zip(_COLORS, ("loss", "val_loss"), strict=False):
        points = [(epoch.epoch + 1, epoch.logs[name]) for epoch in trends.epochs if name in epoch.logs]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=color, markersize=3, label=name)
    axes.set_title("Loss", loc="left", fontsize=9)
    axes.set_xlabel("Epoch")
    if trends.epochs:
        axes.legend(fontsize=8)


def _shown(trends: TrainingTrends) -> list[int]:
    """Return the places of the variables to draw: kernels, from the first to the last, as many as there are colors."""
    if not trends.epochs:
        return list(range(len(trends.run.variables)))[: len(_COLORS)]
    kernels = [place for place, one in enumerate(trends.epochs[-1].gradients) if len(one.shape) > 1]
    if len(kernels) <= len(_COLORS):
        return kernels
    last = len(_COLORS) - 1
    return [kernels[round(i * (len(kernels) - 1) / last)] for i in range(last + 1)]


def _title(trends: TrainingTrends) -> str:
    kinds = list(dict.fromkeys(one.kind for one in trends.advice))
    return f"{trends.run.model}: {', '.join(kinds) if kinds else 'nothing is wrong'}"


def _words(trends: TrainingTrends) -> str:
    losses = [epoch.logs["loss"] for epoch in trends.epochs if "loss" in epoch.logs]
    fell = f" The loss went from {formats.number(losses[0])} to {formats.number(losses[-1])}." if losses else ""
    advice = "; ".join(f"{one.kind} ({one.where})" for one in trends.advice) or "none"
    return (
        f"Training of {trends.run.model}: {len(trends.epochs)} epochs, {len(trends.samples)} sampled steps.{fell} "
        f"Advice: {advice}."
    )


TRAINING = Look("training-trends", _table, _figure, _words)
