"""How a record looks: its table for the terminal, its plot for a page or a file, its words for who cannot see."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from matplotlib.figure import Figure
from rich.console import RenderableType

from kopt.core.serialization import Record
from kopt.report.parts.columns import as_text
from kopt.report.parts.svg import drawing, to_png, to_svg, write_plot


@dataclasses.dataclass(frozen=True)
class Look:
    """The functions that draw records of one kind.

    Attributes:
        name: of the plot, unique within a page.
        table: from the record and options of its own (such as `rows` and `sort`) to what a console can print.
        figure: from the record to a figure; called inside `drawing`.
        words: from the record to one or two sentences that say what the plot shows.

    Example:
        >>> look = kopt.report.COSTS
        >>> look.name, look.svg(kopt.profile.model(model))[:4]
        ('layers', '<svg')
    """

    name: str
    table: Callable[..., RenderableType]
    figure: Callable[[Any], Figure]
    words: Callable[[Any], str]

    def text(self, record: Any, width: int, **options: Any) -> str:
        """Return the table as plain text of at most `width` columns."""
        return as_text(self.table(record, **options), width)

    def svg(self, record: Any) -> str:
        """Return the plot as one `<svg>` element that can stand in a page."""
        with drawing():
            return to_svg(self.figure(record), self.name, self.words(record))

    def png(self, record: Any) -> bytes:
        """Return the plot as a PNG image."""
        with drawing():
            return to_png(self.figure(record))

    def write(self, record: Any, path: str | os.PathLike[str], *, overwrite: bool) -> Path:
        """Write the plot to a `.svg` or `.png` file; see `write_plot`."""
        with drawing():
            return write_plot(path, self.figure(record), self.name, self.words(record), overwrite=overwrite)


class Shown:
    """Adds ways to look at a record: a subclass of a record and of this, with its `look`.

    Example:
        >>> costs = kopt.profile.model(model)  # a `Shown`, as every result is
        >>> costs.table(80).splitlines()[0], costs.plot("costs.svg").name, type(costs.figure()).__name__
        ('digits', 'costs.svg', 'Figure')
    """

    look: ClassVar[Look]

    @classmethod
    def schema(cls) -> str:
        """On disk it is the record it extends."""
        record = next(base for base in cls.__mro__ if issubclass(base, Record) and not issubclass(base, Shown))
        return record.schema()

    def __str__(self) -> str:
        return self.look.words(self)

    def table(self, width: int = 80, **options: Any) -> str:
        """Return the numbers as text of at most `width` columns; for a record of many rows, `rows` and `sort` apply."""
        return self.look.text(self, width, **options)

    def plot(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Draw to a file that ends with `.svg` or `.png`, and return its path.

        Raises:
            ConfigError: another ending.
            OutputExistsError: the file exists and `overwrite` is false.
            OutputError: the path cannot be written.
        """
        return self.look.write(self, path, overwrite=overwrite)

    def figure(self) -> Figure:
        """Return the plot as a matplotlib figure, for a notebook."""
        with drawing():
            return self.look.figure(self)
