"""Trainings that `model.fit` takes are taken, and come to the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.train import accelerate, callbacks, find_learning_rate, make_train_step

L = keras.layers
GENERATOR = np.random.default_rng(1)
X = GENERATOR.normal(size=(64, 4)).astype("float32")
Y = np.arange(64) % 3
CE = "sparse_categorical_crossentropy"


def mlp(units=3, activation="softmax"):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), L.Dense(8, "tanh"), L.Dense(units, activation)])


def compiled(optimizer="sgd", loss=CE, **settings):
    model = mlp(**settings)
    model.compile(optimizer, loss)
    return model


def difference(a, b):
    return max(np.abs(one - other).max() for one, other in zip(a.get_weights(), b.get_weights(), strict=True))


class OwnLoss(keras.Model):
    """The pattern of Keras' own guide: a metric that `compute_loss` moves."""

    def __init__(self):
        super().__init__()
        self.dense, self.mean = L.Dense(1), keras.metrics.Mean(name="loss")

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = keras.ops.mean(keras.ops.abs(y_pred - y)) * 100.0
        self.mean.update_state(loss)
        return loss

    @property
    def metrics(self):
        return [self.mean]


def test_a_step_refuses_a_loss_that_it_would_not_compute():
    model = OwnLoss()
    model(X)
    with pytest.raises(UnsupportedModelError, match=r"overrides `compute_loss`.*`kopt.train.accelerate`"):
        make_train_step(model, "sgd", "mse")


@pytest.mark.slow
def test_a_batch_that_is_left_out_moves_no_metric_of_the_model():
    x, y = X.copy(), X[:, :1]
    x[40] = np.nan
    model = OwnLoss()
    model.compile("sgd")
    history = accelerate(model, jit_compile=False).fit(x, y, batch_size=16, shuffle=False, verbose=0).history
    assert history["skipped_steps"] == [1]
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
def test_a_layer_that_counts_batches_does_not_count_what_is_left_out():
    class Counting(L.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), dtype="int32", trainable=False, initializer="zeros")

        def call(self, x):
            self.count.assign(self.count + 1)
            return x

    x = X.copy()
    x[40] = np.nan
    counting = Counting()
    model = keras.Sequential([keras.Input((4,)), counting, L.Dense(3, "softmax")])
    model.compile("sgd", CE)
    accelerate(model, jit_compile=False).fit(x, Y, batch_size=16, shuffle=False, verbose=0)
    assert int(counting.count) == 3


@pytest.mark.slow
def test_a_loss_scale_that_falls_takes_what_is_accumulated_with_it():
    x, y = X[:24], Y[:24]
    bad = x.copy()
    bad[8:16] = np.nan

    def trained(data, labels, scale):
        inner = keras.optimizers.SGD(1.0)
        model = compiled(keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0) if scale else inner)
        fast = accelerate(model, accumulate_steps=2, jit_compile=False)
        fast.fit(data, labels, batch_size=8, shuffle=False, verbose=0)
        return model

    good = np.r_[0:8, 16:24]
    assert difference(trained(bad, y, True), trained(x[good], y[good], False)) < 1e-6


@pytest.mark.slow
def test_an_optimizer_with_a_loss_scale_of_its_own_is_clipped_alike():
    def trained(scale):
        model = compiled(keras.optimizers.SGD(1.0, loss_scale_factor=scale))
        fast = accelerate(model, global_clip_norm=0.1, log_gradient_norm=True, jit_compile=False)
        return model, fast.fit(X, Y, batch_size=64, verbose=0).history["gradient_norm"]

    (plain, norm), (scaled, scaled_norm) = trained(None), trained(1024.0)
    assert difference(plain, scaled) < 1e-6
    assert scaled_norm == pytest.approx(norm, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("save_freq", ["epoch", 2])
def test_backup_and_restore_goes_on(tmp_path, save_freq):
    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError

    def trained(*more):
        model = compiled()
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=save_freq)
        return accelerate(model, jit_compile=False).fit(X, Y, epochs=4, verbose=0, callbacks=[backup, *more])

    with pytest.raises(RuntimeError):
        trained(Die())
    history = trained()
    assert history.epoch[-2:] == [2, 3]
    assert len(history.epoch) <= 3  # Keras begins anew with the epoch that a backup in the middle of it belongs to


