"""Which rows a table shows, and what it says of the others."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kopt.core.errors import ConfigError, nearest
from kopt.core.settings import whole

T = TypeVar("T")


def chosen_rows(
    rows: Sequence[T], orders: dict[str, Callable[[T], Any]], sort: str, limit: int | None
) -> tuple[list[T], list[T]]:
    """Return the first `limit` rows in the order called `sort`, and the others.

    Raises:
        ConfigError: `sort` is none of `orders`, or `limit` is no whole number of at least 1.
    """
    if sort not in orders:
        raise ConfigError(f"Unknown `sort` {sort!r}.{nearest(sort, orders)} Accepted: {', '.join(orders)}.")
    return _parted(sorted(rows, key=orders[sort]), limit)


def first_rows(rows: Sequence[T], limit: int | None, what: str) -> tuple[list[T], list[str]]:
    """Return the first `limit` rows, all for `None`, and the lines of the caption that say how many are left out.

    Args:
        rows: of a table.
        limit: how many to show at most.
        what: they are, in the plural.

    Raises:
        ConfigError: `limit` is no whole number of at least 1.
    """
    shown, others = _parted(list(rows), limit)
    return shown, more_rows(len(others), what)


def more_rows(count: int, what: str) -> list[str]:
    """Return the lines of a caption that say how many rows are left out, and how all are shown."""
    return [f"{count:,} more {what}; `rows=None` (`--rows 0`) shows all."] if count else []


def _parted(rows: list[T], limit: int | None) -> tuple[list[T], list[T]]:
    end = len(rows) if limit is None else whole("rows", limit)
    return rows[:end], rows[end:]
