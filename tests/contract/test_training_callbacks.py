"""Every schedule, optimizer wrapper and callback: config round trip, `fit` in all its ways, saving and going on."""

import json

import callbacks_on_two_devices
import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import result_of

from kopt.train import (
    GradientWarmup,
    LearningRateMultipliers,
    MomentumSchedule,
    ScaledLearningRate,
    StochasticWeightAveraging,
    callbacks,
    schedules,
)

pytestmark = [pytest.mark.slow, pytest.mark.long]
L = keras.layers
X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = (X @ np.ones((4, 2))).astype(np.float32)
DATA = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)  # Ten steps: not a multiple of four.


def adam(rate=0.01, **settings):
    return keras.optimizers.AdamW(rate, weight_decay=0.01, **settings)


# Each row makes an optimizer and callbacks anew.
SCHEDULES = {
    "OneCycle": lambda: schedules.OneCycle(0.05, 30),
    "CosineRestarts": lambda: schedules.CosineRestarts(0.05, 7, decay=0.5),
    "Warmup": lambda: schedules.Warmup(schedules.CosineRestarts(0.05, 7), 5, power=2.0),
    "InverseSquareRoot": lambda: schedules.InverseSquareRoot(0.05, warmup_steps=5),
}
WRAPPERS = {
    "LearningRateMultipliers": lambda inner: LearningRateMultipliers(inner, {"a": 0.0, "norm": 0.5}),
    "GradientWarmup": lambda inner: GradientWarmup(inner, growth=1.3),
    "ScaledLearningRate": lambda inner: ScaledLearningRate(inner, scale=0.5),
    "MomentumSchedule": lambda inner: MomentumSchedule(inner, schedules.OneCycleMomentum(30)),
    "StochasticWeightAveraging": lambda inner: StochasticWeightAveraging(inner, start_step=5, every=3),
}
CALLBACKS = {
    "AdaptBatchNormMomentum": lambda: callbacks.AdaptBatchNormMomentum(every=10),
    "ReduceOnPlateau": lambda: callbacks.ReduceOnPlateau("loss", patience=1, min_delta=10.0),
    "early_stopping": lambda: callbacks.early_stopping("quick", monitor="loss"),
    "AveragedWeights": lambda: callbacks.AveragedWeights(batch_norm_data=DATA),
}
ROWS = {
    **{name: (lambda make=make: adam(make()), lambda: []) for name, make in SCHEDULES.items()},
    **{name: (lambda wrap=wrap: wrap(adam()), lambda: []) for name, wrap in WRAPPERS.items()},
    **{name: (lambda: adam(use_ema=True), lambda make=make: [make()]) for name, make in CALLBACKS.items()},
    "all wrappers": (
        lambda: WRAPPERS["StochasticWeightAveraging"](
            WRAPPERS["GradientWarmup"](
                WRAPPERS["LearningRateMultipliers"](
                    WRAPPERS["ScaledLearningRate"](WRAPPERS["MomentumSchedule"](adam(SCHEDULES["Warmup"]())))
                )
            )
        ),
        lambda: [make() for make in CALLBACKS.values()],
    ),
}


def model(optimizer, *, policy="float32", **options):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(3, "tanh", name="a"), L.BatchNormalization(name="norm"), L.Dense(2, name="b")]
    net = keras.Sequential([keras.Input((4,)), *layers])
    net.dtype_policy = keras.DTypePolicy(policy)  # Of the model alone: `compile` adds loss scaling.
    net.compile(optimizer, "mse", **options)
    return net


def train(row, **options):
    make_optimizer, make_callbacks = ROWS[row]
    net = model(make_optimizer(), **options)
    validation = DATA if row in ("AveragedWeights", "all wrappers") else None
    net.fit(DATA, epochs=2, shuffle=False, verbose=0, validation_data=validation, callbacks=make_callbacks())
    return net


@pytest.fixture(scope="module")
def reference():
    """Weights after plain training, row by row, each trained once."""
    known = {}

    def of(row):
        if row not in known:
            known[row] = train(row, jit_compile=False).get_weights()
        return known[row]

    return of


@pytest.mark.parametrize("row", [*SCHEDULES, *WRAPPERS])
def test_config_round_trip(row):
    found = SCHEDULES[row]() if row in SCHEDULES else WRAPPERS[row](adam())
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(found)))
    assert stored["registered_name"].startswith("kopt>")
    twin = keras.saving.deserialize_keras_object(stored)
    assert type(twin) is type(found)
    assert twin.get_config() == found.get_config()


@pytest.mark.parametrize("row", ["AdaptBatchNormMomentum", "ReduceOnPlateau", "AveragedWeights"])
def test_config_round_trip_of_callbacks(row):
    found = CALLBACKS[row]()
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(found)))
    twin = keras.saving.deserialize_keras_object(stored)
    assert type(twin) is type(found)
    assert twin.get_config() == found.get_config()


# The reference is (False, 1). What runs with both, runs with each; the row with everything in it shows that too.
WAYS = [*((row, True, 4) for row in ROWS), ("all wrappers", True, 1), ("all wrappers", False, 4)]


@pytest.mark.parametrize(("row", "jit_compile", "steps_per_execution"), WAYS)
def test_every_way_to_run_fit_gives_the_same_weights(row, jit_compile, steps_per_execution, reference):
    found = train(row, jit_compile=jit_compile, steps_per_execution=steps_per_execution).get_weights()
    for ours, theirs in zip(found, reference(row), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("row", [*WRAPPERS, "AveragedWeights", "all wrappers"])
def test_loss_scaling_gives_the_same_weights(row, reference):
    net = train(row, policy="mixed_float16", jit_compile=False)
    assert isinstance(net.optimizer, keras.optimizers.LossScaleOptimizer)
    for ours, theirs in zip(net.get_weights(), reference(row), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("row", [*WRAPPERS, "all wrappers"])
def test_saved_in_the_middle_and_gone_on_with(row, reference, tmp_path):
    make_optimizer, _ = ROWS[row]
    straight = model(make_optimizer())
    straight.fit(DATA, epochs=2, shuffle=False, verbose=0)
    first = model(make_optimizer())
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    first.fit(DATA, epochs=1, shuffle=False, verbose=0, callbacks=[saver])
    resumed = keras.models.load_model(tmp_path / "1.keras")
    for ours, theirs in zip(resumed.optimizer.variables, first.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    resumed.fit(DATA, epochs=2, initial_epoch=1, shuffle=False, verbose=0)
    for ours, theirs in zip(resumed.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_two_replicas_give_the_weights_of_one():
    apart = result_of(callbacks_on_two_devices.main)
    assert len(apart) == 2
    assert all(distance <= 1e-5 for distance in apart), apart
