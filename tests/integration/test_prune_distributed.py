"""Masks under `MirroredStrategy`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_replicas_prune_as_one_does():
    script = Path(__file__).with_name("prune_on_two_devices.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["same zeros"]
    assert seen["difference"] < 1e-5
    assert seen["sparsity"] == [0.75, 0.75]
