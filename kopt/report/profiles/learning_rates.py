"""The curve of a learning-rate range test as a table and as a plot."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from rich.console import RenderableType

from kopt.core.records.training.finders import LearningRateCurve
from kopt.report.look import Look
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.svg import INK

# Okabe and Ito: told apart by people with the common color-vision deficiencies, visible on white and on black.
_LOSS, _CURVE = "#8a8f98", "#0072b2"
_SUGGESTIONS = (("steepest", "#e69f00", "v"), ("valley", "#009e73", "o"), ("minimum", "#cc79a7", "s"))


def _table(curve: LearningRateCurve) -> RenderableType:
    """Return the suggested rates with the smoothed loss where they lie."""
    columns = (
        Column[str]("Rule", lambda name: name, is_number=False),
        Column[str]("Learning rate", lambda name: _rate(getattr(curve, name))),
        Column[str]("Smoothed loss", lambda name: _loss_text(curve, getattr(curve, name))),
    )
    return FittedTable(
        "Learning-rate range test", [name for name, _, _ in _SUGGESTIONS], columns, caption=[_words(curve)]
    )


def _figure(curve: LearningRateCurve) -> Figure:
    figure = Figure(figsize=(8.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.rates, curve.losses, color=_LOSS, linewidth=0.8, alpha=0.7, label="loss of a step")
    axes.plot(curve.rates, curve.smoothed, color=_CURVE, linewidth=2.0, label="smoothed")
    _draw_suggestions(axes, curve)
    axes.set_xscale("log")
    # The default formatter writes mathematical notation, which `drawing` leaves unread.
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    axes.set_ylim(*_loss_range(curve))
    axes.set_xlabel("Learning rate")
    axes.set_ylabel("Loss")
    axes.set_title(f"Learning-rate range test: {_outcome(curve)}", loc="left", fontsize=10, fontweight="bold")
    axes.grid(alpha=0.15, color=INK)
    axes.legend(loc="best")
    return figure


def _draw_suggestions(axes: Axes, curve: LearningRateCurve) -> None:
    for name, color, marker in _SUGGESTIONS:
        rate = getattr(curve, name)
        if rate is not None:
            axes.axvline(rate, color=color, linewidth=1.0, linestyle=":")
            axes.plot(
                [rate], [_loss_at(curve, rate)], marker, color=color, markersize=9, label=f"{name} {rate:.2g}", zorder=3
            )


def _loss_at(curve: LearningRateCurve, rate: float) -> float:
    """Return the smoothed loss of the step whose rate is nearest.

    `minimum` lies a decade below the lowest point, which may be left of the first step.
    """
    place = min(range(len(curve.rates)), key=lambda i: abs(curve.rates[i] - rate))
    return curve.smoothed[place]


def _loss_text(curve: LearningRateCurve, rate: float | None) -> str:
    return formats.NOTHING if rate is None else formats.number(_loss_at(curve, rate))


def _rate(rate: float | None) -> str:
    return formats.NOTHING if rate is None else f"{rate:.2g}"


def _loss_range(curve: LearningRateCurve) -> tuple[float, float]:
    """Return an axis that shows the fall, not how far the loss rises before the test ends."""
    low, start = min(curve.smoothed), max(curve.smoothed[: max(1, len(curve.smoothed) // 2)])
    margin = 0.35 * (start - low) or 0.1 * abs(low) or 1.0
    return low - margin, start + margin


def _outcome(curve: LearningRateCurve) -> str:
    return "the loss did not fall" if curve.steepest is None else f"train with {curve.steepest:.2g}"


def _words(curve: LearningRateCurve) -> str:
    suggestions = [f"{name} {getattr(curve, name):.3g}" for name, _, _ in _SUGGESTIONS if getattr(curve, name)]
    return (
        f"Loss against learning rate from {curve.rates[0]:.3g} to {curve.rates[-1]:.3g}, {len(curve.rates)} steps, "
        f"{curve.stopped}. Smoothed loss from {curve.smoothed[0]:.4g}, lowest {min(curve.smoothed):.4g}. "
        f"Suggestions: {', '.join(suggestions) or 'none'}."
    )


LEARNING_RATES = Look("learning-rates", _table, _figure, _words)
"""How a range test of learning rates is shown; `.table()` and `.plot()` of `kopt.train.find_learning_rate` do it.

Example:
    >>> rates, losses = (1e-4, 1e-3, 1e-2, 1e-1), (2.3, 2.0, 0.9, 4.0)
    >>> curve = kopt.train.LearningRateRange(rates, losses, losses, 1e-3, 1e-3, 1e-3, stopped="diverged", passes=1)
    >>> print(kopt.report.LEARNING_RATES.words(curve))
    Loss against learning rate from 0.0001 to 0.1, 4 steps, diverged. ...
"""
