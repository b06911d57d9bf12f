"""Pages that are files at the root of the repository: `source:` in the front matter of a page names one."""

from pathlib import Path

_ROOT = Path(__file__).parents[2]


def on_page_markdown(markdown, page, **kwargs):
    """Return the file's text with links as they are from `docs/`, or the page's own."""
    source = page.meta.get("source")
    return (_ROOT / source).read_text().replace("](docs/", "](") if source else markdown
