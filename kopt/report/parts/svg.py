"""A matplotlib figure as SVG that can stand in a page beside others, in light and dark, or as a file."""

import contextlib
import html
import io
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from kopt.core.errors import ConfigError
from kopt.core.files import atomic_write

# Stand-ins that no palette uses; in the SVG they become the colors of the page.
INK = "#010203"
PAPER = "#fdfefc"
_PAGE_COLORS = {INK: "currentColor", PAPER: "var(--card, #ffffff)"}

_PNG_DPI = 144
_LEFT_ALONE = frozenset(("backend", "backend_fallback", "interactive", "toolbar"))
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10.0,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a name is a dollar sign
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.dpi": 72.0,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw with kopt's style; the caller's matplotlib settings are untouched afterwards."""
    with (
        mpl.rc_context(),
        warnings.catch_warnings(),
    ):
        # The text is set by the reader's browser, with the reader's fonts; matplotlib only estimates its width.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        mpl.rcParams.update({key: value for key, value in mpl.rcParamsDefault.items() if key not in _LEFT_ALONE})
        mpl.rcParams.update(_STYLE)
        yield


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Return `figure` as one deterministic `<svg>` element; call it inside `drawing`.

    Args:
        figure: what to render; its background is left transparent.
        name: unique within a page; every id in the SVG begins with it.
        description: what a reader who cannot see the plot should be told.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|\bxlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    for stand_in, color in _PAGE_COLORS.items():
        text = text.replace(stand_in, color)
    label = html.escape(description, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def as_file(svg: str) -> str:
    """Return an element of `to_svg` as a file of its own, dark on white whatever page shows it."""
    return svg.replace("<svg", '<svg style="background: #ffffff; color: #1c2128"', 1) + "\n"


def write_plot(
    path: str | os.PathLike[str], figure: Figure, name: str, description: str, *, overwrite: bool = False
) -> Path:
    """Write `figure` to a `.svg` or `.png` file; call it inside `drawing`. Arguments are those of `to_svg`.

    Raises:
        ConfigError: another ending.
        OutputExistsError: the file exists and `overwrite` is false.
        OutputError: the path cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending == ".svg":
        return atomic_write(path, to_svg(figure, name, description), overwrite=overwrite)
    if ending != ".png":
        raise ConfigError(f"`path` must end with .svg or .png. Received: {os.fspath(path)!r}.")
    return atomic_write(path, to_png(figure), overwrite=overwrite)


def to_png(figure: Figure) -> bytes:
    """Return `figure` as a PNG image; call it inside `drawing`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI, facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()
