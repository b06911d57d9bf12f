"""Channels masked in all that makes them, while a model trains, and taken out afterwards without a trace."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channel_cases import largest_difference, outputs, randomized
from test_prune_channels import conv_block, head, image, squeeze_excite, text
from zoo import Subclassed

from kopt.core.errors import ConfigError, InputError, NonFiniteError, UnsupportedModelError
from kopt.graph import channel_graph
from kopt.prune import channels_gradually, finalize, magnitude, schedules
from kopt.prune.channel_removal.widths import Candidate, by_rank, rounded
from kopt.prune.gradual_removal.channel_masks import units_left

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8, 8, 3)).astype("float32")
Y = RNG.normal(size=(32, 3)).astype("float32")
GRADUAL = schedules.Polynomial(0.5, begin=2, end=6, frequency=2)


def residual(**norm):
    """Two convolutions that an addition ties, with biases and activations."""
    i = image()
    x = L.Conv2D(16, 3, padding="same", name="stem")(i)
    x = L.ReLU(name="stem_relu")(L.BatchNormalization(name="stem_bn", **norm)(x))
    y = L.BatchNormalization(name="b_bn", **norm)(L.Conv2D(16, 3, padding="same", name="b")(conv_block(x, 24, "a")))
    return keras.Model(i, head(L.ReLU(name="sum_relu")(L.Add(name="add")([x, y]))), name="residual")


def build(case=residual, **settings):
    keras.utils.set_random_seed(0)
    return randomized(case(**settings))


def train(model, epochs=1, x=X, y=Y, **settings):
    model.compile(keras.optimizers.Adam(0.01), "mse", **settings)
    model.fit(x, y, batch_size=8, epochs=epochs, verbose=0)
    return model


def zero_channels(model, layer):
    """Return which channels of a layer have a kernel of zeros."""
    return ~model.get_layer(layer).kernel.numpy().any(axis=(0, 1, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"steps_per_execution": 3}, marks=pytest.mark.slow),
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param({"run_eagerly": True}, marks=pytest.mark.slow),
    ],
)
def test_channels_that_depend_on_each_other_fade_in_a_plain_fit_and_go_without_a_trace(settings):
    fading, report = channels_gradually(build(), GRADUAL)
    assert [(group.layers, group.after) for group in report.groups] == [
        (("stem", "b"), 16),
        (("a",), 24),
        (("out",), 3),
    ]
    train(fading, epochs=2, **settings)
    assert int(fading.pruning.step) == 8
    gone = zero_channels(fading, "stem")
    assert gone.sum() == 8  # half of 16, a multiple of 8
    np.testing.assert_array_equal(gone, zero_channels(fading, "b"))
    assert zero_channels(fading, "a").sum() == 8  # half of 24 is 12: of 8 and 16 channels left the larger
    for layer in ("stem_bn", "b_bn"):
        norm = fading.get_layer(layer)
        for values in (norm.gamma, norm.beta, norm.moving_mean):
            np.testing.assert_array_equal(values.numpy() == 0, gone)
    watched = keras.Model(fading.inputs, fading.get_layer("sum_relu").output)
    activations = watched.predict(X, verbose=0)
    assert not activations[..., gone].any()
    assert activations[..., ~gone].any(axis=(0, 1, 2)).all()
    smaller, report = finalize(fading)
    assert type(smaller) is type(build())
    assert (smaller.get_layer("stem").filters, smaller.get_layer("a").filters) == (8, 16)
    assert largest_difference(fading, smaller) < 1e-5
    assert report.parameters_after == smaller.count_params() < report.parameters_before == build().count_params()


def test_a_channel_whose_offset_is_left_would_not_be_zero():
    """What masks of kernels alone would do: the offset of the normalization goes through the activation."""
    fading, _ = channels_gradually(build(), 0.5)
    gone = zero_channels(fading, "stem")
    fading.get_layer("stem_bn").beta.assign(np.ones(16))
    watched = keras.Model(fading.inputs, fading.get_layer("stem_relu").output)
    assert watched.predict(X, verbose=0)[..., gone].all()
    smaller, _ = finalize(fading)  # which masks it again
    assert largest_difference(fading, smaller) < 1e-5


@pytest.mark.slow
def test_without_a_scale_the_mean_is_masked_too():
    fading, _ = channels_gradually(build(scale=False), GRADUAL)
    train(fading, epochs=2)
    gone = zero_channels(fading, "b")
    assert gone.sum() == 8
    assert not fading.get_layer("b_bn").moving_mean.numpy()[gone].any()
    before = outputs(fading, X[:2])
    smaller, _ = finalize(fading)
    np.testing.assert_allclose(before[0], outputs(smaller, X[:2])[0], rtol=1e-5, atol=1e-5)


def test_scores_by_hand():
    i = keras.Input((2,))
    a, b = L.Dense(4, name="a"), L.Dense(4, name="b")
    model = keras.Model(i, L.Dense(1)(L.Add()([a(i), b(i)])))
    a.kernel.assign([[100.0, 200, 300, 400], [0, 0, 0, 0]])  # over its mean of 250: 0.4, 0.8, 1.2, 1.6
    b.kernel.assign([[4.0, 1, 2, 1], [0, 0, 0, 0]])  # over its mean of 2: 2, 0.5, 1, 0.5
    fading, report = channels_gradually(model, 0.25, round_to=1)  # together 2.4, 1.3, 2.2, 2.1
    assert fading.get_layer("a").kernel.numpy()[0].tolist() == [100, 0, 300, 400]
    assert fading.get_layer("b").kernel.numpy()[0].tolist() == [4, 0, 2, 1]
    # Multiply-accumulates: twice 2 * 3, and 3; parameters: twice 2 * 3 + 3, and 3 + 1.
    assert (report.macs_after, report.parameters_after) == (15, 22)


def test_widths_are_those_of_channels():
    for units, divisor, least in ((16, 8, 1), (24, 8, 16), (5, 1, 2), (6, 2, 1)):
        for sparsity in np.linspace(0, 0.99, 34):
            expected = rounded(units * (1 - sparsity), Candidate(np.zeros(units), divisor, least))
            found = units_left(units, divisor, least, tf.constant(units * (1 - sparsity), tf.float32))
            assert int(found) == expected, (units, divisor, least, sparsity)


@pytest.mark.parametrize("sparsity", [0.3, 0.5])
def test_the_lowest_scores_of_all_groups_go(sparsity):
    model = build()
    # Half of the channels of one layer are weak, beside the mean of their layer; no layer is weak as a whole.
    kernel = model.get_layer("a").kernel
    kernel.assign(kernel.numpy() * np.where(np.arange(24) % 2, 0.01, 1.0).astype("float32") * 50)
    fading, report = channels_gradually(model, sparsity, scope="global", round_to=1)
    masks = fading.pruning
    scores = masks._scores().numpy()
    candidates = [Candidate(scores[group.units], 1, 1) for group in masks._groups]
    total = sum(candidate.scores.size for candidate in candidates)
    assert [group.after for group in report.groups if not group.frozen] == by_rank(candidates, round(total * sparsity))
    assert zero_channels(fading, "a")[1::2].all()
    assert report.scope == "global"
    smaller, after = finalize(fading)
    assert largest_difference(fading, smaller) < 1e-5
    assert after.scope == "global"


def test_bn_scale_ranks_by_the_factors():
    model = build()
    gamma = np.ones(24, "float32")
    gamma[::3] = 0.01
    model.get_layer("a_bn").gamma.assign(gamma)
    fading, report = channels_gradually(model, 1 / 3, criterion="bn_scale")
    np.testing.assert_array_equal(zero_channels(fading, "a"), gamma < 1)
    _, report = channels_gradually(build(squeeze_excite), 0.5, criterion="bn_scale")
    assert "it has no normalization with a scale" in [group.frozen for group in report.groups]


@pytest.mark.parametrize(
    ("activation", "reason"),
    [("relu", ""), ("tanh", ""), ("gelu", ""), ("sigmoid", "is not where 'next' reads"), ("softplus", "is not where")],
)
def test_groups_of_which_a_zero_is_something_else_after_the_activation_stay(activation, reason):
    i = keras.Input((4,))
    x = L.Dense(16, activation=activation, name="first")(i)
    x = L.Dense(16, name="next", activation="relu")(x)
    model = build(lambda: keras.Model(i, L.Dense(2, name="out")(x)))
    fading, report = channels_gradually(model, 0.5)
    first = report.groups[0]
    assert (first.after, reason in first.frozen) == (16 if reason else 8, True)
    assert bool(first.frozen) == bool(reason)
    assert report.groups[1].after == 8
    assert largest_difference(fading, finalize(fading)[0]) < 1e-5


def test_a_sigmoid_that_gates_what_is_zero_does_no_harm():
    fading, report = channels_gradually(build(squeeze_excite), 0.5)
    gated = next(group for group in report.groups if group.layers == ("stem", "expand"))
    assert (gated.after, gated.frozen) == (8, "")
    assert largest_difference(fading, finalize(fading)[0]) < 1e-5


@pytest.mark.slow
def test_recurrent_units_and_heads_fade_and_normalized_ones_stay():
    i = keras.Input((5, 8))
    x = L.LayerNormalization(name="norm")(L.Dense(8, name="normed")(i))
    x = L.MultiHeadAttention(4, 3, name="mha")(x, x)
    model = build(
        lambda: keras.Model(
            i, L.Dense(3, name="out")(L.LSTM(8, name="lstm")(L.GRU(8, name="gru", return_sequences=True)(x)))
        )
    )
    fading, report = channels_gradually(model, 0.5)
    left = {group.layers[0]: group.after for group in report.groups}
    assert left == {"normed": 8, "mha": 2, "gru": 4, "lstm": 4, "out": 3}
    assert "a zero counts there" in report.groups[0].frozen
    smaller, _ = finalize(fading)
    assert smaller.get_layer("mha").num_heads == 2
    assert largest_difference(fading, smaller) < 1e-5
    _, report = channels_gradually(build(text), 0.5, kinds=["units"], protect="lstm")
    assert [group.after for group in report.groups if group.kind == "units"] == [8, 16]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This training of .* ends at a sparsity of")
def test_masks_are_saved_and_go_on(tmp_path):
    fading, _ = channels_gradually(build(), GRADUAL, protect="a")
    train(fading)
    fading.save(tmp_path / "fading.keras")
    loaded = keras.models.load_model(tmp_path / "fading.keras")
    assert int(loaded.pruning.step) == 4
    np.testing.assert_array_equal(loaded.pruning.kept(), fading.pruning.kept())
    loaded.fit(X, Y, batch_size=8, epochs=1, verbose=0)
    smaller, _ = finalize(loaded)
    assert (smaller.get_layer("stem").filters, smaller.get_layer("a").filters) == (8, 24)
    assert largest_difference(loaded, smaller) < 1e-5


def test_the_given_model_is_as_it_was_and_nested_ones_are_masked_inside():
    part_input = keras.Input((8, 8, 16))
    part = keras.Model(part_input, L.ReLU()(L.Conv2D(24, 3, name="inner")(part_input)), name="part")
    i = image()
    model = build(lambda: keras.Model(i, head(part(conv_block(i, 16, "stem")))))
    before = [value.copy() for value in model.get_weights()]
    fading, report = channels_gradually(model, 0.3)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    assert {group.layers[0]: group.after for group in report.groups}["part/inner"] == 16
    assert largest_difference(fading, finalize(fading)[0]) < 1e-5
    assert "Nothing is removed yet" in report.table()
    # Unit numbers mean the same in the model and in its copies.
    assert channel_graph(model).unit_count == fading.pruning.unit_count


def test_layers_that_training_does_not_change_stay():
    model = build()
    model.get_layer("a").trainable = False
    _, report = channels_gradually(model, 0.5)
    assert [group.layers for group in report.groups if "frozen" in group.frozen] == [("a",)]


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"schedule_or_sparsity": 1.5}, ConfigError, r"\[0, 1\)"),
        ({"schedule_or_sparsity": "half"}, ConfigError, "schedule_or_sparsity"),
        ({"criterion": "taylor"}, ConfigError, "criterion"),
        ({"scope": "model"}, ConfigError, "`scope`"),
        ({"round_to": 0}, ConfigError, "round_to"),
        ({"min_channels": 0}, ConfigError, "min_channels"),
        ({"kinds": ["filters"]}, ConfigError, "kinds"),
        ({"protect": "stemm"}, ConfigError, "Did you mean 'stem"),
        ({"protect": ["stem", "a"]}, InputError, "no channels that can be masked. stem: it is protected"),
    ],
)
def test_bad_settings(settings, error, text):
    with pytest.raises(error, match=text):
        channels_gradually(build(), **{"schedule_or_sparsity": 0.5, **settings})


def test_models_that_cannot_be_masked():
    with pytest.raises(InputError, match="not built"):
        channels_gradually(keras.Sequential([L.Dense(3)]), 0.5)
    subclassed = Subclassed()
    subclassed(np.ones((1, 4), "float32"))
    with pytest.raises(UnsupportedModelError, match="Python code"):
        channels_gradually(subclassed, 0.5)
    model = build()
    with pytest.raises(InputError, match="pruned already"):
        channels_gradually(magnitude(model, 0.5)[0], 0.5)
    model.get_layer("a").bias.assign(np.full(24, np.nan))
    with pytest.raises(NonFiniteError):
        channels_gradually(model, 0.5)


def test_a_model_of_a_fixed_batch_size():
    i = keras.Input(batch_shape=(4, 6, 5))
    model = keras.Model(i, L.Dense(2)(L.LSTM(8, stateful=True, name="lstm")(i)))
    copy, _ = channels_gradually(model, 0.5, round_to=1)
    assert finalize(copy)[0].get_layer("lstm").units == 4


def test_a_sparsity_that_removes_nothing_of_all_together_is_refused():
    model = keras.Sequential([keras.Input((12,)), L.Dense(16), L.Dense(3)])
    with pytest.raises(ConfigError, match=r"0\.01 removes nothing of groups of 16"):
        channels_gradually(model, 0.01, scope="global", round_to=1)
