"""What makes the whole suite quicker and leaves every test as it is."""

import gc
import os

import pytest

# Two processes of tests share the cores; TensorFlow reads this when it starts, also in processes that tests start.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the collector from walking, again and again, the million objects that TensorFlow's import leaves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a fixture of their file in one process, so that it is made once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None and _shares_a_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def _shares_a_fixture(item: pytest.Item) -> bool:
    fixtures = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
    return any(
        one.scope == "module" and one.baseid == item.path.relative_to(item.config.rootpath).as_posix()
        for definitions in fixtures
        for one in definitions
    )
