"""Distillation under `MirroredStrategy`."""

import distill_on_two_devices
import pytest
from processes import result_of


@pytest.mark.slow
def test_two_replicas_distil_as_one_does():
    seen = result_of(distill_on_two_devices.main)
    assert max(seen["plain"].values()) < 1e-5
    assert max(seen["fast"].values()) < 1e-5
