import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    OutputExistsError,
    TrainingError,
    UnsupportedModelError,
)
from kopt.core.serialization import Record
from kopt.train import accelerate
from kopt.train.finders import rate_curve
from kopt.train.finders.learning_rate import LearningRateRange, find_learning_rate

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 4)).astype("float32")
Y = (X @ np.array([1.0, -2.0, 0.5, 3.0]) > 0).astype("int32")


def make_model(optimizer="sgd", *, loss="sparse_categorical_crossentropy", seed=1):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.1), keras.layers.Dense(2, "softmax")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


# The maths, against arithmetic by hand.


def test_rates_grow_by_one_factor():
    np.testing.assert_allclose(rate_curve.growing_rates(1e-3, 10.0, 5), [1e-3, 1e-2, 1e-1, 1, 10])


def test_smoothed_by_hand():
    # Weights 1, 1/2, 1/4; none above the start, which is all three points here.
    losses = np.array([4.0, 2.0, 0.0])
    expected = [(4 + 1 + 0) / 1.75, (2 + 2 + 0) / 2, (1 + 1 + 0) / 1.75]
    np.testing.assert_allclose(rate_curve.smoothed(losses, 0.5), expected)
    np.testing.assert_allclose(rate_curve.smoothed(losses, 0.0), losses)


def test_smoothing_does_not_see_how_far_the_end_shoots_up():
    losses = np.array([3.0, 3.0, 3.0, 2.0, 1.0, 2.0, 9.0])
    high = losses.copy()
    high[-1] = 1e6
    np.testing.assert_array_equal(rate_curve.smoothed(losses, 0.8), rate_curve.smoothed(high, 0.8))
    # Symmetric: the lowest point of a V stays where it is.
    assert np.argmin(rate_curve.smoothed(np.abs(np.arange(-10.0, 11.0)), 0.8)) == 10


def test_suggestions_on_a_parabola_in_the_logarithm():
    # loss = (log10(rate) + 2)^2 between 1e-5 and 10, 61 steps of a tenth of a decade: lowest at 1e-2, index 30.
    rates = rate_curve.growing_rates(1e-5, 10.0, 61)
    curve = (np.log10(rates) + 2) ** 2
    assert rate_curve.minimum(rates, curve) == pytest.approx(1e-3)
    # The slope is steepest at the left end. The fall has the 31 points 0 to 30: index 30 - 15.
    assert rate_curve.steepest(rates, curve) == pytest.approx(1e-5)
    assert rate_curve.valley(rates, curve) == pytest.approx(1e-5 * 10**1.5)


def test_suggestions_on_a_step():
    # Falls fastest where the sigmoid has its middle, 1e-3; never rises, so the longest fall is the whole curve.
    rates = rate_curve.growing_rates(1e-6, 1.0, 61)
    curve = 1 / (1 + np.exp(2 * (np.log10(rates) + 3)))
    assert rate_curve.steepest(rates, curve) == pytest.approx(1e-3)
    assert rate_curve.minimum(rates, curve) == pytest.approx(0.1)
    assert rate_curve.valley(rates, curve) == pytest.approx(rates[60 - 30])


def test_valley_skips_bumps():
    # The longest falling subsequence is 9, 7, 6, 4, 3: 5 points that end at index 6, so index 6 - 2.
    curve = np.array([9.0, 7.0, 8.0, 6.0, 4.0, 5.0, 3.0, 10.0])
    rates = rate_curve.growing_rates(1e-7, 1.0, 8)
    assert rate_curve.valley(rates, curve) == pytest.approx(1e-3)


def test_steepest_looks_no_further_than_the_lowest_point():
    rates = rate_curve.growing_rates(1e-5, 1.0, 6)
    curve = np.array([5.0, 4.0, 1.0, 9.0, 8.9, 2.0])
    assert rate_curve.steepest(rates, curve) == pytest.approx(1e-4)  # (1 - 5) / 2 a step


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_noisy_curve_still_suggests_near_the_middle_of_the_fall(noise):
    # Flat at 2.3, falls round 1e-3 by 2, diverges from 0.1 on.
    rates = rate_curve.growing_rates(1e-7, 10.0, 100)
    place = np.log10(rates)
    clean = 2.3 - 2 / (1 + np.exp(-3 * (place + 3))) + np.exp(4 * (place + 0.5))
    for seed in range(10):
        losses = clean + noise * np.random.default_rng(seed).standard_normal(100)
        curve = rate_curve.smoothed(losses, 0.8)
        assert rate_curve.falls(losses, 0.8)
        assert 2e-4 < rate_curve.steepest(rates, curve) < 6e-3
        assert 1e-6 < rate_curve.valley(rates, curve) < 1e-2
        assert 1e-3 < rate_curve.minimum(rates, curve) < 1e-1


