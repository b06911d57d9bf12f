"""The rates by layer that `TrainingProfile` advises, against the best single rate."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from kopt.measure import ab_test
from kopt.profile import TrainingProfile
from kopt.train import LearningRateMultipliers

RATES = (0.4, 0.8, 1.6, 3.2, 6.4)
SEEDS = range(5)
L = keras.layers


def deep_sigmoid(seed):
    """Return a network whose gradients shrink towards its input."""
    keras.utils.set_random_seed(seed)
    hidden = [L.Dense(64, "sigmoid", name=f"hidden_{number}") for number in range(3)]
    return keras.Sequential([keras.Input((64,)), *hidden, L.Dense(10, name="logits")], name="net")


def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order].astype("int32")
    return [(x[part], y[part]) for part in (slice(0, 1000), slice(1000, 1300), slice(1300, None))]


def train(seed, rate, data, *, multipliers=None, epochs=8, callbacks=()):
    model = deep_sigmoid(seed)
    optimizer = keras.optimizers.SGD(rate)
    if multipliers is not None:
        optimizer = LearningRateMultipliers(optimizer, multipliers)
    # Watched steps come one by one; of others 31, all of an epoch but its last, take less time in one call.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, steps_per_execution=1 if callbacks else 31)
    model.fit(*data, batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.slow
def test_advised_rates_beat_the_best_single_rate_on_held_out_loss_over_five_seeds(capsys):
    training, validation, held_out = digits()
    watch = TrainingProfile(every=4)
    train(99, 0.03, training, epochs=2, callbacks=[watch])
    advice = next(one for one in watch.advice if one.kind == "uneven gradient variance")
    rates, models = [], []
    for multipliers in (None, advice.multipliers):
        tried = {
            rate: train(98, rate, training, multipliers=multipliers).evaluate(*validation, verbose=0) for rate in RATES
        }
        rates.append(min(tried, key=tried.get))
        assert rates[-1] < RATES[-1], f"The best rate may lie outside {tried}."
        models.append([train(seed, rates[-1], training, multipliers=multipliers) for seed in SEEDS])
    records = [ab_test(single, by_layer, held_out, metric="loss") for single, by_layer in zip(*models, strict=True)]
    with capsys.disabled():
        print(f"\nBest rates: {rates[0]:g} for all layers (a), {rates[1]:g} times the advised multipliers (b).")
        for record in records:
            print(record.table(width=100))
    assert [record.verdict for record in records] == ["better"] * len(records)
