"""The file of finished rows: one JSON object a line, each written whole or not at all."""

import json
import os
import textwrap
from pathlib import Path
from typing import Any

Key = tuple[str, str, float]

_LONGEST_REASON = 300


def key(row: dict[str, Any]) -> Key:
    """Return what a row is about."""
    return row["part"], row["model"], row["keep"]


def reason(line: str) -> str:
    """Return a line short enough for a table, cut between words: a page that names half a name names nothing."""
    return textwrap.shorten(line, _LONGEST_REASON, placeholder=" ...")


def read(path: Path) -> dict[Key, dict[str, Any]]:
    """Return the last row about each; a line that a killed process did not finish is left out."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    rows = map(json.loads, whole.splitlines())
    return {key(row): row for row in rows}


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row in one write that reaches the disk; half a line before it is ended first."""
    line = json.dumps(row) + "\n"
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                _cut_last_line(file, size)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _cut_last_line(file: Any, size: int) -> None:
    file.seek(0)
    file.truncate(file.read(size).rfind(b"\n") + 1)
