"""What integers promise of layers, ranges and kernels that few models have, in the file."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import ConfigError, ParityError, UnsupportedModelError
from kopt.measure import load
from kopt.quantize.preserved import CHANNEL_VALUES, Preserved, what_to_keep

pytestmark = pytest.mark.slow
L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 8, 8, 3)).astype("float32")


def differences(model, x, tmp_path, **settings):
    """Return how far the file is from the copy that computes with its rounding."""
    copy, _ = kopt.quantize.aware(model, calibration=x, **settings)
    made = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    return np.abs(load(made.path).predict(x) - copy.predict(x, verbose=0))


def differs(model, x, tmp_path, **settings):
    return differences(model, x, tmp_path, **settings).max()


def classifier(inputs, x):
    return keras.Model(inputs, L.Dense(4, "softmax")(L.GlobalAveragePooling2D()(L.Conv2D(8, 3)(x))))


@pytest.mark.parametrize("jit", [False, True])
def test_percentiles_are_found_in_batches_of_any_size(jit):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    copy, _ = kopt.quantize.aware(classifier(inputs, inputs), ranges="percentile")
    copy.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit)
    y = RNG.integers(0, 4, 100)
    copy.fit(X, y, batch_size=32, verbose=0)  # the last has 4
    copy.fit(tf.data.Dataset.from_tensor_slices((X, y)).batch(25), shuffle=False, verbose=0)


@pytest.mark.parametrize("kinds", ["SC", "SCS", "ST", "SXC", "STXC", "SS"])
def test_what_is_put_together_has_a_range_that_holds_it_all(kinds, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    activations = {"S": "sigmoid", "T": "tanh", "X": "softmax", "C": None}
    parts = [L.Conv2D(4, 1, activation=activations[kind])(inputs) for kind in kinds]
    assert differs(classifier(inputs, L.Concatenate()(parts)), X, tmp_path) < 0.02


@pytest.mark.parametrize("value", [5.0, -4.6])
def test_equal_biases_have_steps_of_their_own(value, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    layer = L.Conv2D(4, 3, bias_initializer=keras.initializers.Constant(value))
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(layer(inputs)))
    layer.kernel.assign(layer.kernel * np.array([1, 0.1, 3, 0.5], "float32"))
    assert differs(model, X, tmp_path) < 0.06  # of means: a step


def test_padding_with_numbers_is_in_float(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 1, activation="relu")(inputs)
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-1.0)
    assert differs(classifier(inputs, x), X, tmp_path) < 0.02


@pytest.fixture
def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def test_normalizations_are_folded_in_bfloat16(bfloat16):
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization(name="norm")(L.Conv2D(4, 3)(inputs)))
    _, report = kopt.quantize.aware(classifier(inputs, x))
    assert report.left == ()
    assert report.kernels[0].folded == "norm"


@pytest.mark.parametrize("norm", [False, True])
def test_each_channel_keeps_values_of_its_own(norm, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(32, 3, activation="relu")(inputs)
    x = L.Conv2D(32, 3, name="c", use_bias=not norm)(x)
    x = L.BatchNormalization()(x) if norm else x
    clustered, _ = kopt.cluster.weights(classifier(inputs, x), clusters=16, per_channel=True)
    plain, _ = kopt.cluster.finalize(clustered)
    copy, report = kopt.quantize.aware(plain, calibration=X)
    assert next(one for one in report.kernels if one.layer == "c").values == 16
    copy.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    copy.fit(X, RNG.integers(0, 4, 100), epochs=2, verbose=0)
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    loaded.fit(X, RNG.integers(0, 4, 100), verbose=0)
    kernel = next(layer for layer in loaded.layers if layer.name == "c").layer.kernel.numpy()
    assert max(np.unique(channel).size for channel in kernel.reshape(-1, 32).T) == 16


def test_weights_on_a_grid_are_no_codebook_and_channels_share_no_values():
    steps = RNG.uniform(0.5, 2.0, 4)
    grid = np.clip(np.rint(RNG.normal(size=(3, 3, 64, 4)) * 40), -127, 127) * steps
    assert what_to_keep(grid, (3,)) == ""
    own = np.stack([RNG.choice(RNG.normal(size=8), (3, 3, 4)) for _ in range(80)], -1)
    assert what_to_keep(own, (3,)) == CHANNEL_VALUES
    alike = np.repeat(own[..., :1], 80, axis=-1)  # a value in two channels, which a normalization may scale apart
    kernel = keras.Variable(alike)
    record = Preserved(kernel, CHANNEL_VALUES)
    record.take_from(alike, (3,))
    pattern = record.pattern.numpy()
    assert not set(pattern[..., 0].ravel()) & set(pattern[..., 1].ravel())


@pytest.mark.filterwarnings("ignore:Layer .* does not have enough weights:UserWarning")  # tfmot's own words
def test_tfmot_leaves_what_has_too_few_weights_in_a_channel():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.Dense(4)(L.Flatten()(L.Conv2D(64, 3)(L.Conv2D(16, 1)(inputs)))))
    _, report = kopt.cluster.weights(model, clusters=8, per_channel=True, backend="tfmot")
    assert any("too few weights in a channel" in one.detail for one in report.skipped)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: kopt.quantize.aware(m, skip=5), "`skip` must be names, classes"),
        (lambda m: kopt.quantize.aware(m, skip=None), "`skip` must be names, classes"),
        (lambda m: kopt.quantize.aware(m, bits=4), "`bits` must be a mapping"),
        (lambda m: kopt.quantize.aware(m, bits="c1"), "`bits` must be a mapping"),
        (lambda m: kopt.quantize.post_training(m, X, options=5), "`options` must be a name"),
    ],
)
def test_settings_of_another_kind_are_named(call, words):
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ConfigError, match=words):
        call(classifier(inputs, inputs))


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method:UserWarning")  # Keras' own
def test_a_model_that_keras_quantized_is_not_clustered():
    model = keras.Sequential([keras.Input((8,)), L.Dense(16), L.Dense(4)])
    model.quantize("int8")
    with pytest.raises(UnsupportedModelError, match=r"converted with `keras.Model.quantize`"):
        kopt.cluster.weights(model, clusters=4)


def test_statistics_under_a_mask_are_left_in_float():
    inputs = keras.Input((6,), dtype="int32")
    x = L.BatchNormalization(name="norm")(L.Embedding(9, 4, mask_zero=True)(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    _, report = kopt.quantize.aware(model)
    assert {one.layer: one.detail for one in report.left}["norm"] == "its statistics are of what a mask lets through"


@pytest.mark.parametrize("way", [kopt.quantize.aware, kopt.quantize.post_training])
@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_a_layer_that_is_always_zero_has_a_file(scheme, way, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    dead = L.Conv2D(8, 3, activation="relu", bias_initializer=keras.initializers.Constant(-50.0))(inputs)
    model = keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(L.Conv2D(8, 3, use_bias=False)(dead))))
    model.layers[-1].bias.assign([0.5, -0.25, 1.0, 0.0])
    if scheme == "int8":
        with pytest.raises(ParityError, match=r"`kopt.quantize.post_training` gives it a range"):
            kopt.export.tflite(model, tmp_path / "m.tflite", scheme=scheme, calibration=X)
    copy, _ = way(model, calibration=X, scheme=scheme)
    made = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme=scheme)
    np.testing.assert_allclose(load(made.path).predict(X[:2]), model.predict(X[:2], verbose=0), atol=0.01)


WIDE = np.array([0.01, 1.0, -30.0, 100.0], "float32")


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda x: x + WIDE, id="sum"),
        pytest.param(lambda x: x * keras.ops.convert_to_tensor(WIDE), id="product"),
        pytest.param(lambda x: x / np.array([1, 2, 3, -1], "float32"), id="quotient"),
        pytest.param(lambda x: x / WIDE, id="quotient that is zero"),
        pytest.param(lambda x: x / 2.0, id="half"),
        pytest.param(keras.ops.abs, id="abs"),
        pytest.param(lambda x: keras.ops.rsqrt(keras.ops.relu(x) + 1.0), id="rsqrt"),
        pytest.param(keras.ops.exp, id="exp"),
        pytest.param(lambda x: keras.ops.log(keras.ops.relu(x) + 1.0), id="log"),
        pytest.param(lambda x: keras.ops.sum(x, axis=(1, 2)), id="sum"),
        pytest.param(lambda x: keras.ops.tile(x, (1, 1, 2, 1)), id="tile"),
        pytest.param(lambda x: keras.ops.max(x, axis=(1, 2)), id="max"),
        pytest.param(lambda x: keras.ops.min(x, axis=(1, 2)), id="min"),
        pytest.param(lambda x: keras.ops.max_pool(x, 2), id="max_pool"),
        pytest.param(lambda x: keras.ops.average_pool(x, 2), id="average_pool"),
        pytest.param(lambda x: keras.ops.concatenate(keras.ops.split(x, 2, axis=-1)[::-1], -1), id="split"),
    ],
)
def test_operations_and_their_numbers_are_those_of_the_file(compute, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, compute(L.Conv2D(4, 1)(inputs)))
    assert kopt.quantize.aware(model)[1].left == ()
    # A step is 0.01 or more; of hundreds of entries a few lie so near a tie that float32 decides.
    assert np.mean(differences(model, X, tmp_path) > 1e-5) < 4e-3


def test_numbers_beside_a_tensor_of_16_bits_are_refused_before_training():
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(UnsupportedModelError, match="numbers beside its tensor 8 bits"):
        kopt.quantize.aware(classifier(inputs, inputs * WIDE[:3]), scheme="int16x8")


def sequence_model():
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(50, 16, name="table")(tokens)
    x = L.ReLU()(L.SeparableConv1D(16, 3, depth_multiplier=2, name="separable")(x))
    return keras.Model(tokens, L.Dense(3, "softmax")(L.Flatten()(x)))


def sparse(model):
    return kopt.prune.finalize(kopt.prune.magnitude(model, 0.5, layers=["table", "separable"])[0])[0]


def shared(model):
    return kopt.cluster.finalize(kopt.cluster.weights(model, clusters=8)[0])[0]


@pytest.mark.parametrize("make", [sparse, shared])
def test_tables_and_depthwise_parts_keep_what_they_brought(make, tmp_path):
    x, y = RNG.integers(0, 50, (100, 6)), RNG.integers(0, 3, 100)
    copy, report = kopt.quantize.aware(make(sequence_model()), calibration=x)
    listed = [(one.layer, one.variable) for one in report.kept]
    assert listed == [("table", "embeddings")]
    assert (pytest.approx(0.5, abs=0.02) == report.kept[0].zeros) if make is sparse else report.kept[0].values == 8
    assert "Kept, not rounded: table, embeddings: " in report.table(200)
    copy.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    copy.fit(x, y, epochs=2, verbose=0)
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    before = loaded.get_layer("table").embeddings.numpy()
    loaded.fit(x, y, verbose=0)
    kernels = [loaded.get_layer("table").embeddings, loaded.get_layer("separable_depthwise").layer.kernel]
    assert np.any(before != kernels[0].numpy())
    for kernel in map(np.asarray, kernels):
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.02) if make is sparse else np.unique(kernel).size <= 8


def integers_of(path):
    """Return the kernels of convolutions in a file, output channels first."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    details = [one for one in interpreter.get_tensor_details() if one["dtype"] == np.int8 and len(one["shape"]) == 4]
    fixed = [one for one in details if len(one["quantization_parameters"]["scales"]) > 1]
    return [interpreter.get_tensor(one["index"]) for one in fixed]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("option", ["equalize", "smooth", "clip", "learned", "blocks"])
