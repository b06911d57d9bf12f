"""Masks under `MirroredStrategy`."""

import prune_on_two_devices
import pytest
from processes import result_of


@pytest.mark.slow
def test_two_replicas_prune_as_one_does():
    seen = result_of(prune_on_two_devices.main)
    assert seen["same zeros"]
    assert seen["difference"] < 1e-5
    assert seen["sparsity"] == [0.75, 0.75]
