"""The code on the pages of the documentation runs from top to bottom."""

import page_blocks
import pytest

from kopt.graph.tfmot import load_tfmot

# The page of the rules has a line or two a rule, for models and data of the reader.
NO_PROGRAMS = {page_blocks.PREPARATION, page_blocks.DOCS / "troubleshooting.md"}
README = page_blocks.ROOT / "README.md"
PAGES = [page for page in (README, *sorted(page_blocks.DOCS.rglob("*.md"))) if page_blocks.blocks(page)]


@pytest.mark.slow
@pytest.mark.xdist_group("examples")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in NO_PROGRAMS],
    ids=lambda page: str(page.relative_to(page_blocks.ROOT)),
)
def test_runs_from_top_to_bottom(page, scope):
    load_tfmot()  # a page imports it, which would change `tf.keras` for the tests behind it
    page_blocks.run(page, scope)


# `core` and `cli` hold no names for users.
ROOMS = sorted({path.parent.name for path in page_blocks.ROOT.glob("kopt/*/__init__.py")} - {"core", "cli"})


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_its_page(room):
    page = page_blocks.DOCS / "reference" / f"{room}.md"
    assert f"::: kopt.{room}\n" in page.read_text()
    assert f"kopt.{room}: reference/{room}.md" in (page_blocks.ROOT / "mkdocs.yml").read_text()
