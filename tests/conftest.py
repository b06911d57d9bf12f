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
