"""A terminal table that leaves columns out rather than wrapping a number."""

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

T = TypeVar("T")
# A space after the cell and one for the box's divider.
_PADDING = 2
_NAME_WIDTH = 14


@dataclasses.dataclass(frozen=True)
class Column(Generic[T]):
    """A column.

    Attributes:
        header: its heading; line breaks are kept.
        cell: the text of a row.
        rank: 0 is always shown; of the others the highest rank goes first when the console is narrow.
        is_number: set flush right.
    """

    header: str
    cell: Callable[[T], str]
    rank: int = 0
    is_number: bool = True


@dataclasses.dataclass(frozen=True)
class FittedTable(Generic[T]):
    """A table that chooses its columns for the width it is shown at; only the first column is ever shortened.

    Attributes:
        remark: free text of a row: the last column where there is room for it, else a list below the table.
        style: rich style of a row.
        caption: lines below the table.
    """

    title: str
    rows: Sequence[T]
    columns: Sequence[Column[T]]
    style: Callable[[T], str] = lambda row: ""
    remark: Callable[[T], str] | None = None
    remark_header: str = ""
    remark_width: int = 30
    caption: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Lay the table out for the console's width."""
        shown = fit(self.columns, self.rows, options.max_width)
        left = options.max_width - sum(_widths(shown, self.rows)) - _PADDING
        has_remarks = self.remark is not None and any(self.remark(row) for row in self.rows)
        yield self._table(shown, options.max_width, with_remark=has_remarks and left >= self.remark_width)
        if has_remarks and left < self.remark_width:
            yield Text()
            yield from self._remarks(shown[0])
        elif self.caption:
            yield Text()
        for line in self.caption:
            yield Text(line, style="dim")

    def _table(self, shown: Sequence[Column[T]], width: int, *, with_remark: bool) -> Table:
        table = Table(
            title=Text(self.title, style="bold") if self.title else None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            show_header=any(column.header for column in shown),
        )
        first, *others = shown
        room = width - sum(_widths(others, self.rows)) - (self.remark_width + _PADDING) * with_remark
        table.add_column(Text(first.header), no_wrap=True, overflow="ellipsis", max_width=room - _PADDING)
        for column in others:
            justify = "right" if column.is_number else "left"
            table.add_column(Text(column.header, justify=justify), no_wrap=True, justify=justify)  # type: ignore[arg-type]
        if with_remark:
            table.add_column(Text(self.remark_header), overflow="fold")
        for row in self.rows:
            cells = [Text(column.cell(row)) for column in shown]
            if with_remark and self.remark:
                cells.append(Text(self.remark(row)))
            table.add_row(*cells, style=self.style(row))
        return table

    def _remarks(self, name: Column[T]) -> Iterator[RenderableType]:
        for row in self.rows:
            if self.remark and (text := self.remark(row)):
                yield Text.assemble((name.cell(row).strip(), self.style(row)), ": ", text)
        yield Text()


def fit(columns: Sequence[Column[T]], rows: Sequence[T], width: int) -> list[Column[T]]:
    """Return the columns that fit `width` with the first one no narrower than a short name."""
    shown = list(columns)
    while True:
        optional = [column for column in shown if column.rank]
        first, *others = _widths(shown, rows)
        if min(first, _NAME_WIDTH + _PADDING) + sum(others) <= width or not optional:
            return shown
        shown.remove(max(optional, key=lambda column: column.rank))


def _widths(columns: Sequence[Column[T]], rows: Sequence[T]) -> list[int]:
    def widest(column: Column[T]) -> int:
        lines = column.header.split("\n") + [column.cell(row) for row in rows]
        return max(cell_len(line) for line in lines) + _PADDING

    return [widest(column) for column in columns]


def as_text(table: RenderableType, width: int) -> str:
    """Return what a console would print as plain text of at most `width` columns."""
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())
