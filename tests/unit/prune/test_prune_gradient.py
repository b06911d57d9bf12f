import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, DataError
from kopt.prune import finalize, gradient

L = keras.layers
RNG = np.random.default_rng(0)


def linear():
    """Return a model and data of which two inputs are always zero."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), L.Dense(3, use_bias=False, name="linear")], name="net")
    model.compile("sgd", "mse")
    x = RNG.normal(size=(64, 6)).astype("float32")
    x[:, [1, 4]] = 0.0
    return model, x, RNG.normal(size=(64, 3)).astype("float32")


@pytest.mark.slow
def test_weights_without_gradient_go_and_nothing_changes():
    model, x, y = linear()
    before = model.get_weights()[0].copy()
    pruned, report = gradient(model, (x, y), threshold=1e-8, batch_size=16)
    mask = pruned.get_weights()[0] != 0
    assert mask.tolist() == [[row not in (1, 4)] * 3 for row in range(6)]
    np.testing.assert_allclose(pruned.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    assert report.sparsity == pytest.approx(1 / 3)
    assert "Measured over 4 batches." in report.notes
    np.testing.assert_array_equal(model.get_weights()[0], before)
    pruned.compile("adam", "mse")
    pruned.fit(x + 1, y, epochs=2, verbose=0)
    plain, _ = finalize(pruned)
    np.testing.assert_array_equal(plain.get_weights()[0] != 0, mask)


@pytest.mark.parametrize("measure", ["gradient", "taylor"])
def test_the_measure_is_that_of_numpy(measure):
    model, x, y = linear()
    weights = model.get_weights()[0]
    total = np.zeros_like(weights)
    for start in range(0, 64, 16):
        inputs, targets = x[start : start + 16], y[start : start + 16]
        found = 2 / targets.size * inputs.T @ (inputs @ weights - targets)
        total += np.abs(found * (weights if measure == "taylor" else 1))
    pruned, _ = gradient(model, (x, y), sparsity=0.5, batch_size=16, measure=measure)
    smallest = np.argsort(total, axis=None)[:9]
    assert sorted(np.flatnonzero(pruned.get_weights()[0] == 0)) == sorted(smallest)


def test_a_single_batch_is_said():
    model, x, y = linear()
    _, report = gradient(model, (x, y), sparsity=0.5, batches=1)
    assert "Measured on a single batch: chance has decided." in report.notes


def test_what_it_refuses():
    model, x, y = linear()
    with pytest.raises(ConfigError, match="Give one of"):
        gradient(model, (x, y))
    with pytest.raises(ConfigError, match="Give one of"):
        gradient(model, (x, y), threshold=0.1, sparsity=0.1)
    with pytest.raises(ConfigError, match=r"in \[0, 1\)"):
        gradient(model, (x, y), sparsity=1.0)
    with pytest.raises(ConfigError, match="must be a finite number in"):
        gradient(model, (x, y), threshold=0.0)
    with pytest.raises(ConfigError, match="Unknown `measure`"):
        gradient(model, (x, y), sparsity=0.5, measure="norm")
    with pytest.raises(ConfigError, match="the smallest is"):
        gradient(model, (x + 1, y), threshold=1e-9)
    with pytest.raises(ConfigError, match="There is no loss"):
        gradient(keras.Sequential([keras.Input((6,)), L.Dense(3)]), (x, y), sparsity=0.5)
    with pytest.raises(DataError):
        gradient(model, (x[:, :5], y), sparsity=0.5)
    with pytest.raises(DataError, match="There is no batch"):
        gradient(model, (x[:0], y[:0]), sparsity=0.5)


def test_a_share_is_reached_where_many_gradients_are_equal():
    """Those of inputs that are always zero, as at the border of an image."""
    model, x, y = linear()
    pruned, report = gradient(model, (x, y), sparsity=1 / 6)
    assert report.sparsity == pytest.approx(1 / 6)
    rows = np.flatnonzero((pruned.get_weights()[0] == 0).any(axis=1))
    assert set(rows) <= {1, 4}
    with pytest.raises(ConfigError, match=r"`sparsity=0\.01` of 18 weights is none"):
        gradient(model, (x, y), sparsity=0.01)


def test_small_gradients_of_float16_are_seen():
    """Of a mean over many pixels, and a loss of small weight, most would be zero."""

    def build():
        keras.utils.set_random_seed(0)
        x = i = keras.Input((32, 32, 3))
        for n in range(3):
            x = L.Conv2D(8, 3, padding="same", activation="relu", name=f"conv{n}")(x)
        return keras.Model(i, L.Conv2D(2, 1, activation="softmax", dtype="float32", name="classes")(x))

    single = build()
    with kopt.train.precision("mixed_float16"):
        half = build()
    half.set_weights(single.get_weights())
    data = RNG.normal(size=(16, 32, 32, 3)).astype("float32"), RNG.integers(0, 2, (16, 32, 32))

    def loss(y, predicted):
        return 1e-3 * keras.losses.sparse_categorical_crossentropy(y, predicted)

    settings = {"sparsity": 0.5, "loss": loss, "batch_size": 16, "batches": 1}
    same = [
        (a == 0) == (b == 0)
        for a, b in zip(
            gradient(single, data, **settings)[0].get_weights(),
            gradient(half, data, **settings)[0].get_weights(),
            strict=True,
        )
        if a.ndim > 1
    ]
    assert np.mean(np.concatenate([one.ravel() for one in same])) > 0.98


def test_whole_channels_that_nothing_moves_go_together():
    """Two hidden units whose ReLU is never positive have no gradient, whatever their weights."""
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, activation="relu", name="hidden"), L.Dense(8, activation="relu", name="second")]
    model = keras.Sequential([keras.Input((6,)), *layers, L.Dense(3, name="out")])
    model.compile("sgd", "mse")
    bias = np.zeros(8, "float32")
    bias[[2, 5]] = -100.0
    model.get_layer("hidden").bias.assign(bias)
    x, y = RNG.normal(size=(64, 6)).astype("float32"), RNG.normal(size=(64, 3)).astype("float32")
    pruned, report = gradient(model, (x, y), threshold=1e-9, granularity="channel")
    dead = (pruned.get_layer("hidden").kernel.numpy() == 0).all(axis=0)
    assert np.flatnonzero(dead).tolist() == [2, 5]
    assert [one.layer for one in report.skipped] == ["out"]
    for layer in ("hidden", "second"):
        zero = pruned.get_layer(layer).kernel.numpy() == 0
        np.testing.assert_array_equal(zero.all(axis=0), zero.any(axis=0))
    # Of 6 * 8 + 8 * 8 weights a quarter: channels of 6 and of 8 weights, as many as fit into 28.
    _, half = gradient(model, (x, y), sparsity=0.25, granularity="channel")
    removed = round(half.sparsity * 112)
    assert removed <= 28 < removed + 8
