"""Shared fixtures of the report tests."""

import pytest
from report_records import make_result


@pytest.fixture
def result():
    return make_result()
