"""Masks against those of `prune_low_magnitude` on the tf_keras twin, from the same weights through the same steps."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras

from kopt.graph import to_tf_keras
from kopt.graph.tfmot import load_tfmot
from kopt.prune import finalize, magnitude

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

L = keras.layers
STEPS, BATCH = 12, 16
RNG = np.random.default_rng(0)
X = RNG.normal(size=(STEPS * BATCH, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 6, STEPS * BATCH)


def convolutional():
    keras.utils.set_random_seed(1)
    layers = [L.Conv2D(8, 3, activation="relu", name="conv"), L.Flatten(name="flat"), L.Dense(6, name="logits")]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers], name="net")


def dense():
    keras.utils.set_random_seed(2)
    layers = [L.Flatten(name="flat"), L.Dense(24, activation="tanh", name="hidden"), L.Dense(6, name="logits")]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers], name="net")


def by_tfmot(model, schedule, **settings):
    """Return the kernels after `STEPS` steps of plain gradient descent, by the name of their layer."""
    tfmot = load_tfmot()
    twin = to_tf_keras(model)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(twin, pruning_schedule=schedule, **settings)
    pruned.compile(tf_keras.optimizers.SGD(0.05), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    step = tfmot.sparsity.keras.UpdatePruningStep()
    pruned.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[step])
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    return {layer.name.removeprefix("twin_"): layer.kernel.numpy() for layer in stripped.layers if layer.weights}


def by_kopt(model, schedule, **settings):
    pruned, _ = magnitude(model, schedule, **settings)
    pruned.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruned.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0)
    plain, _ = finalize(pruned)
    return {layer.name: layer.kernel.numpy() for layer in plain.layers if layer.weights}


def polynomial(**settings):
    sparsity = load_tfmot().sparsity.keras
    return sparsity.PolynomialDecay(**{"initial_sparsity": 0.2, "final_sparsity": 0.75, "begin_step": 1, **settings})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "frequency", "end", "tfmot_settings", "settings"),
    [
        (convolutional, 1, 10, {}, {}),
        (convolutional, 3, 12, {}, {}),
        (dense, 2, 9, {"block_size": (4, 2)}, {"granularity": "block", "block_size": (4, 2)}),
        (
            dense,
            2,
            9,
            {"block_size": (5, 4), "block_pooling_type": "MAX"},  # neither 192 nor 24 is a multiple of 5, nor 6 of 4
            {"granularity": "block", "block_size": (5, 4), "block_pooling": "MAX"},
        ),
    ],
    ids=["each step", "every third step", "blocks", "blocks that do not fit"],
)
def test_masks_are_those_of_tfmot(make, frequency, end, tfmot_settings, settings):
    model = make()
    schedule = polynomial(end_step=end, frequency=frequency)
    expected = by_tfmot(model, schedule, **tfmot_settings)
    seen = by_kopt(model, schedule, **settings)
    assert seen.keys() == expected.keys()
    for name, kernel in seen.items():
        np.testing.assert_array_equal(kernel != 0, expected[name] != 0, err_msg=name)
        np.testing.assert_allclose(kernel, expected[name], atol=1e-5)
        assert 0.5 < np.mean(kernel == 0) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("make", [convolutional, dense])
@pytest.mark.parametrize("kept", [1, 2])
def test_two_of_four_is_that_of_tfmot(make, kept):
    model = make()
    expected = by_tfmot(model, polynomial(end_step=10, frequency=1), sparsity_m_by_n=(4 - kept, 4))
    seen = by_kopt(model, 1 - kept / 4, granularity="n:m", n_m=(kept, 4))
    for name, kernel in seen.items():
        np.testing.assert_array_equal(kernel != 0, expected[name] != 0, err_msg=name)


@pytest.mark.slow
def test_its_import_leaves_the_process_as_it_was():
    code = (
        "import os; from kopt.graph.tfmot import load_tfmot; load_tfmot(); import tensorflow as tf; "
        "assert 'TF_USE_LEGACY_KERAS' not in os.environ; assert tf.keras.__version__.startswith('3')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment)
