"""A penalty on whole channels: its value and slope by hand, saved and loaded, gone where channels go."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channel_cases import randomized
from test_prune_channels import conv_block, head, image, nested_and_shared, text

from kopt.core.errors import ConfigError, InputError, NonFiniteError
from kopt.prune import channels, channels_gradually, finalize, group_lasso, magnitude
from kopt.prune.sparse_learning.penalties import norm

L = keras.layers
RNG = np.random.default_rng(0)


def residual():
    i = image()
    x = conv_block(i, 16, "stem")
    y = L.BatchNormalization(name="b_bn")(L.Conv2D(16, 3, padding="same", name="b")(conv_block(x, 24, "a")))
    return keras.Model(i, head(L.ReLU()(L.Add()([x, y]))), name="residual")


def build(case=residual):
    keras.utils.set_random_seed(0)
    return randomized(case())


def kernel(model, name):
    return model.get_layer(name).kernel.numpy()


def test_the_penalty_by_hand_with_one_norm_for_layers_that_depend_on_each_other():
    model = build()
    sparse, report = group_lasso(model, 0.01, scale_strength=0.1)
    stem, a, b = (kernel(model, name).reshape(-1, kernel(model, name).shape[-1]) for name in ("stem", "a", "b"))
    together = np.sqrt(np.square(stem).sum(axis=0) + np.square(b).sum(axis=0)).sum()
    alone = np.sqrt(np.square(a).sum(axis=0)).sum()
    expected = 0.01 * (np.sqrt(27 + 216) * together + np.sqrt(144) * alone)
    scales = 0.1 * sum(np.abs(model.get_layer(f"{name}_bn").gamma.numpy()).sum() for name in ("stem", "a", "b"))
    assert float(sum(sparse.losses)) == pytest.approx(expected + scales, rel=1e-5)
    assert report.penalty == pytest.approx(expected + scales, rel=1e-5)
    assert report.scale_penalty == pytest.approx(scales, rel=1e-5)
    shown = [(group.layers, group.units, group.weights_per_unit) for group in report.groups]
    assert shown == [(("stem", "b"), 16, 243), (("a",), 24, 144), (("out",), 3, 0)]
    assert report.groups[2].left == "it is an output of the model"
    assert not model.losses


def test_every_gate_of_a_recurrent_unit_and_every_number_of_a_head_counts():
    model = build(text)
    sparse, report = group_lasso(model, 1.0)
    lstm = model.get_layer("lstm").cell
    gates = [weight.numpy().reshape(-1, 4, 16) for weight in (lstm.kernel, lstm.recurrent_kernel)]
    squares = sum(np.square(gate).sum(axis=(0, 1)) for gate in gates)
    group = next(group for group in report.groups if group.layers == ("lstm",))
    assert group.weights_per_unit == 4 * (16 + 16)
    assert group.penalty == pytest.approx(np.sqrt(128) * np.sqrt(squares).sum(), rel=1e-5)
    mha = model.get_layer("mha")
    squares = sum(
        np.square(dense.kernel.numpy()).sum(axis=(0, 2))
        for dense in (mha._query_dense, mha._key_dense, mha._value_dense)
    )
    group = next(group for group in report.groups if group.layers == ("mha",))
    assert group.penalty == pytest.approx(np.sqrt(3 * 16 * 3) * np.sqrt(squares).sum(), rel=1e-5)
    assert float(sum(sparse.losses)) == pytest.approx(report.penalty, rel=1e-5)


def test_the_slope_is_that_of_the_norm_and_zero_at_zero():
    model = build()
    model.get_layer("a").kernel.assign(kernel(model, "a") * (np.arange(24) > 3))
    sparse, _ = group_lasso(model, 0.01)
    weight = sparse.get_layer("a").kernel
    with tf.GradientTape() as tape:
        loss = sum(sparse.losses)
    slope = tape.gradient(loss, weight.value).numpy()
    size = np.sqrt(np.square(weight.numpy()).sum(axis=(0, 1, 2)))
    expected = 0.01 * 12 * weight.numpy() / np.where(size > 0, size, 1)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-8)
    assert not slope[..., :4].any()


@pytest.mark.parametrize("jit_compile", [False, True])  # XLA has no special case for the slope of a root at 0
def test_a_norm_has_no_slope_at_zero(jit_compile):
    def value_and_slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x)
        return y, tape.gradient(y, x)

    found = tf.function(value_and_slope, jit_compile=jit_compile)(tf.constant([0.0, 4.0]))
    np.testing.assert_array_equal(found, [[0.0, 2.0], [0.0, 0.25]])


def test_a_step_of_descent_by_hand_beside_a_regularizer_that_was_there():
    i = keras.Input((3,))
    x = L.Dense(4, use_bias=False, name="a", kernel_regularizer=keras.regularizers.L2(0.1))(i)
    model = keras.Model(i, L.Dense(2, name="out")(x))
    sparse, _ = group_lasso(model, 0.5)
    before = kernel(model, "a")
    sparse.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError(), run_eagerly=True)
    data = np.zeros((2, 3), "float32")  # without a gradient of its own for 'a'
    sparse.train_on_batch(data, np.zeros((2, 2)))
    slope = 0.5 * np.sqrt(3) * before / np.sqrt(np.square(before).sum(axis=0)) + 2 * 0.1 * before
    np.testing.assert_allclose(kernel(sparse, "a"), before - 0.1 * slope, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}, {"steps_per_execution": 2}])
def test_channels_vanish_in_a_plain_fit_and_their_removal_costs_little(settings):
    i = keras.Input((8,))
    model = build(
        lambda: keras.Model(i, L.Dense(1, name="out")(L.Dense(32, activation="relu", name="a")(i)), name="net")
    )
    x = RNG.normal(size=(256, 8)).astype("float32")
    y = np.maximum(x[:, :1], 0) - np.maximum(x[:, 1:2], 0)  # two units would do
    sparse, _ = group_lasso(model, 2e-3)
    sparse.compile(keras.optimizers.Adam(0.02), "mse", **settings)
    sparse.fit(x, y, epochs=60, batch_size=32, verbose=0)
    plain, report = finalize(sparse)
    assert type(plain) is type(model)
    assert not plain.losses
    assert report.groups[0].small >= 16
    smaller, _ = channels(sparse, keep=0.5, scope="layer")
    assert type(smaller) is type(model)
    assert not smaller.losses
    np.testing.assert_allclose(smaller.predict(x, verbose=0), plain.predict(x, verbose=0), atol=0.05)


@pytest.mark.slow
def test_it_is_saved_and_loaded_and_gone_after_pruning(tmp_path):
    for case in (residual, nested_and_shared):
        sparse, report = group_lasso(build(case), 0.01, scale_strength=0.1, protect="stem")
        sparse.save(tmp_path / f"{case.__name__}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{case.__name__}.keras")
        assert float(sum(loaded.losses)) == pytest.approx(report.penalty, rel=1e-5)
        assert loaded.penalties.settings == sparse.penalties.settings
        smaller, _ = channels(loaded, keep=0.5, protect="stem")
        assert not smaller.losses
        assert type(smaller) is type(build(case))
    small = keras.Sequential([keras.Input((4,)), L.Dense(16, name="a"), L.Dense(2)], name="small")
    sparse, report = group_lasso(small, 0.01)
    assert keras.Sequential in type(sparse).__mro__
    sparse.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert float(sum(loaded.losses)) == pytest.approx(report.penalty, rel=1e-5)
    assert type(channels(loaded, keep=0.5)[0]) is keras.Sequential


def test_frozen_layers_have_no_part_in_it():
    model = build()
    model.get_layer("stem").trainable = False
    model.get_layer("a").trainable = False
    sparse, report = group_lasso(model, 0.01)
    assert [(group.weights_per_unit, group.left) for group in report.groups[:2]] == [
        (216, ""),  # 'b' alone
        (0, "all its layers are frozen"),
    ]
    assert float(sum(sparse.losses)) == pytest.approx(report.penalty, rel=1e-5)


def test_the_report_shows_itself(tmp_path):
    model = build()
    model.get_layer("a").kernel.assign(kernel(model, "a") * np.where(np.arange(24) < 5, 1e-4, 1))
    _, report = group_lasso(model, 0.01, scale_strength=0.1)
    assert type(report).from_json(report.to_json()) == report
    assert "5 of 40 units in 2 groups are below a hundredth" in report.table(120)
    assert "no penalty: it is an output" in report.table(120)
    assert "2 more groups" in report.table(120, rows=1)
    assert report.plot(tmp_path / "lasso.svg").read_text().startswith("<")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"strength": -1}, ConfigError, "strength"),
        ({"strength": "high"}, ConfigError, "strength"),
        ({"scale_strength": float("inf")}, ConfigError, "scale_strength"),
        ({"strength": 0}, ConfigError, "both 0"),
        ({"protect": "stemm"}, ConfigError, "Did you mean 'stem"),
        ({"protect": ["stem", "a"]}, InputError, "no channels that a penalty could remove. stem: it is protected"),
    ],
)
def test_bad_settings(settings, error, text):
    with pytest.raises(error, match=text):
        group_lasso(build(), **settings)


def test_models_that_carry_something_already():
    sparse, _ = group_lasso(build())
    for function, settings in ((group_lasso, ()), (magnitude, (0.5,)), (channels_gradually, (0.5,))):
        with pytest.raises(InputError, match="has penalties"):
            function(sparse, *settings)
    with pytest.raises(InputError, match="pruned already"):
        group_lasso(magnitude(build(), 0.5)[0])
    with pytest.raises(InputError, match="not built"):
        group_lasso(keras.Sequential([L.Dense(3)]))
    model = build()
    model.get_layer("a").bias.assign(np.full(24, np.nan))
    with pytest.raises(NonFiniteError):
        group_lasso(model)
