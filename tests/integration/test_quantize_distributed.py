"""Rounding in training under `MirroredStrategy`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_replicas_train_with_rounding_as_one_does():
    script = Path(__file__).with_name("quantize_on_two_devices.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["seen"] == [6, 6]
    # Each replica sees half of a batch, and the ranges of the halves are averaged: a little narrower than of the whole.
    one, two = seen["high"]
    assert 0.8 * one < two <= one
    assert seen["difference"] < 5e-3
    assert seen["prediction"] > 0