def test_options_leave_codebooks_in_the_integers_of_a_file(option, norm, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, activation="relu")(inputs)
    x = L.Conv2D(32, 3, use_bias=not norm)(x)
    x = L.ReLU()(L.BatchNormalization()(x) if norm else x)
    clustered = shared(keras.Model(inputs, L.GlobalAveragePooling2D()(L.Conv2D(32, 1)(x))))
    copy, report = kopt.quantize.post_training(clustered, X, options=[option], iterations=50)
    made = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    kernels = integers_of(made.path)
    assert len(kernels) == 3
    assert max(np.unique(channel).size for kernel in kernels for channel in kernel) == 8
    (tried,) = [one for one in report.options if one.name == option]
    assert tried.reason.endswith("; 3 kernel(s) keep the values that their weights share")


def test_a_copy_of_a_clustered_and_normalized_model_trains_on_with_its_codebooks():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(32, 3, use_bias=False, name="c")(L.Conv2D(16, 3)(inputs))
    model = keras.Model(inputs, L.Dense(4, "softmax")(L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(x)))))
    model.layers[3].gamma.assign(RNG.uniform(0.5, 2.0, 32))
    copy, _ = kopt.quantize.post_training(shared(model), X, options=[])
    copy.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    copy.fit(X, RNG.integers(0, 4, 100), epochs=2, verbose=0)
    kernel = copy.get_layer("c").layer.kernel.numpy()
    assert max(np.unique(channel).size for channel in kernel.reshape(-1, 32).T) == 8


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: kopt.quantize.aware(m, calibration=x),
        lambda m, x: kopt.quantize.aware(m, calibration=x, ranges="learned"),
        lambda m, x: kopt.quantize.post_training(m, x, options=[]),
        lambda m, x: kopt.quantize.bits(m, x),
        lambda m, x: kopt.quantize.fallback(m, x),
    ],
)
def test_few_examples_are_warned_of_with_their_effect(call):
    inputs = keras.Input((8, 8, 3))
    model = classifier(inputs, inputs)
    growing = X[:6].copy()
    growing[kopt.data.calibration(np.arange(6))] *= np.arange(1, 7)[:, None, None, None]  # as they are chosen
    with pytest.warns(UserWarning, match=r"6 example\(s\); from 20 on.* widened by [1-9]\d*%") as caught:
        call(model, growing)
    assert [one.filename for one in caught if one.category is UserWarning] == [__file__]
    call(model, X[:20])  # enough: a warning would be an error here


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: kopt.quantize.aware(m, skip=lambda layer: False), "chooses none of the layers"),
        (lambda m: kopt.quantize.post_training(m, X, seed="x"), "`seed` must be a whole number"),
        (lambda m: kopt.cluster.weights(m, clusters=4, seed=1.5), "`seed` must be a whole number"),
        (lambda m: kopt.prune.channels(m, keep=0.5, seed=-1), "`seed` must be a whole number"),
    ],
)
def test_choices_of_nothing_and_seeds_of_another_kind_are_refused(call, words):
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ConfigError, match=words):
        call(classifier(inputs, inputs))


