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


def differs(model, x, tmp_path, **settings):
    """Return how far the file is from the copy that computes with its rounding."""
    copy, _ = kopt.quantize.aware(model, calibration=x, **settings)
    made = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    return np.abs(load(made.path).predict(x) - copy.predict(x, verbose=0)).max()


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
    assert what_to_keep(grid) == ""
    own = np.stack([RNG.choice(RNG.normal(size=8), (3, 3, 4)) for _ in range(80)], -1)
    assert what_to_keep(own) == CHANNEL_VALUES
    alike = np.repeat(own[..., :1], 80, axis=-1)  # a value in two channels, which a normalization may scale apart
    kernel = keras.Variable(alike)
    record = Preserved(kernel, CHANNEL_VALUES)
    record.take_from(alike)
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
