"""Training that is killed and started again ends with the weights of one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("train_until_killed.py")
# An epoch counts 1 at its begin and 6 batches: within the first epoch, after its last batch, before the third, in the
# third with a batch accumulated, and when all of it is read ahead.
DEATHS = {"arrays": (4, 7), "dataset": (6, 15, 18, 20), "shuffled": (15, 20), "repeated": (9,), "generator": (11,)}


def train(kind, out, *options):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, SCRIPT, kind, out, *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEATHS)
def test_a_killed_training_goes_on_where_it_was(tmp_path, kind):
    done = train(kind, tmp_path / "whole.npz")
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "whole.npz") as whole:
        expected = dict(whole)
    for death in DEATHS[kind]:
        checkpoint = tmp_path / f"checkpoint{death}"
        killed = train(kind, tmp_path / "none.npz", "--checkpoint", checkpoint, "--die-at", str(death))
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
        assert not (tmp_path / "none.npz").exists()
        done = train(kind, tmp_path / "resumed.npz", "--checkpoint", checkpoint)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(tmp_path / "resumed.npz") as resumed:
            assert set(resumed) == set(expected)
            for name, value in expected.items():
                np.testing.assert_array_equal(resumed[name], value, err_msg=f"{kind}, killed at {death}: {name}")
        assert list(checkpoint.iterdir()) == [], "checkpoints of a finished training are removed"