def watched():
    """Return a model and the list of the shapes that it was traced with."""
    traces = []

    class Watched(L.Dense):
        def call(self, x):
            traces.append(x.shape)
            return super().call(x)

    return keras.Sequential([keras.Input((4,)), Watched(3, "softmax")]), traces


@pytest.mark.slow
def test_a_step_is_traced_once_for_batches_of_all_sizes():
    model, traces = watched()
    step = make_train_step(model, "sgd", CE, jit_compile=False)
    seen = []
    for _ in range(3):
        for start in range(0, 64, 24):
            step(X[start : start + 24], Y[start : start + 24])
        seen.append(len(traces))
    assert seen[0] == seen[2]


@pytest.mark.slow
def test_another_length_opens_the_axis_once():
    traces = []

    class Watched(L.GlobalAveragePooling1D):
        def call(self, x, mask=None):
            traces.append(x.shape)
            return super().call(x)

    model = keras.Sequential([keras.Input((None, 4)), Watched(), L.Dense(3, "softmax")])
    step = make_train_step(model, "sgd", CE, jit_compile=False)
    for length in (5, 6):
        step(np.ones((8, length, 4), "float32"), Y[:8])
    before = len(traces)
    for length in (7, 5, 8, 6, 9):
        step(np.ones((8, length, 4), "float32"), Y[:8])
    assert len(traces) == before


@pytest.mark.slow
def test_fits_with_two_batch_sizes_in_turns_trace_twice():
    model, traces = watched()
    model.compile("sgd", CE)
    fast = accelerate(model, jit_compile=False)
    for turn in range(3):
        for size in (16, 32):
            fast.fit(X, Y, batch_size=size, verbose=0)
        if turn == 0:
            before = len(traces)
    assert len(traces) == before


@pytest.mark.slow
def test_an_epoch_without_a_good_batch_has_no_loss():
    model = compiled(keras.optimizers.SGD(1e18), "mse", units=1, activation=None)
    best = keras.callbacks.EarlyStopping("loss", patience=9)
    fast = accelerate(model, jit_compile=False)
    losses = fast.fit(X, X[:, :1], epochs=3, batch_size=16, verbose=0, callbacks=[best]).history["loss"]
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1:]).all()
    assert best.best == losses[0]
    step = make_train_step(mlp(1, None), "sgd", "mse", jit_compile=False)
    assert np.isnan(step(X, 1e30 + X[:, :1])["loss"])
    assert np.isfinite(step(X, X[:, :1])["loss"])


def sequences():
    x = np.random.default_rng(0).normal(size=(32, 5, 4)).astype("float32")
    y = np.arange(160).reshape(32, 5) % 3
    y[:12, 1:] = -1
    x[y == -1] = 0
    return x, y


def accumulated_and_at_once(make, x, y, **settings):
    whole, parts = make(), make()
    whole.fit(x, y, batch_size=32, shuffle=False, verbose=0, **settings)
    accelerate(parts, accumulate_steps=4, jit_compile=False).fit(
        x, y, batch_size=8, shuffle=False, verbose=0, **settings
    )
    return difference(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_accumulated_gradients_of_a_loss_that_ignores_a_class(masked):
    def make():
        keras.utils.set_random_seed(0)
        masking = [L.Masking()] if masked else []
        model = keras.Sequential([keras.Input((5, 4)), *masking, L.Dense(3, "softmax")])
        loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
        model.compile(keras.optimizers.SGD(0.5), loss)
        return model

    assert accumulated_and_at_once(make, *sequences()) < 1e-6


@pytest.mark.slow
def test_accumulated_gradients_of_a_masked_output_in_a_dict():
    def make():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5, 4))
        model = keras.Model(inputs, {"tags": L.Dense(3, "softmax", name="tags")(L.Masking()(inputs))})
        model.compile(keras.optimizers.SGD(0.5), {"tags": CE})
        return model

    x, y = sequences()
    assert accumulated_and_at_once(make, x, {"tags": np.maximum(y, 0)}) < 1e-6


@pytest.mark.slow
def test_outputs_that_are_averaged_over_different_numbers_are_not_accumulated():
    inputs = keras.Input((4,))
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model = keras.Model(inputs, [L.Dense(1, name="a")(inputs), L.Dense(1, name="b")(inputs)])
    model.compile("sgd", [loss, loss])
    weights = [np.linspace(0, 1, 64, dtype="float32"), np.linspace(1, 5, 64, dtype="float32")]
    with pytest.raises(ConfigError, match="2 sample weights of outputs"):
        accelerate(model, accumulate_steps=2).fit(X, [X[:, :1]] * 2, sample_weight=weights, verbose=0)


