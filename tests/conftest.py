"""What makes the whole suite quicker and leaves every test as it is, whatever ran before it in its process."""

import gc
import os
import sys

import numpy as np
import pytest

_STATES = pytest.StashKey[dict]()

# Two processes of tests share the cores; TensorFlow reads this when it starts, also in processes that tests start.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the collector from walking, again and again, the million objects that TensorFlow's import leaves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Draw the same numbers in a test wherever it runs: which tests ran before it is a matter of chance."""
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)
    for name, value in vars(item.module).items():  # type: ignore[attr-defined]
        if isinstance(value, np.random.Generator):
            initial = item.config.stash.setdefault(_STATES, {}).setdefault((item.path, name), value.bit_generator.state)
            value.bit_generator.state = initial


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
