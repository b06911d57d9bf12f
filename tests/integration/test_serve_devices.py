"""A SavedModel on several devices."""

import pytest
import serve_on_two_devices
from processes import result_of


@pytest.mark.slow
def test_workers_take_the_devices_in_turn():
    seen = result_of(serve_on_two_devices.main)
    assert seen["variables"] == ["CPU:0", "CPU:1", "CPU:0"]
    assert seen["computed"] == ["CPU:0", "CPU:1", "CPU:0"]
    assert seen["shared"] == [False, True]
    assert seen["equal"] == [True] * 4
    assert seen["alone"] is None
