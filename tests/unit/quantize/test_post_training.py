"""What `kopt.quantize.post_training` makes of a model: what it leaves equal, what it reports, what it refuses."""

import warnings

import keras
import numpy as np
import pytest
import zoo

from kopt.core.errors import ConfigError, InputError, NonFiniteError, UnsupportedModelError
from kopt.core.records.changes.aware_training import RangeRule
from kopt.core.records.changes.post_training import PostTrainingQuantization
from kopt.graph import GraphView
from kopt.quantize import post_training
from kopt.quantize.after_training.sites import scaling_sites
from kopt.quantize.copying import rounded_copy
from kopt.quantize.modes import unrounded
from kopt.quantize.weights import QuantizedWeights

L = keras.layers
RNG = np.random.default_rng(0)


def chain(activation="relu"):
    """Convolution, depthwise convolution, pooling, dense: channels of very different sizes in between."""
    keras.utils.set_random_seed(5)
    i = keras.Input((8, 8, 3), name="x")
    x = L.Activation(activation)(L.BatchNormalization(name="norm")(L.Conv2D(6, 3, name="first")(i)))
    x = L.DepthwiseConv2D(3, padding="same", activation=activation, name="middle")(L.ZeroPadding2D()(x))
    model = keras.Model(i, L.Dense(4, name="last")(L.Flatten(name="flat")(L.MaxPooling2D(2)(x))), name="chain")
    size = np.array([100, 10, 1, 0.1, 0.01, 1], np.float32)
    model.get_layer("norm").gamma.assign(size)
    model.get_layer("norm").beta.assign(size / 4)
    kernel = model.get_layer("middle").kernel
    kernel.assign(kernel / size[:, None])
    return model


def examples(count=40, shape=(8, 8, 3)):
    return RNG.random((count, *shape), np.float32)


def kernels_of(copy):
    return [one.layer for one in copy.layers if isinstance(one, QuantizedWeights)]


def in_float(copy, x):
    with unrounded():
        return np.asarray(copy(x, training=False))


def sites_of(model):
    copy, _ = rounded_copy(model, "int8", RangeRule(), (), fold=True)
    return scaling_sites(GraphView.of(copy))


def test_normalizations_are_in_the_kernels():
    model, x = chain(), examples(4)
    copy, report = rounded_copy(model, "int8", RangeRule(), (), fold=True)
    np.testing.assert_allclose(in_float(copy, x), model(x), rtol=1e-5, atol=1e-5)
    assert (report.kernels[0].layer, report.kernels[0].folded) == ("first", "norm")
    assert all(layer.norm is None for layer in copy.layers if hasattr(layer, "norm"))


@pytest.mark.parametrize(
    "name", ["conv1d", "unet", "preprocessing", "nested", pytest.param("mobilenet_v2", marks=pytest.mark.slow)]
)
def test_folding_and_scaling_leave_the_outputs_equal(name):
    model = zoo.build(name)
    x = zoo.inputs(model, 20)
    copy, _ = post_training(model, x, options=("equalize", "smooth", "absorb"))
    with unrounded():
        found = keras.tree.flatten(copy(x, training=False))
    for a, b in zip(found, keras.tree.flatten(model(x, training=False)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(np.abs(b).max())))


def test_a_chain_of_channels_that_differ_is_equalized():
    model, x = chain(), examples()
    _, plain = post_training(model, x, options=())
    copy, better = post_training(model, x, options="equalize")
    assert better.plain_error == plain.error
    assert better.error < 0.1 * plain.error
    first, middle, _ = (np.abs(layer.kernel.numpy()) for layer in kernels_of(copy))
    made, taken = first.max(axis=(0, 1, 2)), middle.max(axis=(0, 1, 3))
    np.testing.assert_allclose(made, taken, rtol=0.01)


def test_sites_end_where_channels_are_not_only_scaled():
    i = keras.Input((8, 8, 3), name="x")
    a = L.Conv2D(4, 1, activation="relu", name="a")(i)
    b = L.Conv2D(4, 1, activation="silu", name="b")(a)
    c = L.Conv2D(4, 1, activation="relu", name="c")(b)
    d = L.Conv2D(4, 1, name="d")(L.Add(name="sum")([c, b]))
    sites, reasons = sites_of(keras.Model(i, L.Dense(2, name="e")(L.GlobalAveragePooling2D()(d))))
    assert [(site.first.name, [one.name for one in site.behind]) for site in sites] == [("a", ["b"]), ("d", ["e_2"])]
    assert reasons["b"].startswith("b_silu (Composite) behind it does not pass")
    assert reasons["c"] == "sum (Add) behind it does not pass scaled channels on"
    assert reasons["e_2"] == "it gives an output of the model"