def decibels(found, expected):
    found, expected = np.asarray(found, "float32"), np.asarray(expected, "float32")
    return 10 * np.log10(np.mean(expected**2) / max(np.mean((found - expected) ** 2), 1e-30))


TOKENS = RNG.integers(1, 30, (64, 12)) * (np.arange(12) < RNG.integers(2, 13, (64, 1)))


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@pytest.mark.parametrize(
    ("layer", "left"),
    [
        (lambda: L.Conv1D(8, 3, padding="same", activation="relu"), 0),
        (lambda: L.SeparableConv1D(8, 3, padding="same"), 0),
        (lambda: L.EinsumDense("abc,cd->abd", (None, 8)), 0),
        (lambda: L.Dense(8, activation="relu"), 1),
    ],
)
def test_a_mask_ends_where_keras_drops_it(layer, left, tmp_path):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((12,), dtype="int32")
    pooled = L.GlobalAveragePooling1D()(layer()(L.Embedding(30, 16, mask_zero=True)(tokens)))
    model = keras.Model(tokens, L.Dense(3)(pooled))
    copy, report = kopt.quantize.aware(model, calibration=TOKENS)
    assert len(report.left) == left  # pooling of what a mask lets through
    assert decibels(copy(TOKENS), model(TOKENS)) > 25
    assert decibels(kopt.quantize.post_training(model, TOKENS)[0](TOKENS), model(TOKENS)) > 25
    assert np.mean(differences(model, TOKENS, tmp_path) > 1e-5) < 0.02  # a mean may fall on a tie


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_models_in_half_precision(policy):
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8, 8, 3))
        x = L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(L.ZeroPadding2D(1)(inputs)))
        model = keras.Model(inputs, L.Dense(4)(L.LayerNormalization()(L.GlobalAveragePooling2D()(L.ReLU()(x)))))
        aware, _ = kopt.quantize.aware(model, calibration=X)
        after, _ = kopt.quantize.post_training(model, X, options=["learned", "empirical"], iterations=5)
        clustered, _ = kopt.cluster.weights(model, clusters=64)
        for one in (aware, after, clustered):
            assert decibels(one(X), model(X)) > 25
            one.compile("sgd", "sparse_categorical_crossentropy")
            one.fit(X, np.arange(100) % 4, verbose=0)
    finally:
        keras.config.set_dtype_policy(before)
