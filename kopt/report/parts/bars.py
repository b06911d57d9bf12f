"""Horizontal bars with names and values, as several plots have them."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kopt.report.parts import formats
from kopt.report.parts.time_parts import BLUE

_MOST_BARS, _LONGEST = 25, 28


def draw_bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], texts: Sequence[str], colors: Sequence[str]
) -> None:
    """Draw horizontal bars with their names on the left and their values, as text, at their ends."""
    places = range(len(names))
    axes.barh(places, values, color=colors, height=0.68)
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(text, (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(places, [formats.shortened(name, _LONGEST) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max(*values, 0) * 1.22 or 1)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[["bottom"]].set_visible(False)
    axes.spines["left"].set_alpha(0.4)


def shares_figure(title: str, names: Sequence[str], shares: Sequence[float]) -> Figure:
    """Return a figure of shares by name, those of the first 25."""
    names, shares = names[:_MOST_BARS], shares[:_MOST_BARS]
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * len(names)), layout="constrained")
    draw_bars(figure.add_subplot(), names, shares, [formats.share(share) for share in shares], [BLUE] * len(names))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure
