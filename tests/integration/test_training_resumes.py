"""Training that is killed and started again ends with the weights of one that was not."""

import signal

import keras
import numpy as np
import pytest
from processes import run_forked
from train_until_killed import train

import kopt

pytestmark = pytest.mark.long

# An epoch counts 1 at its begin and 6 batches: within the first epoch, after its last batch, before the third, in the
# third with a batch accumulated, and when all of it is read ahead.
DEATHS = {"arrays": (4, 7), "dataset": (6, 15, 18, 20), "shuffled": (15, 20), "repeated": (9,), "generator": (11,)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEATHS)
def test_a_killed_training_goes_on_where_it_was(tmp_path, kind):
    done = run_forked(train, kind, tmp_path / "whole.npz")
    assert done.exit_code == 0, done.errors
    with np.load(tmp_path / "whole.npz") as whole:
        expected = dict(whole)
    for death in DEATHS[kind]:
        checkpoint = tmp_path / f"checkpoint{death}"
        killed = run_forked(train, kind, tmp_path / "none.npz", checkpoint, death)
        assert killed.exit_code == -signal.SIGKILL, killed.errors
        assert not (tmp_path / "none.npz").exists()
        done = run_forked(train, kind, tmp_path / "resumed.npz", checkpoint)
        assert done.exit_code == 0, done.errors
        with np.load(tmp_path / "resumed.npz") as resumed:
            assert set(resumed) == set(expected)
            for name, value in expected.items():
                np.testing.assert_array_equal(resumed[name], value, err_msg=f"{kind}, killed at {death}: {name}")
        assert list(checkpoint.iterdir()) == [], "checkpoints of a finished training are removed"


@pytest.mark.slow
def test_settings_of_callbacks_that_are_given_anew_hold(tmp_path):
    class Kill(keras.callbacks.Callback):
        """Ends the training at the begin of its second epoch, and counts all of them."""

        def __init__(self, at, seen=0):
            super().__init__()
            self.at, self.seen = at, seen

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.at:
                raise KeyboardInterrupt
            self.seen += 1

    def fitted(patience, at):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        fast = kopt.train.accelerate(model, checkpoint=str(tmp_path), jit_compile=False)
        callbacks = [keras.callbacks.EarlyStopping("loss", patience=patience), Kill(at)]
        x = np.ones((16, 4), "float32")
        fast.fit(x, x[:, :2], epochs=3, batch_size=8, verbose=0, callbacks=callbacks)
        return callbacks

    with pytest.raises(KeyboardInterrupt):
        fitted(2, at=1)
    stopping, kill = fitted(50, at=None)
    assert (stopping.patience, kill.at) == (50, None)
    assert (kill.seen, stopping.best is None) == (3, False), "what the training counts goes on"
