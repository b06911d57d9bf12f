import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import ConfigError
from kopt.train import callbacks
from kopt.train.averaging import StochasticWeightAveraging, running_mean

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


def sgd_path(rate, steps):
    """Return the weights after every step of plain SGD over the four batches, as NumPy computes them."""
    weights, path = np.zeros((4, 1)), []
    for step in range(steps):
        weights = weights - rate * gradient(weights, step % 4)
        path.append(weights)
    return path


def test_the_average_of_snapshots_is_their_mean():
    optimizer = StochasticWeightAveraging(keras.optimizers.SGD(0.1), start_step=3, every=2)
    model = linear(optimizer)
    model.fit(DATA, epochs=2, shuffle=False, verbose=0)
    path = sgd_path(0.1, 8)
    assert int(optimizer.count.numpy()) == 3
    expected = (path[2] + path[4] + path[6]) / 3
    # As with `use_ema`, `fit` ends with the averages.
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5, atol=1e-6)


def test_snapshots_by_epoch_and_by_fraction():
    sgd = keras.optimizers.SGD
    optimizer = StochasticWeightAveraging.epochs(sgd(), steps_per_epoch=10, start_epoch=2, every_epochs=3)
    assert (optimizer.start_step, optimizer.every) == (30, 30), "at the end of epochs 2, 5, 8, ..."
    assert StochasticWeightAveraging.fraction(sgd(), total_steps=101, start=0.5).start_step == 51
    assert StochasticWeightAveraging.fraction(sgd(), total_steps=10, start=0.0).start_step == 1


def test_no_snapshot_leaves_the_weights():
    model = linear(StochasticWeightAveraging(keras.optimizers.SGD(0.1), start_step=100))
    model.fit(DATA, shuffle=False, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], sgd_path(0.1, 4)[-1], rtol=1e-5, atol=1e-6)


def test_running_mean():
    values, mean = [3.0, 5.0, 10.0], tf.constant(0.0)
    for count, value in enumerate(values, 1):
        mean = running_mean(mean, value, tf.constant(count))
    assert float(mean) == pytest.approx(6.0)


def test_accumulated_micro_batches_are_one_update():
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer = StochasticWeightAveraging(inner, start_step=1, every=1)
    linear(optimizer).fit(DATA, shuffle=False, verbose=0)
    assert int(optimizer.count.numpy()) == 2


@pytest.mark.slow
def test_averages_survive_saving_and_go_on(tmp_path):
    straight = linear(StochasticWeightAveraging(keras.optimizers.SGD(0.1, momentum=0.5), start_step=2))
    straight.fit(DATA, epochs=3, shuffle=False, verbose=0)
    first = linear(StochasticWeightAveraging(keras.optimizers.SGD(0.1, momentum=0.5), start_step=2))
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    first.fit(DATA, epochs=2, shuffle=False, verbose=0, callbacks=[saver])
    resumed = keras.models.load_model(tmp_path / "2.keras")
    assert int(resumed.optimizer.count.numpy()) == 7
    resumed.fit(DATA, epochs=3, initial_epoch=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(resumed.get_weights()[0], straight.get_weights()[0])


class Seen(keras.callbacks.Callback):
    """What validation evaluates, and what the model holds after each epoch."""

    def __init__(self):
        super().__init__()
        self.evaluated, self.trained = [], []

    def on_test_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.evaluated.append(self.model.get_weights()[0])

    def on_epoch_end(self, epoch, logs=None):
        self.trained.append(self.model.get_weights()[0])


@pytest.mark.parametrize("finish", ["averaged", "trained"])
def test_ema_weights_are_evaluated_and_the_trained_ones_come_back(finish):
    model, seen = linear(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)), Seen()
    callback = callbacks.AveragedWeights(finish=finish)
    history = model.fit(DATA, epochs=2, shuffle=False, verbose=0, validation_data=(X, Y), callbacks=[callback, seen])
    path = sgd_path(0.1, 8)
    average, averages = path[0], []
    for weights in path[1:]:
        average = 0.5 * average + 0.5 * weights
        averages.append(average)
    np.testing.assert_allclose(seen.evaluated, [averages[2], averages[6]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.trained, [path[3], path[7]], rtol=1e-5, atol=1e-6)
    error = np.mean((X @ averages[6] - Y) ** 2)
    assert history.history["val_loss"][-1] == pytest.approx(error, rel=1e-4)
    expected = averages[6] if finish == "averaged" else path[7]
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5, atol=1e-6)


