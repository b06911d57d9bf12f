import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, TrainingError
from kopt.train import callbacks, schedules
from kopt.train.batch_norm_momentum import adapted_momentum, drift, recent_statistics
from kopt.train.optimizers.plateau import PlateauState, next_state
from kopt.train.optimizers.warmup import ScaledLearningRate

L = keras.layers
X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
Y = (X @ np.array([[1.0], [-2.0], [0.5], [0.0]])).astype(np.float32)
DATA = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def linear(optimizer, **compile_options):
    model = keras.Sequential([keras.Input((4,)), L.Dense(1, use_bias=False, kernel_initializer="zeros", name="d")])
    model.compile(optimizer, "mse", **compile_options)
    return model


def gradient(weights, batch):
    x, y = X[4 * batch : 4 * batch + 4], Y[4 * batch : 4 * batch + 4]
    return x.T @ (2 * (x @ weights - y) / 4)


def test_recent_statistics_are_read_off_the_moving_average():
    moving, momentum, batches = np.array([1.0, 2.0]), 0.8, np.random.default_rng(3).normal(size=(5, 2))
    after, weight, recent = moving, 0.0, np.zeros(2)
    for batch in batches:
        after = momentum * after + (1 - momentum) * batch
        recent, weight = momentum * recent + (1 - momentum) * batch, momentum * weight + (1 - momentum)
    np.testing.assert_allclose(recent_statistics(moving, after, momentum, 5), recent / weight, rtol=1e-12)


def test_drift_is_in_standard_deviations():
    mean, variance = np.zeros(2), np.full(2, 4.0)
    assert drift(mean, variance, mean, variance, 0.0) == 0.0
    assert drift(mean, variance, np.full(2, 1.0), variance, 0.0) == pytest.approx(0.5)
    assert drift(mean, variance, mean, variance * math.e**2, 0.0) == pytest.approx(1.0)


def test_momentum_falls_where_statistics_drift():
    limits = (0.5, 0.999)
    assert adapted_momentum(0.9, 0.1, 0.1, limits) == pytest.approx(0.9)
    assert adapted_momentum(0.9, 0.225, 0.1, limits) == pytest.approx(0.85), "a root of 1.5"
    assert adapted_momentum(0.9, 100.0, 0.1, limits) == pytest.approx(0.8), "at most twice"
    assert adapted_momentum(0.9, 0.0, 0.1, limits) == pytest.approx(0.95)
    assert adapted_momentum(0.6, 100.0, 0.1, limits) == 0.5


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_the_traced_step_uses_the_adapted_momentum(steps_per_execution):
    norm = L.BatchNormalization(name="norm", momentum=0.9)
    model = keras.Sequential([keras.Input((4,)), norm, L.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution, jit_compile=False)
    model.fit(DATA, shuffle=False, verbose=0)  # The step that this traces has the momentum as a constant.
    start = norm.moving_mean.numpy()
    adapt = callbacks.AdaptBatchNormMomentum(target=1e-3, every=2)
    model.fit(DATA, shuffle=False, verbose=0, callbacks=[adapt])
    assert [(change.step, change.layer) for change in adapt.changes] == [(2, "norm"), (4, "norm")]
    assert adapt.changes[0].momentum == pytest.approx(0.8), "the drift is far above the target"
    expected = start
    for step, momentum in enumerate([0.9, 0.9, 0.8, 0.8]):
        expected = momentum * expected + (1 - momentum) * X[4 * step : 4 * step + 4].mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-4, atol=1e-6)
    assert type(norm.momentum) is float
    assert norm.momentum == 0.9
    # The step stays traced, and goes on with the original momentum.
    start = norm.moving_mean.numpy()
    model.fit(DATA.take(1), shuffle=False, verbose=0)
    np.testing.assert_allclose(norm.moving_mean, 0.9 * start + 0.1 * X[:4].mean(0), rtol=1e-4, atol=1e-6)


def test_a_model_saved_meanwhile_has_the_original_momentum(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(momentum=0.9), L.Dense(1)])
    model.compile("sgd", "mse")
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "m.keras")
    model.fit(DATA, shuffle=False, verbose=0, callbacks=[callbacks.AdaptBatchNormMomentum(every=1), saver])
    assert keras.models.load_model(tmp_path / "m.keras").layers[0].momentum == 0.9


@pytest.mark.slow
def test_a_model_that_the_first_step_builds():
    model = keras.Sequential([L.BatchNormalization(), L.Dense(1)])
    model.compile("sgd", "mse")
    adapt = callbacks.AdaptBatchNormMomentum(every=2)
    for _ in range(2):  # The same callback serves again.
        model.fit(DATA, shuffle=False, verbose=0, callbacks=[adapt])
    assert [change.step for change in adapt.changes] == [2, 4]
    assert type(model.layers[0].momentum) is float


def test_steps_that_a_call_names_but_does_not_make_are_not_counted():
    changes = []
    for steps_per_execution in (1, 3):  # Of four steps an epoch, the second call makes one.
        model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(name="n"), L.Dense(1)])
        model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
        adapt = callbacks.AdaptBatchNormMomentum(every=4, target=0.3)
        model.fit(DATA, shuffle=False, verbose=0, callbacks=[adapt])
        changes.append([(change.step, pytest.approx(change.drift, rel=1e-4)) for change in adapt.changes])
    assert len(changes[0]) == 1
    assert changes[0][0][0] == changes[1][0][0] == 4
    assert changes[0][0][1].expected == changes[1][0][1]