def test_noise_alone_does_not_fall():
    draws = [np.random.default_rng(seed).standard_normal(100) for seed in range(200)]
    assert not any(rate_curve.falls(2.3 + 0.2 * draw, 0.8) for draw in draws)
    assert not rate_curve.falls(np.full(50, 1.0), 0.8)
    assert not rate_curve.falls(np.linspace(1, 2, 50), 0.8)
    assert rate_curve.falls(np.linspace(2, 1, 50), 0.8)


def test_divergence_by_hand():
    # smoothing 1/2: averages 4, (4/4 + 2/2)/(3/4) = 8/3, (4/8 + 2/4 + 16/2)/(7/8) = 72/7 > 3 * 8/3.
    stop = rate_curve.Divergence(0.5, 3.0)
    assert [stop.add(loss) for loss in (4.0, 2.0, 16.0)] == [False, False, True]
    # Losses below zero: lowest -4, first 0, so the scale is 4; the average of -4, -4, 5 is 0.5 > -4 + 1 * 4.
    stop = rate_curve.Divergence(0.0, 2.0)
    assert [stop.add(loss) for loss in (0.0, -4.0, -1.0, 0.5)] == [False, False, False, True]


# The finder.


def reference_losses(rates):
    """Return the losses of SGD steps on batches 0, 1, 0, 1, ... of 32, written out with a tape."""
    model = make_model()
    losses = []
    for step, rate in enumerate(rates):
        rows = slice(32 * (step % 2), 32 * (step % 2) + 32)
        with tf.GradientTape() as tape:
            y_pred = model(X[rows], training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y[rows], y_pred))
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign_sub(rate * gradient)
        losses.append(float(loss))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.5),
        lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.5, 10)),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)),
    ],
    ids=["variable", "schedule", "loss scale"],
)
def test_losses_are_those_of_steps_with_the_growing_rate(optimizer):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    found = find_learning_rate(make_model(optimizer()), dataset, min_rate=1e-3, max_rate=10.0, steps=12)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-3, 10, 12))
    np.testing.assert_allclose(found.losses, reference_losses(found.rates), rtol=2e-5)
    assert (found.stopped, found.passes) == ("completed", 6)
    assert found.notes[0] == "The data ends after 2 batches and was begun 6 times for 12 steps."


def state(model):
    variables = [*model.variables, *model.optimizer.variables, *(v for m in model.metrics for v in m.variables)]
    return (
        [np.asarray(v).tobytes() for v in variables],
        model.optimizer.built,
        model.train_function,
        model.stop_training,
    )


@pytest.mark.slow
def test_model_and_random_numbers_are_as_before():
    def run(find):
        model = make_model(keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)))
        model.train_on_batch(X, Y)
        if find:
            before, schedule = state(model), model.optimizer._learning_rate
            find_learning_rate(model, (X, Y), steps=12)
            assert state(model) == before
            assert model.optimizer._learning_rate is schedule
            assert model.steps_per_execution == 1
        model.fit(X, Y, verbose=0)
        return state(model)[0], random.random(), np.random.rand(), tf.random.uniform((2,)).numpy().tolist()

    assert run(find=True) == run(find=False)


@pytest.mark.slow
def test_finds_a_rate_that_trains_and_says_so_in_a_file(tmp_path):
    found = find_learning_rate(make_model(), (X, Y), batch_size=16, steps=60)
    assert found.stopped in ("diverged", "completed")
    assert 1e-2 < found.suggestion == found.steepest < 5
    assert found.valley < found.steepest
    model = make_model(keras.optimizers.SGD(found.suggestion))
    history = model.fit(X, Y, batch_size=16, epochs=2, verbose=0).history["loss"]
    assert history[1] < 0.8 * history[0]
    found.plot(tmp_path / "rates.svg")
    text = (tmp_path / "rates.svg").read_text()
    assert text.startswith("<svg")
    assert f"train with {found.suggestion:.2g}" in text
    with pytest.raises(OutputExistsError):
        found.plot(tmp_path / "rates.svg")
    assert found.plot(tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"must end with \.svg or \.png\. Received: '.*rates\.pdf'"):
        found.plot(tmp_path / "rates.pdf")
    assert LearningRateRange.from_json(found.to_json()) == found
    assert isinstance(found, Record)


