"""Distillation under `MirroredStrategy`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_replicas_distil_as_one_does():
    script = Path(__file__).with_name("distill_on_two_devices.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert max(seen["plain"].values()) < 1e-5
    assert max(seen["fast"].values()) < 1e-5
