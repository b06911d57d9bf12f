"""Names of kopt that docstrings, messages and pages mention can be looked up."""

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"`(kopt(?:\.[A-Za-z_]\w*)+)")
_FILES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "benchmarks").glob("*.*"),
    *(ROOT / "kopt").rglob("*.py"),
]


def mentioned():
    """Return every name in backquotes, with the files that mention it."""
    found = {}
    for path in _FILES:
        for name in _NAME.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


MENTIONED = mentioned()


def test_pages_and_docstrings_mention_names():
    assert len(MENTIONED) > 100


@pytest.mark.parametrize("name", sorted(MENTIONED))
def test_a_mentioned_name_exists(name):
    try:
        pkgutil.resolve_name(name)
    except (AttributeError, ImportError) as error:
        raise AssertionError(f"{', '.join(sorted(MENTIONED[name]))}: `{name}`") from error