def test_custom_steps_weights_and_generators():
    class Doubled(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return 2 * tf.reduce_mean(sample_weight * tf.square(y - y_pred[:, 0]))

    def batches():
        for _ in range(11):
            yield X[:8], X[:8, 0], np.full(8, 3.0, "float32")

    model = Doubled()
    model.compile(keras.optimizers.SGD(0.1))
    found = find_learning_rate(model, batches, steps=20, min_rate=1e-4, max_rate=1e-1)
    assert not model.built
    assert (found.stopped, len(found.losses), found.passes) == ("data ended", 11, 1)
    assert "after 11 batches" in found.notes[0]
    assert model.weights == []


@pytest.mark.slow
def test_class_weight_reaches_the_loss():
    plain = find_learning_rate(make_model(), (X, Y), steps=10, batch_size=64)
    doubled = find_learning_rate(make_model(), (X, Y), steps=10, batch_size=64, class_weight={0: 2.0, 1: 2.0})
    assert doubled.losses[0] == pytest.approx(2 * plain.losses[0], rel=1e-5)


def test_loss_that_never_falls_gives_no_suggestion():
    # Labels that have nothing to do with anything, in one batch each: the loss is noise about log 2 until it diverges.
    model = make_model()
    labels = np.random.default_rng(1).integers(0, 2, 64)
    found = find_learning_rate(model, (np.zeros_like(X), labels), batch_size=4, steps=40, max_rate=1e-2)
    assert (found.steepest, found.valley, found.minimum) == (None, None, None)
    assert found.notes[-1] == "The loss did not fall by more than chance."
    with pytest.raises(TrainingError, match="no rate can be suggested"):
        _ = found.suggestion


def test_loss_that_becomes_infinite_ends_the_test():
    # Squares of squares overflow float32 within a few steps at such rates.
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    found = find_learning_rate(model, (X, X[:, :1]), min_rate=1.0, max_rate=1e30, steps=30, stop_factor=None)
    assert found.stopped == "non-finite loss"
    assert all(map(math.isfinite, found.losses))


@pytest.mark.slow
def test_accelerated_model_takes_its_own_steps():
    # Two batches an update, each of 32, which together are the whole data: the loss of a step is that of all 64 rows.
    def linear():
        keras.utils.set_random_seed(2)
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])

    plain, inner = linear(), linear()
    plain.compile(keras.optimizers.SGD(0.1), "mse")
    dataset = tf.data.Dataset.from_tensor_slices((X, X[:, :1] * 3)).batch(32)
    expected = find_learning_rate(plain, dataset.unbatch().batch(64), steps=10, min_rate=1e-3, max_rate=1.0)
    accelerated = accelerate(inner, accumulate_steps=2)
    accelerated.compile(keras.optimizers.SGD(0.1), "mse")
    accelerated.train_on_batch(X[:32], X[:32, :1] * 3)
    before = [np.asarray(v).tobytes() for v in (*inner.variables, *inner.optimizer.variables)]
    runner, pending = accelerated.engine.runner, int(accelerated.engine.runner.update.pending)
    found = find_learning_rate(accelerated, dataset, steps=10, min_rate=1e-3, max_rate=1.0)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    assert [np.asarray(v).tobytes() for v in (*inner.variables, *inner.optimizer.variables)] == before
    assert accelerated.engine.runner is runner
    assert int(runner.update.pending) == pending == 1
    assert accelerated.config.skip_nonfinite


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_rate": 1.0, "max_rate": 0.1}, "grows from `min_rate` to `max_rate`"),
        ({"min_rate": 0.0}, "`min_rate` must be"),
        ({"steps": 5}, "`steps` must be a whole number of at least 10"),
        ({"smoothing": 1.0}, "`smoothing` must be"),
        ({"stop_factor": 1.0}, "`stop_factor` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        find_learning_rate(make_model(), (X, Y), **settings)


def test_models_that_cannot_be_tested():
    with pytest.raises(ConfigError, match="not compiled"):
        find_learning_rate(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), (X, Y))
    with pytest.raises(ConfigError, match=r"A compiled `keras.Model` is needed. Received: builtins.int"):
        find_learning_rate(3, (X, Y))

    class Silent(keras.Sequential):
        def train_step(self, data):
            return {"accuracy": tf.constant(1.0)}

    model = Silent([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(UnsupportedModelError, match=r"no 'loss' \(it returns: accuracy\)"):
        find_learning_rate(model, (X, Y))


@pytest.mark.slow
def test_data_that_cannot_be_tested():
    empty = tf.data.Dataset.from_tensor_slices((X, Y)).batch(100, drop_remainder=True)
    with pytest.raises(DataError, match="no batch"):
        find_learning_rate(make_model(), empty)
    with pytest.raises(NonFiniteError, match="Targets of the first batch has 64"):
        find_learning_rate(make_model(loss="mse"), (X, np.full((64, 2), np.nan, "float32")))
    overflowing = make_model(loss="mse")
    with pytest.raises(NonFiniteError, match="very first batch is inf"):
        find_learning_rate(overflowing, (X, np.full((64, 2), 1e38, "float32")))
    with pytest.raises(ConfigError, match="tuple of 4"):
        find_learning_rate(make_model(), (X, Y, Y, Y))
