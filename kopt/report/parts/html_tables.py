"""A terminal table as a table of a page, with all its columns."""

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup, escape
from rich.console import Group, RenderableType
from rich.text import Text

from kopt.report.parts.columns import Column, FittedTable
from kopt.report.parts.paths import PathTable


def html_of(renderable: RenderableType) -> Markup:
    """Return tables and texts as HTML: a table keeps every column, whatever a terminal would leave out.

    Args:
        renderable: `FittedTable`, `PathTable`, `rich.text.Text`, text, or a `rich.console.Group` of these.
    """
    return Markup("\n").join(_parts(renderable))


def _parts(renderable: Any) -> Iterator[Markup]:
    if isinstance(renderable, Group):
        for inner in renderable.renderables:
            yield from _parts(inner)
    elif isinstance(renderable, PathTable):
        yield from _table(
            FittedTable(renderable.title, renderable.rows, renderable.columns, caption=renderable.caption)
        )
    elif isinstance(renderable, FittedTable):
        yield from _table(renderable)
    elif (text := str(renderable).strip()) and isinstance(renderable, (str, Text)):
        yield Markup("<p>{}</p>").format(text)
    elif not isinstance(renderable, (str, Text)):
        raise TypeError(f"{type(renderable).__name__} has no form in a page.")


def _table(table: FittedTable[Any]) -> Iterator[Markup]:
    if table.rows:
        heads = Markup("").join(_cell("th", column, column.header, ' scope="col"') for column in table.columns)
        if table.remark:
            heads += Markup('<th scope="col" class="text">{}</th>').format(table.remark_header)
        body = Markup("\n").join(_row(table, row) for row in table.rows)
        yield (
            Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}"><table>').format(
                table.title or "Table"
            )
            + Markup("<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div>").format(heads, body)
        )
    for line in table.caption:
        yield Markup('<p class="soft caption">{}</p>').format(line)


def _row(table: FittedTable[Any], row: Any) -> Markup:
    first, *others = table.columns
    cells = _cell("th", first, first.cell(row), ' scope="row"')
    cells += Markup("").join(_cell("td", column, column.cell(row)) for column in others)
    if table.remark:
        cells += Markup('<td class="text remark">{}</td>').format(table.remark(row))
    return Markup("<tr>{}</tr>").format(cells)


def _cell(tag: str, column: Column[Any], text: str, attributes: str = "") -> Markup:
    css = "" if column.is_number else ' class="text"'
    return Markup(f"<{tag}{attributes}{css}>{escape(text)}</{tag}>")