def attending():
    """A block of a transformer that normalizes first, with one feature that is far larger than the others."""
    keras.utils.set_random_seed(6)
    i = keras.Input((8, 16), name="x")
    normed = L.LayerNormalization(name="norm")(i)
    x = L.Add()([i, L.MultiHeadAttention(2, 8, name="attention")(normed, normed)])
    model = keras.Model(i, L.Dense(4, name="last")(L.GlobalAveragePooling1D()(x)))
    gamma = np.ones(16, np.float32)
    gamma[3] = 200.0
    model.get_layer("norm").gamma.assign(gamma)
    for one in ("query", "key", "value"):
        kernel = getattr(model.get_layer("attention"), f"{one}_dense").kernel
        kernel.assign(kernel / gamma[:, None, None])
    return model


def test_a_normalization_of_features_and_all_projections_behind_it_are_a_site():
    sites, _ = sites_of(attending())
    behind = ["attention_query", "attention_key", "attention_value"]
    assert [(site.first.name, [one.name for one in site.behind]) for site in sites] == [("norm", behind)]


@pytest.mark.slow
def test_the_spread_of_activations_goes_into_the_projections_behind_a_normalization():
    model, x = attending(), examples(40, (8, 16))
    copy, report = post_training(model, x, options="smooth")
    np.testing.assert_allclose(in_float(copy, x), model(x), atol=1e-5)
    assert report.error < 0.5 * report.plain_error


def test_nothing_is_enlarged_into_the_cap_of_a_relu6():
    model, x = chain("relu6"), examples()
    copy, report = post_training(model, x, options="equalize")
    assert "2 of them below the cap" in report.options[0].reason
    np.testing.assert_allclose(in_float(copy, x), model(x), atol=1e-4)
    assert report.error < 0.5 * report.plain_error


