"""The code on the pages of the documentation: the fenced `python` blocks, in their order."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PREPARATION = DOCS / "reference" / "index.md"  # what every example starts from
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    """Return the code of each fenced block, with blank lines before it so that errors have the line of the page."""
    text = page.read_text()
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in _BLOCK.finditer(text)]


def run(page: Path, scope: dict[str, Any]) -> dict[str, Any]:
    """Run the blocks of a page one after the other in `scope`, and return it with what they have defined."""
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), scope)
    return scope
