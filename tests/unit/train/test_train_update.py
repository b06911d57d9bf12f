import keras
import numpy as np
import pytest
import tensorflow as tf
from training_cases import CLASSES, examples, largest_difference, network

from kopt.core.errors import ConfigError
from kopt.core.records.training.steps import StepConfig
from kopt.train.steps.update import Update

X, Y = examples(40)
EXACT = {"dropout": 0, "batch_norm": False}


def update_of(model, **settings):
    model.optimizer.build(model.trainable_variables)
    update = Update(model, StepConfig(**settings))
    return update, tf.function(update.step, autograph=False), tf.function(update.flush, autograph=False)


def micro_batches(sizes):
    ends = np.cumsum(sizes)
    return [(X[end - size : end], Y[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def test_one_step_of_sgd_by_hand():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0], [2.0]])])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    update, step, _ = update_of(model)
    # y_pred = 1 + 2 * 2 = 5, loss = (5 - 1)^2 = 16, gradient = 2 * 4 * x = (8, 16).
    step((np.array([[1.0, 2.0]], np.float32), np.array([[1.0]], np.float32)))
    np.testing.assert_allclose(model.get_weights()[0], [[0.2], [0.4]], rtol=1e-6)
    assert float(update.logs()["loss"]) == pytest.approx(16.0)


@pytest.mark.slow
def test_steps_are_those_of_keras():
    plain, ours = network(), network()
    update, step, _ = update_of(ours)
    plain_logs = plain.fit(X, Y, batch_size=16, shuffle=False, verbose=0).history
    for batch in micro_batches([16, 16, 8]):
        step(batch)
    assert largest_difference(plain, ours) < 1e-6
    assert {key: [pytest.approx(float(value), abs=1e-6)] for key, value in update.logs().items()} == plain_logs


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(10, 10, 10, 10), (16, 16, 8)])
@pytest.mark.parametrize(
    "optimizer", [lambda: keras.optimizers.SGD(0.1, momentum=0.9), lambda: keras.optimizers.Adam(0.01)]
)
def test_accumulation_is_the_large_batch(sizes, optimizer):
    large, small = (network(**EXACT, optimizer=optimizer()) for _ in range(2))
    large.fit(X, Y, batch_size=40, epochs=3, shuffle=False, verbose=0)
    update, step, flush = update_of(small, accumulate_steps=4)
    for _ in range(3):
        for batch in micro_batches(sizes):
            step(batch)
        flush()
    assert int(small.optimizer.iterations) == 3
    assert largest_difference(large, small) < 1e-5
    assert int(update.pending) == 0


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight", "sum_over_batch_size"])
def test_accumulation_with_weights_and_every_reduction(reduction):
    weights = np.linspace(0.2, 2.0, 40, dtype=np.float32)
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
    large, small = (
        network(**EXACT, loss=loss, regularizer=None, optimizer=keras.optimizers.SGD(0.05)) for _ in range(2)
    )
    large.fit(X, Y, sample_weight=weights, batch_size=40, shuffle=False, verbose=0)
    _, step, _ = update_of(small, accumulate_steps=3)
    for (x, y), rows in zip(micro_batches([16, 16, 8]), np.split(weights, [16, 32]), strict=True):
        step((x, y, rows))
    assert largest_difference(large, small) < 1e-5


def test_accumulation_over_a_mask_counts_what_is_valid():
    tokens = np.random.default_rng(0).integers(1, 9, (12, 7))
    for row, length in enumerate([7, 1, 2, 6, 3, 7, 1, 1, 2, 5, 7, 4]):
        tokens[row, length:] = 0
    targets = tokens % 3

    def tagger():
        keras.utils.set_random_seed(0)
        layers = [keras.Input((7,), dtype="int32"), keras.layers.Embedding(9, 4, mask_zero=True)]
        model = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax")])
        model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        return model

    large, small = tagger(), tagger()
    large.fit(tokens, targets, batch_size=12, shuffle=False, verbose=0)
    _, step, _ = update_of(small, accumulate_steps=3)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 12)):
        step((tokens[rows], targets[rows]))
    assert largest_difference(large, small) < 1e-6


