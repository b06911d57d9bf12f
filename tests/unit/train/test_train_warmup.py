import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.train.optimizers.warmup import GradientWarmup, next_factor, noise_share


def numpy_warmup(gradients, start, growth, threshold, smoothing):
    factor, change, power, factors = start, 0.0, 0.0, []
    for t, now in enumerate(gradients):
        factors.append(factor)
        if t:
            then = gradients[t - 1]
            change = smoothing * change + (1 - smoothing) * np.sum((now - then) ** 2)
            power = smoothing * power + (1 - smoothing) * (np.sum(now**2) + np.sum(then**2))
            if change / power < threshold:
                factor = min(1.0, factor * growth)
    return factors, change / power


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_factor_follows_the_formula(jit_compile):
    rng = np.random.default_rng(1)
    gradients = [
        np.array([1.0, 0.5, -1.0]) + scale * rng.normal(size=3) for scale in [0.1] * 6 + [5.0] * 6 + [0.1] * 12
    ]
    gradients = np.array(gradients, np.float32)
    factors, share = numpy_warmup(gradients, 0.1, 1.5, 0.5, 0.7)
    assert len(set(factors)) > 4
    assert any(a == b < 1 for a, b in itertools.pairwise(factors[2:])), "it waits in the noise"
    optimizer = GradientWarmup(keras.optimizers.SGD(2.0), start=0.1, growth=1.5, threshold=0.5, smoothing=0.7)
    weights = keras.Variable(np.zeros(3, np.float32))
    optimizer.build([weights])
    step = tf.function(lambda g: optimizer.apply([g], [weights]), jit_compile=jit_compile)
    expected, rates = np.zeros(3), []
    for now, factor in zip(gradients, factors, strict=True):
        rates.append(float(optimizer.effective_learning_rate))
        step(tf.constant(now))
        expected = expected - 2.0 * factor * now
    np.testing.assert_allclose(rates, 2.0 * np.array(factors), rtol=1e-5)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    if factors[-1] < 1:
        assert float(optimizer.share) == pytest.approx(share, rel=1e-3)


def test_the_share_of_noise_is_what_its_derivation_says():
    rng = np.random.default_rng(2)
    signal, spread, size = 0.5, 1.5, 200_000
    a, b = (signal + spread * rng.normal(size=size) for _ in range(2))
    share = float(noise_share(np.sum((a - b) ** 2), np.sum(a**2) + np.sum(b**2)))
    assert share == pytest.approx(spread**2 / (signal**2 + spread**2), rel=0.01)
    assert float(noise_share(0.0, 2.0)) == 0.0
    assert float(noise_share(4.0, 2.0)) == 2.0, "gradients that point back"
    assert [float(next_factor(0.5, share, 1.5, 0.9)) for share in (0.8, 0.9)] == [0.75, 0.5]
    assert float(next_factor(0.9, 0.0, 1.5, 0.9)) == 1.0


def test_noise_alone_waits_until_max_steps():
    optimizer = GradientWarmup(keras.optimizers.SGD(1.0), start=0.25, growth=2.0, threshold=0.1, max_steps=4)
    weights, factors = keras.Variable(np.zeros(2, np.float32)), []
    for t in range(6):
        optimizer.apply([tf.constant([1.0, -1.0]) * (-1.0) ** t], [weights])
        factors.append(float(optimizer.factor.numpy()))
    assert factors == [0.25, 0.25, 0.25, 0.5, 1.0, 1.0]


def test_a_gradient_that_is_not_finite_does_not_stay_in_the_average():
    optimizer = GradientWarmup(keras.optimizers.SGD(0.0), start=0.5, growth=1.1)
    weights = keras.Variable(np.zeros(1, np.float32))
    for value in (1.0, 1.0, np.nan, 1.0, 1.0):
        optimizer.apply([tf.constant([value])], [weights])
    assert float(optimizer.share) == 0.0
    assert float(optimizer.factor.numpy()) == pytest.approx(0.5 * 1.1**2), "after the 2nd and the 5th"


def test_sparse_gradients_are_measured():
    optimizer = GradientWarmup(keras.optimizers.SGD(1.0), start=0.5, growth=1.5)
    table = keras.Variable(np.zeros((3, 2), np.float32))
    for _ in range(2):
        slices = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([1]), tf.constant([3, 2]))
        optimizer.apply([slices], [table])
    np.testing.assert_allclose(table, [[0, 0], [-1, -1], [0, 0]])
    assert float(optimizer.factor.numpy()) == 0.75


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0.0}, r"`start` must be a finite number in \(0, 1\]"),
        ({"growth": 1.0}, r"`growth` must be"),
        ({"threshold": 3.0}, r"`threshold` must be"),
        ({"smoothing": 1.0}, r"`smoothing` must be"),
        ({"max_steps": -1}, r"`max_steps` must be"),
    ],
)
def test_bad_warm_up(settings, message):
    with pytest.raises(ConfigError, match=message):
        GradientWarmup("sgd", **settings)
