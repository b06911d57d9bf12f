"""Horizontal bars with names and values, as several plots have them."""

from collections.abc import Sequence

from matplotlib.axes import Axes


def draw_bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], texts: Sequence[str], colors: Sequence[str]
) -> None:
    """Draw horizontal bars with their names on the left and their values, as text, at their ends."""
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
