"""Rounding in training under `MirroredStrategy`."""

import pytest
import quantize_on_two_devices
from processes import result_of


@pytest.mark.slow
def test_two_replicas_train_with_rounding_as_one_does():
    seen = result_of(quantize_on_two_devices.main)
    assert seen["seen"] == [6, 6]
    # Each replica sees half of a batch, and the ranges of the halves are averaged: a little narrower than of the whole.
    one, two = seen["high"]
    assert 0.8 * one < two <= one
    assert seen["difference"] < 5e-3
    assert seen["prediction"] > 0
