"""Tables whose rows are named by paths, of which the end tells more than the beginning."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType

from kopt.report.parts.columns import Column, FittedTable, fit

T = TypeVar("T")
# A column of names gets this much where it needs it; then other columns are left out. `fit` itself leaves it 14.
_NAME_WIDTH, _FITTED_NAME_WIDTH = 28, 14
_PADDING = 2


def short_path(path: str, length: int) -> str:
    """Return the last `length` characters of a path, with an ellipsis in the place of what came before."""
    return path if len(path) <= length else f"…{path[len(path) - length + 1 :]}"


@dataclasses.dataclass(frozen=True)
class PathTable(Generic[T]):
    """A `FittedTable` whose first column holds paths and is shortened at the beginning."""

    title: str
    rows: Sequence[T]
    columns: Sequence[Column[T]]
    caption: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Lay the table out for the console's width."""
        names = self.columns[0]
        wanted = min(_NAME_WIDTH, max((len(names.cell(row)) for row in self.rows), default=0))
        shown = fit(self.columns, self.rows, options.max_width - max(0, wanted - _FITTED_NAME_WIDTH))
        room = options.max_width - _PADDING - sum(self._width(column) for column in shown[1:])
        first = dataclasses.replace(names, cell=lambda row: short_path(names.cell(row), room))
        yield FittedTable(self.title, self.rows, (first, *shown[1:]), caption=self.caption)

    def _width(self, column: Column[T]) -> int:
        lines = [*column.header.split("\n"), *(column.cell(row) for row in self.rows)]
        return max(map(cell_len, lines)) + _PADDING
