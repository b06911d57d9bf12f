"""Channels removed from small models: zeros go without a trace, and what comes out is a plain model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channel_cases import examples, largest_difference, outputs, randomized, with_zeros
from zoo import Scale, Subclassed

import kopt
from kopt.core.errors import ConfigError, InputError, NonFiniteError, UnsupportedModelError
from kopt.core.records.changes.channel_pruning import NEED_DATA
from kopt.graph import channel_graph
from kopt.prune.channel_removal.costs import PrunedCosts
from kopt.prune.channel_removal.criteria import CRITERIA
from kopt.prune.channel_removal.rebuilding import rebuild
from kopt.prune.channel_removal.savings import savings
from kopt.prune.channel_removal.scoring import scores_of

L = keras.layers
slow = pytest.mark.slow


def image(channels=3, size=8):
    return keras.Input((size, size, channels), name="image")


def head(x, name="out"):
    return L.Dense(3, name=name)(L.GlobalAveragePooling2D(name=f"pool_{name}")(x))


def conv_block(x, filters, name, **options):
    x = L.Conv2D(filters, 3, padding="same", name=name, **options)(x)
    return L.ReLU(name=f"{name}_relu")(L.BatchNormalization(name=f"{name}_bn")(x))


def residual():
    i = image()
    x = conv_block(i, 16, "stem")
    y = conv_block(conv_block(x, 24, "a"), 16, "b")
    x = L.Add(name="add")([x, y])
    x = L.Add(name="add2")([L.Conv2D(32, 1, strides=2, name="short")(x), conv_block(x, 32, "c", strides=2)])
    return keras.Model(i, head(x), name="residual")


def dense_connections():
    i = image()
    x = conv_block(i, 16, "stem")
    for n in range(3):
        x = L.Concatenate(name=f"cat{n}")([x, conv_block(L.ReLU()(L.BatchNormalization()(x)), 16, f"grow{n}")])
    return keras.Model(i, head(x), name="dense")


def squeeze_excite():
    i = image()
    x = conv_block(i, 16, "stem")
    s = L.Reshape((1, 1, 16), name="shape")(L.GlobalAveragePooling2D(name="squeeze")(x))
    s = L.Conv2D(16, 1, activation="sigmoid", name="expand")(L.Conv2D(8, 1, activation="relu", name="reduce")(s))
    return keras.Model(i, head(L.Multiply(name="gate")([x, s])), name="squeeze_excite")


def depthwise():
    i = image()
    x = conv_block(i, 16, "expand")
    x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw")(L.ZeroPadding2D(name="pad")(x))
    x = L.PReLU(shared_axes=[1, 2], name="prelu")(L.BatchNormalization(name="dw_bn")(x))
    x = L.SeparableConv2D(16, 3, depth_multiplier=2, name="sep")(L.Conv2D(16, 1, name="project")(x))
    return keras.Model(i, head(L.Conv2D(16, 3, groups=16, name="channelwise")(x)), name="depthwise")


def grouped():
    i = image()
    x = conv_block(i, 32, "stem")
    return keras.Model(i, head(conv_block(x, 32, "grouped", groups=4)), name="grouped")


def flattened():
    i = image(size=6)
    x = L.Flatten(name="flat")(L.MaxPooling2D(name="pool")(conv_block(i, 16, "a")))
    x = L.Reshape((3, 3, 16), name="map")(L.Dense(144, activation="relu", name="b")(x))
    x = L.Conv2DTranspose(16, 3, strides=2, activation="relu", name="up")(x)
    return keras.Model(i, head(x), name="flattened")


def nested_and_shared():
    part = keras.Sequential([keras.Input((8, 8, 16)), L.Conv2D(16, 3, padding="same", name="c"), L.ReLU()], name="part")
    inner_input = keras.Input((8, 8, 16))
    inner = keras.Model(inner_input, L.Add()([part(inner_input), inner_input]), name="inner")
    i = image()
    x = conv_block(i, 16, "stem")
    x = inner(inner(x))
    shared = L.Conv2D(16, 1, name="shared")
    x = L.Add()([shared(x), shared(conv_block(x, 16, "other"))])
    return keras.Model(i, head(x), name="nested_and_shared")


def several_outputs():
    i, j = image(), keras.Input((5,), name="vector")
    x = conv_block(i, 16, "stem")
    gate = L.Dense(16, name="gate")(L.Dense(32, activation="relu", name="vector_dense")(j))
    y = conv_block(L.Multiply(name="scale")([x, L.Reshape((1, 1, -1))(gate)]), 16, "b")
    return keras.Model([i, j], {"one": head(y, "one"), "two": L.Conv2D(4, 1, name="two")(x)}, name="several_outputs")


def sequential():
    layers = [L.Dense(32, activation="relu", name="a"), L.Dropout(0.3), L.Dense(16, name="b"), L.Dense(3, name="c")]
    return keras.Sequential([keras.Input((6,)), *layers], name="sequential")


def text():
    i = keras.Input((5,), dtype="int32")
    x = L.Embedding(7, 16, name="e")(i)
    x = L.Add()([x, L.MultiHeadAttention(4, 3, name="mha")(x, x)])
    x = L.GRU(16, return_sequences=True, name="gru")(x)
    return keras.Model(i, L.Dense(3, name="out")(L.LSTM(16, name="lstm")(x)), name="text")


def wrapped():
    i = keras.Input((5, 6))
    x = L.Bidirectional(L.LSTM(16, return_sequences=True), name="both")(i)
    x = L.TimeDistributed(L.Dense(16, activation="relu"), name="steps")(x)
    x = L.EinsumDense("abc,cd->abd", output_shape=(None, 16), bias_axes="d", name="einsum")(x)
    x = L.Bidirectional(L.GRU(16), merge_mode="sum", name="summed")(x)
    return keras.Model(i, L.Dense(3, name="out")(x), name="wrapped")


def operations():
    i = image()
    x = L.Conv2D(16, 3, name="a")(i)
    x = keras.ops.relu(x * 2.0) / 3.0
    x = keras.ops.reshape(keras.ops.concatenate([x, L.Conv2D(16, 3, name="b")(i)], axis=-1), (-1, 36, 32))
    return keras.Model(i, L.Dense(3, name="out")(keras.ops.mean(x, axis=1)), name="operations")


def shuffled():
    i = image()
    x = L.Reshape((8, 8, 2, 16), name="split")(L.Conv2D(32, 1, name="a")(i))
    x = L.Reshape((8, 8, 32), name="join")(L.Permute((1, 2, 4, 3), name="shuffle")(x))
    return keras.Model(i, head(L.Conv2D(16, 3, groups=2, name="b")(x)), name="shuffled")


class BuildsItself(keras.Model):
    """Has a graph, and a constructor that is not that of a graph."""

    def __init__(self):
        i = keras.Input((4,))
        super().__init__(i, L.Dense(2)(L.Dense(16)(i)))


CASES = [
    *(residual, dense_connections, squeeze_excite, depthwise, grouped, flattened, nested_and_shared, several_outputs),
    *(sequential, text, wrapped, operations, shuffled),
]
QUICK = [
    case if case in (squeeze_excite, nested_and_shared, sequential, operations) else pytest.param(case, marks=slow)
    for case in CASES
]


def build(case):
    keras.utils.set_random_seed(0)
    return randomized(case())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_channels_that_are_zero_go_without_a_trace(case):
    model, smaller, report = with_zeros(build(case), 0.5)
    assert largest_difference(model, smaller) < 1e-5
    assert report.parameters_after < report.parameters_before
    assert smaller.count_params() == report.parameters_after
    assert any(group.after < group.before for group in report.groups)
    assert all(group.after == group.before for group in report.frozen)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.__name__)
def test_the_result_is_a_plain_model_that_saves_and_trains(case, tmp_path):
    model = build(case)
    x, before = examples(model), [value.copy() for value in model.get_weights()]
    smaller, _ = kopt.prune.channels(model, keep=0.5)
    assert type(smaller) is type(model)
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]
    assert [type(layer) for layer in smaller.layers] == [type(layer) for layer in model.layers]
    assert [tuple(one.shape) for one in smaller.outputs] == [tuple(one.shape) for one in model.outputs]
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.saving.load_model(tmp_path / "smaller.keras")
    for one, other in zip(outputs(smaller, x), outputs(loaded, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    loaded.compile("sgd", "mse", run_eagerly=True)
    y = keras.tree.map_structure(np.zeros_like, loaded.predict(x, verbose=0))
    before = loaded.get_weights()
    loaded.train_on_batch(x, y)
    assert any(not np.array_equal(one, other) for one, other in zip(before, loaded.get_weights(), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_costs_are_predicted_exactly(case):
    model = build(case)
    graph = channel_graph(model)
    costs = PrunedCosts(model, graph, kopt.profile.model(model).macs)
    kept = np.ones(graph.unit_count, bool)
    for group in graph.free:
        kept[group.units[: group.units.size // 3]] = False
    smaller = rebuild(model, graph, kept)
    assert costs.macs(kept) == kopt.profile.model(smaller).macs < kopt.profile.model(model).macs
    assert costs.parameters(kept) == smaller.count_params()


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("target", ["target_macs", "target_params"])
def test_targets_are_reached(target, scope):
    _, report = kopt.prune.channels(build(residual), scope=scope, round_to=1, **{target: 0.6})
    kept = report.macs_kept if target == "target_macs" else report.parameters_kept
    assert 0.55 < kept <= 0.6


def test_a_target_can_be_a_count():
    macs = kopt.profile.model(build(residual)).macs
    _, report = kopt.prune.channels(build(residual), target_macs=macs // 2, round_to=1)
    assert 0.45 * macs < report.macs_after <= macs // 2


def test_widths_by_hand():
    i = keras.Input((4,))
    x = L.Dense(16, use_bias=False, name="a")(i)
    model = keras.Model(i, L.Dense(2, name="out")(L.Dense(6, name="b")(x)))
    kernel = np.zeros((4, 16), "float32")
    kernel[0] = np.arange(16)[::-1]
    model.get_layer("a").kernel.assign(kernel)
    smaller, report = kopt.prune.channels(model, keep=0.6)
    # a: 9.6 of 16 to a multiple of 8; b: 3.6 of 6 to a multiple of 2. The largest columns are the first.
    assert smaller.get_layer("a").kernel.numpy()[0].tolist() == [15, 14, 13, 12, 11, 10, 9, 8]
    assert smaller.get_layer("b").units == 4
    assert [(group.before, group.after, group.divisor) for group in report.groups] == [(16, 8, 8), (6, 4, 2), (2, 2, 1)]
    assert (report.macs_before, report.macs_after) == (4 * 16 + 16 * 6 + 6 * 2, 4 * 8 + 8 * 4 + 4 * 2)
    assert report.parameters_after == 4 * 8 + (8 * 4 + 4) + (4 * 2 + 2)
    assert report.groups[2].frozen == "it is an output of the model"


def test_keep_one_changes_nothing():
    model = build(residual)
    smaller, report = kopt.prune.channels(model, keep=1.0)
    assert report.macs_kept == 1.0
    assert largest_difference(model, smaller) == 0


def test_a_global_scope_takes_from_where_scores_are_low():
    i = keras.Input((8,))
    model = keras.Model(i, L.Dense(2)(L.Dense(16, name="b")(L.Dense(16, name="a")(i))))
    even = np.ones((8, 16), "float32")
    uneven = np.ones((16, 16), "float32")
    uneven[:, :8] = 1e-3
    model.get_layer("a").kernel.assign(even)
    model.get_layer("b").kernel.assign(uneven)
    smaller, _ = kopt.prune.channels(model, keep=0.75, scope="global")
    assert (smaller.get_layer("a").units, smaller.get_layer("b").units) == (16, 8)


DATA = (examples(residual()), np.ones((2, 3), "float32"))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_works(criterion):
    data = DATA if criterion in NEED_DATA else None
    smaller, report = kopt.prune.channels(build(residual), keep=0.5, criterion=criterion, data=data, loss="mse")
    assert smaller.get_layer("b").filters == 8
    assert report.criterion == criterion
    if criterion in NEED_DATA:
        with pytest.raises(ConfigError, match="needs examples"):
            kopt.prune.channels(build(residual), keep=0.5, criterion=criterion)


def scores_of_a(criterion, x, y, model):
    graph = channel_graph(model)
    settings = {"data": (x, y), "loss": "mse", "batches": 8, "batch_size": 4, "seed": 0}
    scores, notes = scores_of(model, graph, criterion, **settings)
    (group,) = graph.free
    return scores[group.units], notes


def linear(batch=None):
    """`y = sum_k w_k x`: with a loss of `(y - t)^2`, every example has the gradient `2 (y - t) x` for every `w_k`."""
    i = keras.Input((2,), batch_size=batch)
    a, out = L.Dense(3, use_bias=False, name="a"), L.Dense(1, use_bias=False, name="out")
    model = keras.Model(i, out(a(i)))
    a.kernel.assign([[1.0, 2, 0], [0, 2, 3]])
    out.kernel.assign(np.ones((3, 1)))
    return model


def test_fisher_takes_the_gradients_of_single_examples_and_gradient_those_of_batches():
    x, y = np.random.default_rng(0).normal(size=(8, 2)), np.random.default_rng(1).normal(size=(8, 1))
    w = np.array([[1.0, 0], [2, 2], [0, 3]])
    slopes = 2 * ((x @ w.T).sum(axis=1, keepdims=True) - y) * x  # (examples, 2), the same for every row of w
    fisher = np.array([0.5 * (np.square(row * slopes)).sum(axis=1).mean() for row in w])
    found, notes = scores_of_a("fisher", x, y, linear())
    np.testing.assert_allclose(found, fisher / fisher.mean(), rtol=1e-5)
    assert notes == ()
    by_batch = slopes.reshape(2, 4, 2).mean(axis=1)
    expected = np.array([0.5 * (np.square(row * by_batch)).sum(axis=1).mean() for row in w])
    found, notes = scores_of_a("fisher", x, y, linear(batch=4))
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)
    assert "gradients of batches of 4" in notes[0]
    found, _ = scores_of_a("gradient", x, y, linear())
    np.testing.assert_allclose(found, [1, 1, 1], rtol=1e-5)  # the same slopes for every row


def test_a_gradient_that_is_not_finite_is_named():
    model = linear()
    with pytest.raises(NonFiniteError, match="gradient of 'a'"):
        scores_of_a("gradient", np.ones((4, 2)), np.full((4, 1), 3e38), model)


def dense_layers(*units, inputs):
    i = x = keras.Input((inputs,))
    for name, size in zip("abcdef", units, strict=False):
        x = L.Dense(size, name=name)(x)
    return keras.Model(i, x)


def saved(model):
    graph = channel_graph(model)
    costs = PrunedCosts(model, graph, kopt.profile.model(model).macs)
    return savings(graph, costs.macs), savings(graph, costs.parameters)


def test_savings_by_hand():
    # A unit of a goes with its column of 4 and its row of 6, one of b with 16 and 2; each with a bias.
    assert saved(dense_layers(16, 6, 2, inputs=4)) == ([4 + 6, 16 + 2], [4 + 1 + 6, 16 + 1 + 2])
    i = image()
    x = L.Conv2D(8, 3, padding="same", name="b")(L.Conv2D(16, 3, padding="same", strides=2, name="a")(i))
    # 4 x 4 positions; a has kernels of 9 * 3 and is read by 8 kernels of 9, b has 9 * 16 and is read by 3 units.
    macs, parameters = saved(keras.Model(i, head(x)))
    assert macs == [16 * (27 + 72), 16 * 144 + 3]
    assert parameters == [27 + 1 + 72, 144 + 1 + 3]


def test_what_contributes_little_for_its_cost_goes_first():
    model = dense_layers(16, 16, 64, inputs=2)
    for name in "ab":
        model.get_layer(name).kernel.assign(np.ones(model.get_layer(name).kernel.shape))

    def widths(**settings):
        smaller, report = kopt.prune.channels(model, keep=0.75, scope="global", round_to=1, **settings)
        return smaller.get_layer("a").units, smaller.get_layer("b").units, report

    # All are equally important, so that the first layer goes first; a unit of a saves 2 + 16, one of b 16 + 64.
    assert widths()[:2] == (8, 16)
    assert widths(per="macs")[:2] == widths(per="params")[:2] == (16, 8)
    report = widths(per="macs")[2]
    assert report.per == "macs"
    assert "keep=0.75, l2 per macs, global" in report.table(80)


def test_widths_that_kernels_do_not_like_are_named():
    notes = kopt.prune.channels(build(residual), keep=0.7, round_to=1)[1].notes
    assert any("tiles of 8" in note and "a (17)" in note for note in notes)
    assert not any("tiles of 8" in note for note in kopt.prune.channels(build(residual), keep=0.5)[1].notes)


def test_the_scale_of_batch_normalization_decides_and_where_there_is_none_l2_does():
    model = build(several_outputs)
    gamma = np.ones(16, "float32")
    gamma[::2] = 0.01
    model.get_layer("b_bn").gamma.assign(gamma)
    kernel = model.get_layer("b").kernel.numpy()
    smaller, report = kopt.prune.channels(model, keep=0.5, criterion="bn_scale", protect="stem")
    np.testing.assert_array_equal(smaller.get_layer("b").kernel.numpy(), kernel[..., 1::2])
    assert any("vector_dense" in note and "'l2'" in note for note in report.notes)


def test_a_layer_of_large_weights_counts_no_more_than_another():
    i = keras.Input((2,))
    a, b = L.Dense(4, name="a"), L.Dense(4, name="b")
    model = keras.Model(i, L.Dense(1)(L.Add()([a(i), b(i)])))
    a.kernel.assign([[100.0, 200, 300, 400], [0, 0, 0, 0]])  # over its mean of 250: 0.4, 0.8, 1.2, 1.6
    b.kernel.assign([[4.0, 1, 2, 1], [0, 0, 0, 0]])  # over its mean of 2: 2, 0.5, 1, 0.5
    smaller, _ = kopt.prune.channels(model, keep=0.75, round_to=1)
    # Together 2.4, 1.3, 2.2, 2.1.
    assert smaller.get_layer("a").kernel.numpy()[0].tolist() == [100, 300, 400]


def test_random_is_repeatable_and_differs_by_seed():
    model = build(residual)
    first, again, other = (
        kopt.prune.channels(model, keep=0.5, criterion="random", seed=seed)[0].get_layer("stem").kernel.numpy()
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_taylor_removes_what_does_not_reach_the_loss():
    i = keras.Input((4,))
    model = keras.Model(i, L.Dense(1, name="out")(L.Dense(16, name="a")(i)))
    out = np.ones((16, 1), "float32")
    out[8:] = 0  # the last 8 units are read by nobody
    model.get_layer("out").kernel.assign(out)
    generator = np.random.default_rng(0)
    data = generator.normal(size=(64, 4)).astype("float32"), generator.normal(size=(64, 1)).astype("float32")
    kernel = model.get_layer("a").kernel.numpy()
    smaller, _ = kopt.prune.channels(model, keep=0.5, criterion="taylor", data=data, loss="mse")
    np.testing.assert_array_equal(smaller.get_layer("a").kernel.numpy(), kernel[:, :8])


def batches_of_inputs(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(16)


@pytest.mark.parametrize(
    "data_of", [lambda x: (x, np.zeros((64, 1))), lambda x: x, lambda x: {"x": x}, lambda x: [x], batches_of_inputs]
)
def test_activation_removes_dead_units(data_of):
    i = keras.Input((4,), name="x")
    model = keras.Model(i, L.Dense(1, name="out")(L.Dense(16, activation="relu", name="a")(i)))
    bias = np.zeros(16, "float32")
    bias[::2] = -100
    model.get_layer("a").bias.assign(bias)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    kernel = model.get_layer("a").kernel.numpy()
    smaller, _ = kopt.prune.channels(model, keep=0.5, criterion="activation", data=data_of(x))
    np.testing.assert_array_equal(smaller.get_layer("a").kernel.numpy(), kernel[:, 1::2])


def test_least_widths_and_protected_layers():
    model = build(residual)
    smaller, report = kopt.prune.channels(model, keep=0.1, min_channels=16, protect="a")
    assert smaller.get_layer("a").filters == 24
    assert smaller.get_layer("stem").filters == 16
    assert smaller.get_layer("c").filters == 16
    assert [group.layers for group in report.frozen if group.frozen == "it is protected"] == [("a",)]


def test_flags_policies_and_custom_layers_survive():
    i = image()
    x = L.Conv2D(16, 3, name="a", trainable=False, dtype="mixed_bfloat16")(i)
    x = Scale(name="custom")(L.Conv2D(16, 3, name="b")(x))
    model = keras.Model(i, head(x))
    smaller, report = kopt.prune.channels(model, keep=0.5)
    assert not smaller.get_layer("a").trainable
    assert smaller.get_layer("b").trainable
    assert smaller.get_layer("a").dtype_policy.name == "mixed_bfloat16"
    assert (smaller.get_layer("a").filters, smaller.get_layer("b").filters) == (8, 16)
    assert "'custom' (Scale) is not known to kopt" in [group.frozen for group in report.groups]


def test_the_report_shows_itself(tmp_path):
    _, report = kopt.prune.channels(build(residual), keep=0.5)
    assert type(report).from_json(report.to_json()) == report
    assert "stem +1" in report.table(100)
    assert "stays: it is an output" in report.table(120)
    assert "multiply-accumulates" in str(report)
    assert report.plot(tmp_path / "pruned.svg").read_text().startswith("<")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({}, ConfigError, "Give one of"),
        ({"keep": 0.5, "target_macs": 0.5}, ConfigError, "Give one of"),
        ({"keep": 0}, ConfigError, r"\(0, 1\]"),
        ({"keep": 1.5}, ConfigError, r"\(0, 1\]"),
        ({"keep": float("nan")}, ConfigError, "keep"),
        ({"keep": "half"}, ConfigError, "keep"),
        ({"target_macs": 10**12}, ConfigError, "not below what the model has"),
        ({"target_params": 1}, ConfigError, "not below what the model has"),
        ({"target_macs": 0.01}, ConfigError, "cannot be reached.*are left"),
        ({"target_params": 100}, ConfigError, "cannot be reached"),
        ({"keep": 0.5, "criterion": "l3"}, ConfigError, "Did you mean 'l"),
        ({"keep": 0.5, "criterion": "taylor"}, ConfigError, "needs examples"),
        ({"keep": 0.5, "criterion": "taylor", "data": (np.ones((4, 8, 8, 3)), np.ones((4, 3)))}, ConfigError, "loss"),
        ({"keep": 0.5, "criterion": "fisher", "data": (np.ones((4, 8, 8, 3)), np.ones((4, 3)))}, ConfigError, "loss"),
        ({"keep": 0.5, "scope": "all"}, ConfigError, "scope"),
        ({"target_macs": 0.5, "per": "mac"}, ConfigError, "Did you mean 'macs'"),
        ({"keep": 0.5, "per": "macs"}, ConfigError, 'Give `scope="global"`'),
        ({"target_latency_ms": 0}, ConfigError, "target_latency_ms"),
        ({"target_latency_ms": "fast"}, ConfigError, "target_latency_ms"),
        ({"target_latency": 1.2}, ConfigError, r"\(0, 1\]"),
        ({"target_latency": 0.5, "target_latency_ms": 1}, ConfigError, "Give one of"),
        ({"target_latency": 0.5, "runtime": "litert"}, ConfigError, "Unknown `runtime`"),
        ({"keep": 0.5, "runtime": "onx"}, ConfigError, "Did you mean 'onnx'"),
        ({"keep": 0.5, "round_to": 0}, ConfigError, "round_to"),
        ({"keep": 0.5, "min_channels": -1}, ConfigError, "min_channels"),
        ({"keep": 0.5, "protect": "stemm"}, ConfigError, "Did you mean 'stem'"),
        ({"keep": 0.5, "protect": ["stem", "a", "c"]}, InputError, "no channels that can be removed"),
    ],
)
def test_bad_settings(settings, error, text):
    with pytest.raises(error, match=text):
        kopt.prune.channels(build(residual), **settings)


def test_models_that_cannot_be_pruned():
    subclassed = Subclassed()
    subclassed(np.ones((1, 4), "float32"))
    with pytest.raises(UnsupportedModelError, match="Python code"):
        kopt.prune.channels(subclassed, keep=0.5)
    with pytest.raises(InputError, match="not built"):
        kopt.prune.channels(keras.Sequential([L.Dense(3)]), keep=0.5)
    with pytest.raises(InputError, match="no channels that can be removed"):
        kopt.prune.channels(keras.Sequential([keras.Input((4,)), L.Dense(3)]), keep=0.5)
    open_size = keras.Input((None, None, 3))
    model = keras.Model(open_size, L.Conv2D(2, 1)(L.Conv2D(16, 3)(open_size)))
    for settings in ({"target_macs": 0.5}, {"target_latency_ms": 1}, {"target_params": 0.5, "per": "macs"}):
        with pytest.raises(ConfigError, match="inputs of any size"):
            kopt.prune.channels(model, **settings)
    assert kopt.prune.channels(model, target_params=0.6)[1].parameters_kept <= 0.6
    with pytest.raises(UnsupportedModelError, match=r"keras\.Model\(model\.inputs"):
        kopt.prune.channels(BuildsItself(), keep=0.5)
    model = build(sequential)
    model.get_layer("b").bias.assign(np.full(16, np.nan))
    with pytest.raises(NonFiniteError):
        kopt.prune.channels(model, keep=0.5)


def encoder():
    keras.utils.set_random_seed(0)
    i = keras.Input((6, 8), name="steps")
    x = L.Add()([i, L.MultiHeadAttention(4, 5, name="attention")(i, i)])
    x = L.Dense(16, activation="relu", name="inner")(x)
    return keras.Model(i, L.Dense(2, name="out")(L.GlobalAveragePooling1D()(x)), name="encoder")


def test_only_heads_go():
    model = encoder()
    attention = model.get_layer("attention")
    # The second and fourth head add nothing: what they would bring to the output is multiplied by 0.
    output = attention._output_dense.kernel.numpy()
    output[[1, 3]] = 0.0
    attention._output_dense.kernel.assign(output)
    for dense in (attention._query_dense, attention._key_dense, attention._value_dense):
        kernel = dense.kernel.numpy()
        kernel[:, [1, 3]] *= 1e-3
        dense.kernel.assign(kernel)
    smaller, report = kopt.prune.heads(model, keep=0.5)
    assert smaller.get_layer("attention").num_heads == 2
    assert smaller.get_layer("inner").units == 16
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32")
    np.testing.assert_allclose(smaller.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    assert {row.layers: row.frozen for row in report.groups}["inner",] == "only heads go"


def test_a_model_without_attention_has_no_heads():
    model = keras.Sequential([keras.Input((4,)), L.Dense(16, name="a"), L.Dense(2, name="b")])
    with pytest.raises(InputError, match=r"no channels that can be removed\. a: only heads go"):
        kopt.prune.heads(model, keep=0.5)
    with pytest.raises(ConfigError, match=r"Unknown `kinds` 'head'\. Did you mean 'heads'"):
        kopt.prune.channels(model, keep=0.5, kinds=("head",))


@keras.saving.register_keras_serializable("kopt_prune_tests")
def registered_square(x):
    return x * x


@pytest.mark.parametrize(
    "function", [registered_square, lambda x: x * x, tf.nn.swish], ids=["registered", "lambda", "tensorflow"]
)
def test_functions_as_activations_stay(function):
    i = keras.Input((6,))
    own = L.Dense(5, activation=function, name="own")(L.Dense(16, activation=tf.nn.relu, name="hidden")(i))
    model = keras.Model(i, L.Dense(2)(own))
    model, smaller, _ = with_zeros(randomized(model), 0.5, protect=["own"])
    assert smaller.get_layer("own").activation is function
    assert smaller.get_layer("hidden").units == 8
    assert largest_difference(model, smaller) < 1e-5


def test_a_share_of_all_channels_is_left_where_some_groups_cannot_go_on():
    x = i = keras.Input((32, 32, 3))
    for place, filters in enumerate((16, 32, 64)):
        x = L.MaxPooling2D()(L.Conv2D(filters, 3, padding="same", activation="relu", name=f"c{place}")(x))
    model = randomized(keras.Model(i, head(x)))
    smaller, _ = kopt.prune.channels(model, keep=0.5, scope="global", per="macs", round_to=1, min_channels=8)
    assert [smaller.get_layer(f"c{place}").filters for place in range(3)] == [8, 8, 40]


def test_initializers_that_are_arrays_do_not_keep_channels():
    generator = np.random.default_rng(0)
    matrix = keras.initializers.Constant(generator.normal(size=(12, 8)))
    i = keras.Input((7,), dtype="int32")
    x = L.LSTM(6, recurrent_initializer=keras.initializers.Constant(generator.normal(size=(6, 24))))(
        L.Embedding(12, 8, embeddings_initializer=matrix, name="table")(i)
    )
    model = keras.Model(i, L.Dense(2, bias_initializer=keras.initializers.Constant(0.5))(x))
    model, smaller, _ = with_zeros(model, 0.5, round_to=1)
    assert smaller.get_layer("table").output_dim == 4
    assert largest_difference(model, smaller) < 1e-5
    assert smaller.layers[-1].bias_initializer.value == 0.5


@pytest.mark.parametrize("model", ["model.keras", None, 3])
def test_what_is_no_model(model):
    with pytest.raises(InputError, match="Expected a Keras 3 model"):
        kopt.prune.channels(model, keep=0.5)


def test_models_of_tf_keras_become_those_of_keras_3():
    old = kopt.graph.to_tf_keras(randomized(keras.Sequential([keras.Input((6,)), L.Dense(16), L.Dense(3)])))
    smaller, _ = kopt.prune.channels(old, keep=np.float32(0.5))
    assert [layer.units for layer in smaller.layers if type(layer) is L.Dense] == [8, 3]