def test_losses_that_reduce_differently_cannot_be_accumulated():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, {"a": keras.layers.Dense(1)(inputs), "b": keras.layers.Dense(1)(inputs)})
    losses = {"a": keras.losses.MeanSquaredError(reduction="sum"), "b": keras.losses.MeanSquaredError()}
    model.compile("sgd", losses)
    with pytest.raises(ConfigError, match="same `reduction`"):
        update_of(model, accumulate_steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_a_batch_that_is_not_finite_changes_nothing(accumulate_steps):
    model = network()
    update, step, flush = update_of(model, accumulate_steps=accumulate_steps)
    step((X[:8], Y[:8]))
    flush()
    state = [
        v for v in [*model.variables, *model.optimizer.variables, *model.metrics_variables] if "seed" not in v.path
    ]
    before = [variable.numpy() for variable in state]
    bad = X[8:16].copy()
    bad[3, 2, 2, 0] = np.nan
    step((bad, Y[8:16]))
    for variable, value in zip(state, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert (int(update.nonfinite_steps), int(update.nonfinite_in_a_row)) == (1, 1)
    step((X[16:24], Y[16:24]))
    assert (int(update.nonfinite_steps), int(update.nonfinite_in_a_row)) == (1, 0)


@pytest.mark.slow
def test_without_the_guard_a_batch_that_is_not_finite_ruins_the_weights():
    model = network()
    _, step, _ = update_of(model, skip_nonfinite=False)
    step((X[:8] * np.nan, Y[:8]))
    assert np.isnan(model.get_layer("dense").get_weights()[0]).all()


def test_a_loss_scale_that_is_too_large_is_halved_and_does_not_count_as_divergence():
    inner = keras.optimizers.SGD(0.1)
    model = network(optimizer=keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**127), **EXACT)
    update, step, _ = update_of(model)
    before = model.get_weights()
    step((X[:8] * 1e3, Y[:8]))
    assert float(model.optimizer.dynamic_scale) == 2.0**126
    assert (int(update.nonfinite_steps), int(update.nonfinite_in_a_row)) == (1, 0)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.slow
def test_loss_scaling_changes_nothing_where_nothing_overflows():
    plain, scaled = network(**EXACT), network(**EXACT)
    scaled.optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    for model in (plain, scaled):
        _, step, _ = update_of(model, accumulate_steps=2, global_clip_norm=0.5)
        for batch in micro_batches([10, 10, 10, 10]):
            step(batch)
    assert largest_difference(plain, scaled) < 1e-6


def gradients_by_hand(model, x, y):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True), None)
    return [g.numpy() for g in tape.gradient(loss, model.trainable_weights)]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate_steps", [1, 2])
@pytest.mark.parametrize(
    ("setting", "clip"),
    [
        ({"clip_value": 0.01}, lambda g, all_: np.clip(g, -0.01, 0.01)),
        ({"clip_norm": 0.1}, lambda g, all_: g * min(1, 0.1 / np.linalg.norm(g))),
        ({"global_clip_norm": 0.1}, lambda g, all_: g * min(1, 0.1 / np.sqrt(sum((a**2).sum() for a in all_)))),
    ],
)
def test_clipping_is_of_the_mean_gradient(setting, clip, accumulate_steps):
    model = network(**EXACT, optimizer=keras.optimizers.SGD(1.0))
    before, gradients = model.get_weights(), gradients_by_hand(model, X, Y)
    _, step, _ = update_of(model, accumulate_steps=accumulate_steps, **setting)
    for batch in micro_batches([40 // accumulate_steps] * accumulate_steps):
        step(batch)
    for value, old, gradient in zip(model.get_weights(), before, gradients, strict=True):
        np.testing.assert_allclose(value, old - clip(gradient, gradients), atol=2e-6)


def test_gradient_norm_is_logged_before_clipping():
    model = network(**EXACT, optimizer=keras.optimizers.SGD(0.0))
    expected = np.sqrt(sum((g**2).sum() for g in gradients_by_hand(model, X, Y)))
    update, step, _ = update_of(model, log_gradient_norm=True, clip_value=1e-3)
    step((X, Y))
    assert float(update.logs()["gradient_norm"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_embeddings_with_their_sparse_gradients():
    def build():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((5,), dtype="int32"), keras.layers.Embedding(7, 3), keras.layers.Flatten()]
        )
        model.add(keras.layers.Dense(CLASSES, activation="softmax"))
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        return model

    tokens, labels = np.random.default_rng(0).integers(0, 7, (8, 5)), np.arange(8) % CLASSES
    large, small, clipped = build(), build(), build()
    large.fit(tokens, labels, batch_size=8, shuffle=False, verbose=0)
    _, step, _ = update_of(small, accumulate_steps=2)
    step((tokens[:4], labels[:4]))
    step((tokens[4:], labels[4:]))
    assert largest_difference(large, small) < 1e-6
    _, step, _ = update_of(clipped, global_clip_norm=1e6)
    step((tokens, labels))
    assert largest_difference(large, clipped) < 1e-6


def test_an_own_loss_and_metrics_of_a_subclass_are_honored():
    class Doubled(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
            self.seen = keras.metrics.Sum(name="seen")

        def call(self, x):
            return self.dense(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return 2.0 * tf.reduce_mean(tf.square(y - y_pred))

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            self.seen.update_state(tf.ones(tf.shape(x)[0]))
            return self.get_metrics_result()

    model = Doubled()
    model(np.zeros((1, 1), np.float32))
    model.compile(keras.optimizers.SGD(0.25))
    update, step, _ = update_of(model)
    # y_pred = 2, loss = 2 * (0 - 2)^2 = 8, gradient = 2 * 2 * 2 * 2 = 16.
    step((np.array([[2.0]], np.float32), np.array([[0.0]], np.float32)))
    assert model.get_weights()[0].item() == 1 - 0.25 * 16
    assert {key: float(value) for key, value in update.logs().items()} == {"loss": 8.0, "seen": 1.0}
