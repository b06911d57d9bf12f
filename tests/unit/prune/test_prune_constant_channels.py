"""Channels that never change go, and the biases that take them in make up for them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channel_cases import outputs, randomized
from test_prune_channels import conv_block, head, image, squeeze_excite, text
from zoo import Subclassed

import kopt
from kopt.core.errors import ConfigError, DataError, InputError, NonFiniteError, UnsupportedModelError
from kopt.prune import constant_channels

L = keras.layers
X = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32")


def build(layers, size=(4,)):
    keras.utils.set_random_seed(0)
    i = x = keras.Input(size)
    for layer in layers:
        x = layer(x)
    return randomized(keras.Model(i, x, name="net"))


def made_constant(model, layer, channels, value):
    """Let channels of a layer without activation give `value` whatever comes in."""
    layer = model.get_layer(layer)
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    kernel[..., channels] = 0
    bias[channels] = value
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)


def difference(one, other, x=X):
    pairs = zip(outputs(one, x), outputs(other, x), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def test_a_constant_goes_into_the_bias_behind_by_hand():
    model = build([L.Dense(4, activation="relu", name="first"), L.Dense(2, name="out")])
    made_constant(model, "first", [1, 3], [0.5, -2.0])  # 0.5 and, after the ReLU, 0
    x = np.random.default_rng(1).normal(size=(64, 4)).astype("float32")
    kernel, bias = (value.numpy().copy() for value in model.get_layer("out").weights)
    before = [value.copy() for value in model.get_weights()]
    smaller, report = constant_channels(model, x)
    np.testing.assert_array_equal(smaller.get_layer("out").kernel.numpy(), kernel[[0, 2]])
    np.testing.assert_allclose(smaller.get_layer("out").bias.numpy(), bias + 0.5 * kernel[1], rtol=1e-6)
    assert difference(model, smaller, x) < 1e-5
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    (group,) = report.groups
    assert (group.layers, group.before, group.constant, group.removed, group.zeros) == (("first",), 4, 2, 2, 1)
    assert (report.absorbed, report.examples, report.removed) == (("out",), 64, 2)
    assert (report.macs_before, report.macs_after) == (4 * 4 + 4 * 2, 4 * 2 + 2 * 2)
    assert (report.parameters_before, report.parameters_after) == (20 + 10, 10 + 6)


@pytest.mark.parametrize(
    ("reader", "exact"),
    [
        (L.Conv2D(5, 3, name="next"), True),
        (L.Conv2D(5, 3, strides=2, dilation_rate=1, groups=1, name="next", activation="relu"), True),
        (L.Conv2D(5, 1, padding="same", strides=2, name="next"), True),
        (L.Conv2D(5, 3, padding="same", name="next"), False),
        (L.SeparableConv2D(5, 3, name="next"), True),
        (L.SeparableConv2D(5, 3, padding="same", name="next"), False),
        (L.Conv2DTranspose(5, 2, strides=2, name="next"), False),  # each place has its own part of the kernel
        (L.Conv2DTranspose(5, 1, name="next"), True),
        (L.EinsumDense("abcd,de->abce", (None, None, 5), bias_axes="e", name="next"), True),
    ],
)
def test_a_constant_that_is_not_zero_goes_where_that_is_exact_and_a_zero_always(reader, exact):
    reader = type(reader).from_config(reader.get_config())
    model = build([L.Conv2D(8, 3, name="first"), reader, L.GlobalAveragePooling2D(), L.Dense(2, name="out")], (8, 8, 3))
    made_constant(model, "first", [0, 2, 5], [0.7, 0.0, -1.5])
    smaller, report = constant_channels(model, X)
    assert difference(model, smaller) < 1e-5
    assert smaller.get_layer("first").filters == (5 if exact else 7)
    assert (report.groups[0].removed, report.groups[0].zeros) == (3 if exact else 1, 1)
    assert bool(report.groups[0].skipped) is not exact
    if not exact:
        assert "'next'" in report.groups[0].skipped[0]
        assert "makes no constant of them" in report.groups[0].skipped[0]


def test_what_padding_adds_would_have_been_wrong():
    """The same constant, forced into the bias behind a padded convolution, is wrong at the border alone."""
    model = build([L.Conv2D(8, 3, name="first"), L.Conv2D(5, 3, padding="same", name="next")], (8, 8, 3))
    made_constant(model, "first", [0], [0.7])
    full = model.get_layer("next").kernel.numpy()[:, :, 0].sum(axis=(0, 1)) * 0.7
    with_it = outputs(model, X)[0]
    made_constant(model, "first", [0], [0.0])
    layer = model.get_layer("next")
    layer.bias.assign(layer.bias.numpy() + full)
    wrong = np.abs(outputs(model, X)[0] - with_it).max(axis=(0, 3))
    assert wrong[1:-1, 1:-1].max() < 1e-5
    assert wrong[0].min() > 1e-2


def test_a_normalization_behind_takes_it_in_where_there_is_no_bias():
    layers = [
        *(L.Conv2D(8, 3, name="first"), L.Conv2D(6, 3, use_bias=False, name="next"), L.BatchNormalization(name="norm")),
        *(L.ReLU(), L.GlobalAveragePooling2D(), L.Dense(2, name="out")),
    ]
    model = build(layers, (8, 8, 3))
    made_constant(model, "first", [1], [0.7])
    kernel, mean = model.get_layer("next").kernel.numpy(), model.get_layer("norm").moving_mean.numpy()
    smaller, report = constant_channels(model, X)
    expected = mean - 0.7 * kernel[:, :, 1].sum(axis=(0, 1))
    np.testing.assert_allclose(smaller.get_layer("norm").moving_mean.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert difference(model, smaller) < 1e-5
    assert report.absorbed == ("norm",)
    bare = build([*(type(layer).from_config(layer.get_config()) for layer in layers[:2]), L.ReLU()], (8, 8, 3))
    made_constant(bare, "first", [1], [0.7])
    same, report = constant_channels(bare, X)
    assert same.get_layer("first").filters == 8
    assert "neither a bias nor a normalization" in report.groups[0].skipped[0]


def test_normalizations_with_a_factor_of_zero_in_a_residual_network():
    i = image()
    x = conv_block(i, 16, "stem")
    y = L.BatchNormalization(name="b_bn")(L.Conv2D(16, 3, padding="same", name="b")(conv_block(x, 24, "a")))
    x = L.ReLU()(L.Add()([x, y]))
    keras.utils.set_random_seed(0)
    model = randomized(keras.Model(i, head(x), name="residual"))
    for name, gone in (("stem_bn", [2, 3]), ("b_bn", [3, 4]), ("a_bn", [5, 6])):
        norm = model.get_layer(name)
        gamma, beta = norm.gamma.numpy(), norm.beta.numpy()
        gamma[gone] = 0
        beta[gone] = [-0.3, 0.4]  # after the ReLU 0 and 0.4
        norm.gamma.assign(gamma)
        norm.beta.assign(beta)
    smaller, report = constant_channels(model, X)
    assert difference(model, smaller) < 1e-5
    stem, inner = report.groups
    # Of the sum channel 3 alone is constant: 2 and 4 get something from the other side. 'a' reads 0.4 of it, with
    # padding. Of 'a' the zero goes; 'b' pads the other one.
    assert (stem.layers, stem.constant, stem.removed) == (("stem", "b"), 1, 0)
    assert (inner.layers, inner.constant, inner.removed, inner.zeros) == (("a",), 2, 1, 1)
    assert "'a' (Conv2D) makes no constant" in stem.skipped[0]
    assert smaller.get_layer("a").filters == 23
    assert "residual: 1 of 3 constant channels removed" in str(report)


def test_every_place_of_a_flattened_channel_has_its_own_constant():
    layers = [L.Conv2D(4, 3, name="a"), L.Conv2D(4, 3, padding="same", name="b"), L.Flatten(), L.Dense(3, name="out")]
    model = build(layers, (6, 6, 2))
    made_constant(model, "a", [0, 1, 2, 3], [1.0, 2.0, 3.0, 4.0])  # 'b' is constant, another one at the border
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    smaller, report = constant_channels(model, x, tolerance=1e-5)
    assert difference(model, smaller, x) < 1e-4
    assert smaller.get_layer("b").filters == 1
    assert "at least one channel" in report.groups[1].skipped[0]
    assert smaller.get_layer("a").filters == 4  # not in a padded convolution


def test_shared_and_nested_layers_and_gates():
    keras.utils.set_random_seed(0)
    part_input = keras.Input((8, 8, 16))
    part = keras.Model(part_input, L.ReLU()(L.Conv2D(16, 1, name="inner")(part_input)), name="part")
    i = image()
    x = L.Conv2D(16, 3, padding="same", name="stem")(i)
    model = randomized(keras.Model(i, head(part(part(x)))))
    made_constant(model, "stem", [1], [0.5])
    part = model.get_layer("part")
    made_constant(part, "inner", [1, 4], [0.5, -1.0])
    smaller, _ = constant_channels(model, X)
    # Channel 1 is 0.5 at both calls, channel 4 is zero at the second and not at the first: all three layers keep it.
    assert smaller.get_layer("stem").filters == 15
    assert difference(model, smaller) < 1e-5
    gated = randomized(squeeze_excite())
    gamma, beta = np.ones(16, "float32"), np.ones(16, "float32")
    gamma[:4], beta[:4] = 0, -1
    gated.get_layer("stem_bn").gamma.assign(gamma)
    gated.get_layer("stem_bn").beta.assign(beta)
    smaller, report = constant_channels(gated, X)
    assert (smaller.get_layer("stem").filters, report.groups[0].zeros) == (12, 4)
    assert difference(gated, smaller) < 1e-5


def test_recurrent_readers_take_in_zeros_only_and_normalized_channels_stay():
    i = keras.Input((5, 4))
    x = L.LSTM(6, name="lstm")(L.Dense(8, activation="relu", name="first")(i))
    model = randomized(keras.Model(i, L.Dense(2)(L.LayerNormalization(name="norm")(L.Dense(4, name="normed")(x)))))
    made_constant(model, "first", [0, 1], [-1.0, 0.5])
    made_constant(model, "normed", [0], [0.5])
    x = np.random.default_rng(0).normal(size=(16, 5, 4)).astype("float32")
    smaller, report = constant_channels(model, x)
    assert smaller.get_layer("first").units == 7
    assert difference(model, smaller, x) < 1e-5
    assert report.groups[0].skipped == ("'lstm' (LSTM) reads them, which takes in no constant but zero",)


def test_data_sets_tolerances_and_models_without_constants():
    model = build([L.Dense(8, activation="relu", name="first"), L.Dense(2, name="out")])
    x = np.random.default_rng(1).normal(size=(64, 4)).astype("float32")
    same, report = constant_channels(model, x)
    assert (report.groups, difference(model, same, x)) == ((), 0.0)
    layer = model.get_layer("first")
    layer.kernel.assign(layer.kernel.numpy() * np.where(np.arange(8) == 2, 1e-4, 1.0))
    layer.bias.assign(np.full(8, 0.3))
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(64))).batch(16)
    assert constant_channels(model, dataset)[1].removed == 0
    smaller, report = constant_channels(model, dataset.repeat(), tolerance=1e-3, batches=3)
    assert (report.removed, report.examples, smaller.get_layer("first").units) == (1, 48, 7)
    assert difference(model, smaller, x) < 1e-3
    assert constant_channels(model, x, tolerance=1e-3, protect="first")[1].groups[0].skipped == ("it is protected",)
    numbers = np.random.default_rng(0).integers(0, 7, (8, 5))
    assert constant_channels(randomized(text()), numbers)[1].removed == 0


def test_the_report_shows_itself(tmp_path):
    model = build([L.Dense(4, activation="relu", name="first"), L.Dense(2, name="out")])
    made_constant(model, "first", [1, 3], [0.5, -2.0])
    _, report = constant_channels(model, np.random.default_rng(1).normal(size=(64, 4)))
    assert type(report).from_json(report.to_json()) == report
    assert "Absorbed by: out." in report.table()
    assert report.plot(tmp_path / "constant.svg").read_text().startswith("<")
    _, empty = constant_channels(build([L.Dense(4), L.Dense(2)]), np.random.default_rng(1).normal(size=(64, 4)))
    assert "0 of 0 constant channels" in empty.table()
    with pytest.raises(InputError, match="nothing to plot"):
        empty.plot(tmp_path / "empty.svg")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"tolerance": -1.0}, ConfigError, "tolerance"),
        ({"tolerance": "small"}, ConfigError, "tolerance"),
        ({"batches": 0}, ConfigError, "batches"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"protect": "frist"}, ConfigError, "Did you mean 'first'"),
        ({"data": np.ones((8, 5), "float32")}, DataError, r"\(8, 5\)|5"),
        ({"data": np.ones((0, 4), "float32")}, DataError, "example"),
        ({"data": np.full((8, 4), np.nan)}, NonFiniteError, "NaN"),
    ],
)
def test_bad_input(settings, error, text):
    model = build([L.Dense(4, activation="relu", name="first"), L.Dense(2, name="out")])
    with pytest.raises(error, match=text):
        constant_channels(model, **{"data": np.ones((8, 4), "float32"), **settings})


def test_models_that_cannot_be_treated():
    subclassed = Subclassed()
    subclassed(np.ones((1, 4), "float32"))
    with pytest.raises(UnsupportedModelError, match="Python code"):
        constant_channels(subclassed, np.ones((2, 4)))
    with pytest.raises(InputError, match="not built"):
        constant_channels(keras.Sequential([L.Dense(3)]), np.ones((2, 4)))
    with pytest.raises(InputError, match="finalize"):
        constant_channels(kopt.prune.magnitude(build([L.Dense(4), L.Dense(2)]), 0.5)[0], np.ones((2, 4)))
    endless = tf.data.Dataset.from_tensors(np.ones((2, 4), "float32")).repeat()
    with pytest.raises(DataError, match="never ends"):
        kopt.prune.constant_channels(build([L.Dense(4), L.Dense(2)]), endless)


@pytest.mark.parametrize("form", ["dict", "list", "dataset"])
def test_inputs_by_name_reach_their_own_input(form):
    """Sorted by name they would be the other way round."""
    keras.utils.set_random_seed(0)
    second, first = keras.Input((4,), name="second"), keras.Input((4,), name="first")
    hidden = L.Dense(6, activation="relu", name="hidden")(second)
    model = randomized(keras.Model([second, first], L.Dense(2)(L.Concatenate()([hidden, first]))))
    made_constant(model, "hidden", [2], [0.7])
    x = {"first": np.zeros((32, 4), "float32"), "second": np.random.default_rng(0).normal(size=(32, 4))}
    given = {
        "dict": x,
        "list": [x["second"], x["first"]],
        "dataset": tf.data.Dataset.from_tensor_slices(x).batch(8),
    }
    smaller, report = constant_channels(model, given[form])
    assert [(group.layers, group.removed) for group in report.groups] == [(("hidden",), 1)]
    everything = [np.random.default_rng(1).normal(size=(9, 4)).astype("float32") for _ in range(2)]
    np.testing.assert_allclose(smaller(everything), model(everything), atol=1e-6)