@pytest.mark.slow
def test_numbers_of_a_batch_come_in_the_order_of_keras():
    def make():
        model = mlp()
        best = keras.metrics.SparseTopKCategoricalAccuracy(2, name="aaa")
        model.compile("sgd", CE, metrics=["accuracy", best])
        return model

    theirs, ours = make().train_on_batch(X, Y), accelerate(make(), jit_compile=False).train_on_batch(X, Y)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_what_compute_metrics_adds_is_not_lost_in_silence():
    class Adding(keras.Sequential):
        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            found = super().compute_metrics(x, y, y_pred, sample_weight)
            return {**found, "mean_output": keras.ops.mean(y_pred)}

    model = Adding([keras.Input((4,)), L.Dense(3, "softmax")])
    model.compile("sgd", CE)
    with pytest.raises(UnsupportedModelError, match=r"returns mean_output, of which there is no metric"):
        accelerate(model).fit(X, Y, verbose=0)


@pytest.mark.slow
def test_a_model_compiled_after_it_was_accelerated():
    model = mlp()
    fast = accelerate(model, jit_compile=False)
    model.compile(keras.optimizers.SGD(1e-5), CE)
    assert fast.fit(X, Y, verbose=0).history["loss"]
    model.compile(keras.optimizers.SGD(1e-5), CE)
    x = np.random.default_rng(0).normal(size=(512, 4)).astype("float32")
    found = find_learning_rate(fast, (x, (x[:, 0] > 0).astype(int)), min_rate=1e-4, max_rate=1000.0, steps=60)
    assert max(found.losses) > 2 * found.losses[0]  # the rate that grew is that of the optimizer that trains


@pytest.mark.slow
@pytest.mark.parametrize("parts", [lambda x, y: (x, y, None), lambda x, y: (x, (y, None))])
def test_a_generator_may_have_nothing_in_a_place(parts):
    inputs = keras.Input((4,))
    single = len(parts(X, Y)) == 3
    first, second = L.Dense(3, "softmax", name="a")(inputs), L.Activation("tanh", name="b")(inputs)
    model = keras.Model(inputs, first if single else [first, second])
    model.compile("sgd", CE if single else [CE, None])

    def batches():
        while True:
            yield parts(X[:16], Y[:16])

    history = accelerate(model, jit_compile=False).fit(batches(), steps_per_epoch=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
def test_a_layer_that_parts_the_batch_is_trained():
    class Ghost(L.Layer):
        def call(self, x):
            parts = keras.ops.reshape(x, (-1, 16, x.shape[-1]))
            return keras.ops.reshape(parts - keras.ops.mean(parts, 1, keepdims=True), (-1, x.shape[-1]))

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((4,)), Ghost(), L.Dense(3, "softmax")])
    model.compile("sgd", CE)
    assert accelerate(model, jit_compile=False).fit(X, Y, batch_size=16, verbose=0).history["loss"]


class Pooled(L.Layer):
    def call(self, x):
        return tf.reduce_mean(x, axis=1) if isinstance(x, tf.RaggedTensor) else keras.ops.mean(x, axis=1)


@pytest.mark.slow
def test_sparse_and_ragged_inputs_of_single_steps():
    inputs = keras.Input((4,), sparse=True)
    model = keras.Model(inputs, L.Dense(1)(inputs))
    model.compile("sgd", "mse")
    sparse = tf.sparse.from_dense(np.where(X > 0, X, 0))
    data = tf.data.Dataset.from_tensors((sparse, X[:, :1])).repeat(2)
    assert np.isfinite(accelerate(model, jit_compile=False).fit(data, verbose=0).history["loss"]).all()
    step = make_train_step(model, "sgd", "mse", jit_compile=False)
    for rows in (64, 32, 64):
        assert np.isfinite(step(tf.sparse.slice(sparse, [0, 0], [rows, 4]), X[:rows, :1])["loss"])
    words = keras.Sequential(
        [keras.Input((None,), dtype="int32", ragged=True), L.Embedding(9, 4), Pooled(), L.Dense(1)]
    )
    step = make_train_step(words, "sgd", "mse", jit_compile=False)
    for lengths in ([1, 2, 3], [4, 1], [2, 2, 2]):
        ragged = tf.RaggedTensor.from_row_lengths(np.arange(sum(lengths), dtype="int32") % 9, lengths)
        assert np.isfinite(step(ragged, X[: len(lengths), :1])["loss"])