def test_evaluation_can_use_the_trained_weights():
    model, seen = linear(keras.optimizers.SGD(0.1, use_ema=True)), Seen()
    callback = callbacks.AveragedWeights(evaluate=False)
    model.fit(DATA, shuffle=False, verbose=0, validation_data=(X, Y), callbacks=[callback, seen])
    np.testing.assert_array_equal(seen.evaluated, seen.trained)


@pytest.mark.slow
def test_batch_norm_gets_statistics_that_fit_the_averages():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="d"), L.BatchNormalization(name="n"), L.Dense(1)])
    model.compile(StochasticWeightAveraging(keras.optimizers.SGD(0.1), start_step=2), "mse")
    seen = []

    class Statistics(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            seen.append((model.get_layer("d").get_weights(), model.get_layer("n").moving_mean.numpy()))

        def on_epoch_end(self, epoch, logs=None):
            seen.append((model.get_layer("d").get_weights(), model.get_layer("n").moving_mean.numpy()))

    model.fit(
        DATA,
        shuffle=False,
        verbose=0,
        validation_data=(X, Y),
        callbacks=[callbacks.AveragedWeights(batch_norm_data=DATA), Statistics()],
    )
    seen.append((model.get_layer("d").get_weights(), model.get_layer("n").moving_mean.numpy()))
    fits = [np.allclose(X.mean(0) @ kernel + bias, mean, atol=1e-5) for (kernel, bias), mean in seen]
    assert fits == [True, False, True], "in validation, in training, at the end"
    np.testing.assert_allclose(model.get_layer("n").moving_variance, (X @ seen[-1][0][0]).var(0), rtol=1e-4)


@pytest.mark.slow
def test_averages_that_cannot_be_had_are_refused_before_training():
    def fit(optimizer, norm=False, **settings):
        layers = [L.BatchNormalization()] if norm else []
        model = keras.Sequential([keras.Input((4,)), *layers, L.Dense(1)])
        model.compile(optimizer, "mse")
        model.fit(DATA, shuffle=False, verbose=0, callbacks=[callbacks.AveragedWeights(**settings)])
        return int(keras.ops.convert_to_numpy(model.optimizer.iterations))

    with pytest.raises(ConfigError, match=r"keeps no averages"):
        fit("sgd")
    with pytest.raises(ConfigError, match=r"1 epochs of 4 steps end before `start_step` 5"):
        fit(StochasticWeightAveraging("sgd", start_step=5))
    with pytest.raises(ConfigError, match=r"do not fit averaged weights"):
        fit(StochasticWeightAveraging("sgd", start_step=2), norm=True)
    assert fit(StochasticWeightAveraging("sgd", start_step=2), norm=True, batch_norm_data=False) == 4
    assert fit(keras.optimizers.SGD(use_ema=True), norm=True) == 4
    with pytest.raises(ConfigError, match=r"Unknown `finish` 'average'"):
        callbacks.AveragedWeights(finish="average")
    with pytest.raises(ConfigError, match=r"both end `fit`"):
        StochasticWeightAveraging(keras.optimizers.SGD(use_ema=True), start_step=1)
    with pytest.raises(ConfigError, match=r"`start_step` must be a whole number"):
        StochasticWeightAveraging("sgd", start_step=0)


def test_training_that_makes_fewer_updates_than_an_average_needs_says_so():
    model = linear(StochasticWeightAveraging("sgd", start_step=3))
    four = kopt.train.accelerate(model, accumulate_steps=4, jit_compile=False)
    with pytest.warns(UserWarning, match=r"optimizer has made 2 updates, and `start_step` is 3\."):
        four.fit(DATA, epochs=2, verbose=0, callbacks=[callbacks.AveragedWeights()])
    trained = model.get_weights()
    four.fit(DATA, epochs=1, verbose=0, callbacks=[callbacks.AveragedWeights()])
    assert not np.array_equal(trained[0], model.get_weights()[0])


class Interrupting(keras.callbacks.Callback):
    """Ends the first validation as Ctrl-C would."""

    done = False

    def on_test_batch_end(self, batch, logs=None):
        if not self.done:
            self.done = True
            raise KeyboardInterrupt


def test_what_an_interrupted_validation_left_is_put_back_before_training_goes_on():
    model = linear(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9))
    average = callbacks.AveragedWeights(finish="trained")
    with pytest.raises(KeyboardInterrupt):
        model.fit(DATA, validation_data=DATA, callbacks=[average, Interrupting()], shuffle=False, verbose=0)
    model.fit(DATA, validation_data=DATA, callbacks=[average], shuffle=False, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], sgd_path(0.1, 8)[-1], rtol=1e-5, atol=1e-6)