def test_what_a_bias_adds_to_every_value_goes_behind_the_relu():
    """All inputs are 0 or more and so are the weights: 5 is below every value and goes into the next bias."""
    i = keras.Input((4,), name="x")
    model = keras.Model(i, L.Dense(2, name="b")(L.Dense(3, activation="relu", name="a")(i)))
    a, b = model.get_layer("a"), model.get_layer("b")
    a.kernel.assign(np.ones((4, 3), np.float32))
    a.bias.assign([5.0, 0, -1])
    x = examples(20, (4,))
    x[0] = 0.0
    copy, report = post_training(model, x, options="absorb")
    first, second = kernels_of(copy)
    np.testing.assert_allclose(first.bias, [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(second.bias, 5 * b.kernel[0], rtol=1e-5)
    assert report.options[1].layers == 1


def test_a_mean_error_is_taken_out_of_the_bias():
    """Steps of the kernel are 1, so that 0.4 becomes 0: with inputs of 2 the output is too small by 0.8."""
    i = keras.Input((2,), name="x")
    model = keras.Model(i, L.Dense(1, name="dense")(i))
    model.get_layer("dense").kernel.assign([[127.0], [0.4]])
    x = np.tile(np.array([[0.0, 2.0]], np.float32), (20, 1))
    for option in ("analytic", "empirical"):
        copy, _ = post_training(model, x, options=option)
        np.testing.assert_allclose(kernels_of(copy)[0].bias, [0.8], atol=1e-5)


@pytest.mark.slow
def test_auto_keeps_what_lowers_the_error_and_says_why_not():
    copy, report = post_training(chain(), examples(), iterations=20)
    rows = {one.name: one for one in report.options}
    assert rows["equalize"].kept
    assert rows["equalize"].reason.endswith("the error fell")
    assert rows["absorb"].reason == "no channel before a ReLU is above 0 in all examples"
    kept = [one.error for one in report.options if one.kept]
    assert kept == sorted(kept, reverse=True)
    assert report.error == pytest.approx(kept[-1])
    assert report.error < 0.1 * report.plain_error
    assert all(
        "did not fall" in one.reason or "was better" in one.reason or one.error is None
        for one in report.options
        if not one.kept
    )
    assert (report.examples, report.held_out) == (30, 10)
    assert PostTrainingQuantization.from_json(report.to_json()).options == report.options
    assert "equalize" in report.table(100)
    assert copy.quantization == report.quantization


@pytest.mark.slow
def test_learned_rounding_is_for_small_models_unless_asked_for(monkeypatch):
    monkeypatch.setattr("kopt.quantize.after_training.quantization.SMALL_MACS", 10)
    rows = {one.name: one for one in post_training(chain(), examples(20))[1].options}
    assert rows["learned"].reason.startswith("slow: the model has")
    assert "Ask for it by name" in rows["learned"].reason


@pytest.mark.slow
def test_ranges_by_layer():
    x = examples()
    x[0, 0, 0, 0] = 50.0
    x = np.concatenate([x, x])
    ends = {}
    for layer in ("x", "middle"):
        copy, _ = post_training(chain(), x, options="mse", ranges={layer: "minmax", "la*": "percentile"})
        ends[layer] = [copy.get_layer(name).ranges.numpy()[0, 1] for name in ("x_range", "middle_relu_range")]
    assert ends["x"][0] == 50.0
    assert ends["middle"][0] < 50.0
    assert ends["middle"][1] > ends["x"][1]
    rows = {one.name: one for one in post_training(chain(), x, ranges="mse", iterations=2)[1].options}
    assert rows["percentile"].reason == "`ranges` fixes all ranges"


def test_an_option_counts_only_the_ranges_that_it_finds():
    i = keras.Input((8,), name="x")
    model = keras.Model(i, L.Dense(4, name="last")(i))
    for ranges, kept, count in (({"*": "minmax"}, False, 0), ({"x": "minmax"}, True, 1)):
        _, report = post_training(model, examples(20, (8,)), options="mse", ranges=ranges)
        row = next(one for one in report.options if one.name == "mse")
        assert (row.kept, row.layers) == (kept, count)


@pytest.mark.slow
def test_the_given_model_stays_as_it_is_and_the_result_repeats():
    model, x = chain(), examples()
    before = [weight.numpy().copy() for weight in model.weights]
    first, _ = post_training(model, x, seed=3, iterations=20)
    second, _ = post_training(model, x, seed=3, iterations=20)
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_codebook_and_zeros_stay():
    model = chain()
    kernel = model.get_layer("last").kernel.numpy()
    model.get_layer("last").kernel.assign(np.where(kernel > 0, 0.5, 0.0))
    copy, _ = post_training(model, examples(), options=("equalize", "clip", "learned"), iterations=2)
    assert set(np.unique(kernels_of(copy)[-1].kernel)) == {0.0, 0.5}


def test_few_examples_are_a_warning_with_its_effect():
    with pytest.warns(UserWarning, match=r"has 6 example\(s\).*ranges widened by \d+%"):
        _, report = post_training(chain(), examples(6), options=())
    assert len(report.warnings) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert post_training(chain(), examples(20), options=())[1].warnings == ()


def test_three_examples_teach_and_judge():
    with pytest.warns(UserWarning, match="has 3 example"):
        _, report = post_training(chain(), examples(3), options=())
    assert (report.examples, report.held_out) == (3, 3)


def with_nan(model):
    model.get_layer("last").bias.assign([np.nan, 0, 0, 0])
    return model


def quantized():
    return post_training(chain(), examples(20), options=())[0]


@pytest.mark.parametrize(
    ("model", "settings", "error", "message"),
    [
        (chain, {"calibration": None}, ConfigError, "needs `calibration`.*Received: None"),
        (chain, {"options": "equalise"}, ConfigError, "Did you mean 'equalize'"),
        (
            chain,
            {"options": ("mse", "entropy")},
            ConfigError,
            "'mse' and 'entropy' one can be had: both set the ranges",
        ),
        (chain, {"options": ("auto", "mse")}, ConfigError, "stands alone"),
        (chain, {"options": ("mse",), "ranges": "percentile"}, ConfigError, "'mse' would change nothing"),
        (chain, {"ranges": "mean"}, ConfigError, "Unknown `ranges`"),
        (chain, {"ranges": {"lost": "mse"}}, ConfigError, "names 'lost'"),
        (chain, {"scheme": "int7"}, ConfigError, "int8"),
        (chain, {"alpha": 2.0}, ConfigError, "alpha"),
        (chain, {"iterations": 0}, ConfigError, "iterations"),
        (chain, {"skip": "nobody"}, ConfigError, "'nobody', and no layer"),
        (chain, {"calibration": np.zeros((20, 8, 8), np.float32)}, InputError, "shape"),
        (chain, {"calibration": np.full((20, 8, 8, 3), np.nan, np.float32)}, NonFiniteError, "calibration"),
        (lambda: with_nan(chain()), {}, NonFiniteError, "last"),
        (quantized, {}, UnsupportedModelError, "quantization-aware already"),
        (lambda: zoo.build("subclassed"), {}, UnsupportedModelError, "Build it as"),
        (lambda: keras.Sequential([L.Dense(3)]), {}, InputError, "not built"),
    ],
)
def test_refusals(model, settings, error, message):
    with pytest.raises(error, match=message):
        post_training(model(), **{"calibration": examples(20), **settings})


def test_a_model_that_overflows_is_named():
    model = chain()
    model.get_layer("last").bias.assign(np.full(4, 3e38, np.float32))
    model.get_layer("last").kernel.assign(np.full_like(model.get_layer("last").kernel, 3e38))
    with pytest.raises(NonFiniteError, match="gives NaN or infinity for the calibration examples"):
        post_training(model, examples(20))


def test_errors_are_of_what_the_softmax_takes():
    """Logits far apart give a softmax of 0 and 1, on whose grid hardly anything is off."""
    model, x = chain(), examples()
    logits = L.Rescaling(100.0, name="sharp")(model.outputs[0])
    _, of_logits = post_training(keras.Model(model.inputs, logits), x, options=())
    _, of_classes = post_training(keras.Model(model.inputs, L.Softmax(name="classes")(logits)), x, options=())
    assert of_classes.error == pytest.approx(of_logits.error)
    assert of_classes.error > 0.01


def test_an_output_of_one_number_has_no_largest_entry():
    model = chain()
    single = keras.Model(model.inputs, L.Dense(1, name="one")(model.outputs[0]))
    _, report = post_training(single, examples(20), options=())
    assert report.agreement is None
    assert "largest" not in str(report)
    _, report = post_training(model, examples(20), options=())
    assert "; the largest one is the same in " in str(report)


def scaled(shape, spread):
    """Return a network that scales its input itself, and examples whose last axis spreads so far."""
    keras.utils.set_random_seed(0)
    x = (RNG.random((60, *shape), np.float32) * np.geomspace(1, spread, shape[-1])).astype("float32")
    scale = L.Normalization(name="scale")
    scale.adapt(x)
    layers = [scale, L.Flatten(), L.Dense(16, activation="relu"), L.Dense(3, name="out")]
    return keras.Sequential([keras.Input(shape), *layers]), x


def test_what_scales_raw_features_stays_in_float():
    model, x = scaled((6,), 1e4)
    report = post_training(model, x, options=())[1]
    (left,) = report.quantization.left
    assert left.layer == "scale"
    assert left.detail.startswith("the features that it takes span from 0.9")
    assert report.plain_error < 0.05  # one scale for all of them has an error of 0.5
    assert not [name for name in report.quantization.ranges if name.startswith("input")]  # it takes what is given
    assert post_training(model, x, scheme="int16x8", options=())[1].quantization.left == ()  # its steps are fine enough
    skipped = post_training(model, x, options=(), skip=lambda layer: layer.name == "out")[1]
    assert {one.layer for one in skipped.quantization.left} == {"scale", "out"}


def test_what_scales_pixels_is_rounded():
    model, x = scaled((4, 4, 3), 2.0)
    report = post_training(model, x, options=())[1]
    assert (report.quantization.left, report.warnings) == ((), ())


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_an_argmax_is_judged_by_what_it_is_taken_of(activation):
    keras.utils.set_random_seed(0)
    i, x = keras.Input((8,), name="x"), examples(40, (8,))
    logits = L.Dense(4, activation=activation, name="last")(i)
    _, plain = post_training(keras.Model(i, logits), x, options=())
    _, chosen = post_training(keras.Model(i, keras.ops.argmax(logits, axis=-1)), x, options=())
    assert chosen.error > 0
    assert chosen.error == pytest.approx(plain.error)
    assert chosen.agreement == plain.agreement