@pytest.mark.slow
def test_no_epoch_changes_no_weight():
    model = compiled(keras.optimizers.SGD(0.1, use_ema=True))
    before = model.get_weights()
    accelerate(model).fit(X, Y, epochs=0, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


@pytest.mark.slow
def test_the_direction_is_that_of_the_metric():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [L.Dense(1, name="score")(inputs), L.Dense(1, name="q")(inputs)])
    model.compile(keras.optimizers.SGD(0.01), ["mse", "mse"])
    targets = [X[:, :1], X[:, 1:2]]
    reduce = callbacks.ReduceOnPlateau("val_score_loss", patience=1)
    history = model.fit(X, targets, epochs=4, validation_split=0.2, verbose=0, callbacks=[reduce]).history
    assert np.ptp(history["val_score_loss"]) > 0
    assert np.diff(history["val_score_loss"]).max() < 0
    assert len(set(history["learning_rate"])) == 1

    whole = mlp()
    whole.compile("sgd", CE, metrics=[keras.metrics.MeanIoU(3, sparse_y_pred=False)])
    whole.fit(X, Y, verbose=0)
    for name, higher in (("val_mean_io_u", True), ("val_loss", False), ("val_dice", True), ("val_mse", False)):
        callback = callbacks.ReduceOnPlateau(name)
        callback.set_model(whole)
        assert callback._is_better_when_higher() == higher


@pytest.mark.slow
def test_an_epoch_that_is_not_validated_does_not_count():
    reduce = callbacks.ReduceOnPlateau(patience=1, min_delta=10.0)
    model = compiled()
    with pytest.warns(UserWarning, match="after the first epoch, which was not validated"):
        model.fit(X, Y, epochs=4, validation_split=0.2, validation_freq=2, verbose=0, callbacks=[reduce])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)


@pytest.mark.slow
def test_a_model_without_trainable_weights_adapts_its_statistics():
    model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(), L.Dense(3, "softmax")])
    model.layers[-1].trainable = False
    model.layers[0].gamma.trainable = model.layers[0].beta.trainable = False
    model.compile("sgd", CE)
    before = model.layers[0].moving_mean.numpy()
    accelerate(model, jit_compile=False).fit(X, Y, verbose=0)
    assert np.abs(model.layers[0].moving_mean.numpy() - before).max() > 0


def test_what_cannot_be_accelerated_is_said():
    model = mlp()
    model.compile("sgd", CE, run_eagerly=True)
    with pytest.raises(ConfigError, match="`run_eagerly` and acceleration exclude each other"):
        accelerate(model)
    step = make_train_step(mlp(), "sgd", CE)
    with pytest.raises(ConfigError, match=r"never ends. Pass `steps`"):
        step.run(tf.data.Dataset.from_tensors((X, Y)).repeat())


@pytest.mark.slow
def test_a_fixed_number_of_steps_is_that_of_the_first_call_too():
    class Ends(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_train_batch_end(self, batch, logs=None):
            self.seen.append(batch)

    ends = Ends()
    fast = accelerate(mlp(), jit_compile=False)
    fast.compile("sgd", CE, steps_per_execution=4)
    fast.fit(X[:56], Y[:56], batch_size=8, epochs=2, verbose=0, callbacks=[ends])
    assert ends.seen == [3, 6, 3, 6]


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_class_is_written_as_often_as_it_says(tmp_path):
    class Counting(keras.callbacks.ModelCheckpoint):
        count = 0

        def _save_model(self, *args, **kwargs):
            self.count += 1
            return super()._save_model(*args, **kwargs)

    checkpoint = Counting(tmp_path / "model.keras", save_freq=16)
    accelerate(compiled(), jit_compile=False).fit(X, Y, batch_size=2, epochs=2, verbose=0, callbacks=[checkpoint])
    assert checkpoint.count == 4


@pytest.mark.slow
def test_a_weight_without_gradient_does_not_decay():
    class Unused(L.Layer):
        def build(self, shape):
            self.unused = self.add_weight(shape=(3,), initializer="ones")

        def call(self, x):
            return x

    unused = Unused()
    model = keras.Sequential([keras.Input((4,)), unused, L.Dense(3, "softmax")])
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.5), CE)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        accelerate(model, accumulate_steps=2, jit_compile=False).fit(X, Y, batch_size=8, verbose=0)
    np.testing.assert_array_equal(unused.unused, 1.0)