def test_momenta_put_back_from_a_checkpoint_reach_the_step():
    # A checkpoint sets plain attributes and arrays after `on_train_begin`.
    norm = L.BatchNormalization(momentum=0.9)
    model, adapt = keras.Sequential([keras.Input((4,)), norm, L.Dense(1)]), callbacks.AdaptBatchNormMomentum()
    model.compile("sgd", "mse")

    class PutBack(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            adapt._momenta = np.array([0.5])

    model.fit(DATA.take(1), shuffle=False, verbose=0, callbacks=[adapt, PutBack()])
    np.testing.assert_allclose(norm.moving_mean, 0.5 * X[:4].mean(0), rtol=1e-5, atol=1e-7)


def test_a_step_that_cannot_be_changed_is_an_error():
    model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(), L.Dense(1)])
    adapt = callbacks.AdaptBatchNormMomentum()
    adapt.set_model(model)
    adapt.on_train_begin()
    adapt.on_train_batch_begin(0)
    with pytest.raises(TrainingError, match=r"was traced before `fit` began"):
        adapt.on_train_batch_end(0)
    adapt.set_model(linear("sgd"))
    with pytest.raises(ConfigError, match=r"no batch normalization"):
        adapt.on_train_begin()
    with pytest.raises(ConfigError, match=r"`every` must be"):
        callbacks.AdaptBatchNormMomentum(every=0)


def test_plateaus():
    settings = {"higher": False, "min_delta": 0.1, "patience": 2, "cooldown": 1}
    state, reduced = PlateauState(), []
    for value in (1.0, 0.8, 0.75, math.nan, 0.8, 0.9, 0.9, 0.3):
        state, reduce = next_state(state, value, **settings)
        reduced.append(reduce)
    #       best  best   1st   2nd     cooldown 1st   2nd   best
    assert reduced == [False, False, False, True, False, False, True, False]
    assert state == PlateauState(0.3, 0, 0)
    assert next_state(PlateauState(0.5), 0.7, **{**settings, "higher": True})[0].best == 0.7


class Logs(keras.callbacks.Callback):
    """Put a metric into the logs."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["accuracy"] = self.values[epoch]


def test_a_plain_learning_rate_and_a_schedule_are_reduced():
    metric, reduce = [0.5, 0.5, 0.5, 0.9], {"monitor": "accuracy", "patience": 1, "factor": 0.5, "minimum": 0.2}
    plain = linear(keras.optimizers.SGD(0.6))
    options = {"epochs": 4, "verbose": 0, "shuffle": False}
    plain.fit(DATA, **options, callbacks=[Logs(metric), callbacks.ReduceOnPlateau(**reduce)])
    assert float(plain.optimizer.learning_rate) == pytest.approx(0.2)
    rate = schedules.Warmup(0.01, 16, start_factor=0.0)
    scaled = linear(ScaledLearningRate(keras.optimizers.SGD(rate)))
    history = scaled.fit(DATA, **options, callbacks=[Logs(metric), callbacks.ReduceOnPlateau(**reduce)]).history
    np.testing.assert_allclose(history["learning_rate"], [0.0025, 0.5 * 0.005, 0.25 * 0.0075, 0.25 * 0.01], rtol=1e-5)
    weights = np.zeros((4, 1))
    for step in range(16):
        scale = [1, 1, 0.5, 0.25][step // 4]
        weights = weights - scale * 0.01 * step / 16 * gradient(weights, step % 4)
    np.testing.assert_allclose(scaled.get_weights()[0], weights, rtol=1e-4, atol=1e-6)


def test_a_schedule_without_the_wrapper_is_refused_before_training():
    model = linear(keras.optimizers.SGD(schedules.Warmup(0.1, 10)))
    with pytest.raises(ConfigError, match=r"follows a schedule, .*ScaledLearningRate"):
        model.fit(DATA, shuffle=False, verbose=0, callbacks=[callbacks.ReduceOnPlateau()])
    with pytest.raises(ConfigError, match=r"The logs have no 'los'. Did you mean 'loss'\?"):
        linear("sgd").fit(DATA, shuffle=False, verbose=0, callbacks=[callbacks.ReduceOnPlateau("los")])
    with pytest.warns(UserWarning, match=r"no 'val_loss' after the first epoch, which was not validated"):
        linear("sgd").fit(DATA, shuffle=False, verbose=0, callbacks=[callbacks.ReduceOnPlateau()])
    with pytest.raises(ConfigError, match=r"`factor` must be"):
        callbacks.ReduceOnPlateau(factor=1.0)


def test_every_fit_starts_afresh():
    model, callback = linear("sgd"), callbacks.ReduceOnPlateau("loss", min_delta=10.0, patience=9)
    for _ in range(2):
        model.fit(DATA, epochs=3, shuffle=False, verbose=0, callbacks=[callback])
        assert callback.state.wait == 2


def test_early_stopping_presets():
    quick, patient = (
        callbacks.early_stopping("quick"),
        callbacks.early_stopping("patient", monitor="val_acc", mode="max"),
    )
    assert (quick.monitor, quick.patience, abs(quick.min_delta), quick.restore_best_weights) == (
        "val_loss",
        3,
        1e-3,
        True,
    )
    assert (patient.monitor, patient.patience, patient.min_delta) == ("val_acc", 30, 0)
    assert callbacks.early_stopping(patience=2).patience == 2
    with pytest.raises(ConfigError, match=r"Unknown `preset` 'fast'"):
        callbacks.early_stopping("fast")
    with pytest.raises(ConfigError, match=r"Unknown setting 'patiense'. Did you mean 'patience'"):
        callbacks.early_stopping(patiense=2)
