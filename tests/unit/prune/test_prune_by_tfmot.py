"""tfmot itself on the tf_keras twin, and the way back to Keras 3."""

import applications
import bridge_checks
import keras
import numpy as np
import pytest
import tf_keras

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.graph import Adapter, adapted_twin
from kopt.prune import finalize, magnitude, schedules

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 4, 64)
GRADUAL = schedules.Polynomial(0.75, begin=1, end=8, frequency=2)


def network():
    """Return a model with what tfmot knows, what only tf_keras knows, and what only Keras 3 has."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    block = keras.Sequential([keras.Input((8, 8, 8)), L.Conv2D(8, 3, padding="same", name="conv")], name="block")
    x = L.Conv2D(8, 3, padding="same", name="conv2d")(image)
    x = L.LeakyReLU(negative_slope=0.05, name="leaky")(x)
    x = L.BatchNormalization(name="norm")(x)
    x = block(block(x))
    x = L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.ops.multiply(x, 0.5)
    x = L.Conv2D(8, 1, activation="hard_silu", name="gated")(x)
    x = L.Dropout(0.2, name="dropout")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(4, name="logits")(x), name="net")


def trained(pruned):
    pruned.compile(tf_keras.optimizers.Adam(0.01), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruned.fit(X, Y, batch_size=16, epochs=4, verbose=0)
    return pruned


def test_there_and_back():
    model = network()
    before = [value.copy() for value in model.get_weights()]
    pruned, report = magnitude(model, GRADUAL, backend="tfmot")
    assert isinstance(pruned, tf_keras.Model)
    np.testing.assert_allclose(pruned.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-5)
    assert [one.path for one in report.variables] == ["conv2d/kernel", "block/conv/kernel", "logits/kernel"]
    reasons = {one.layer: one.detail for one in report.skipped}
    assert reasons["gated"] == "it has no tf_keras twin"
    assert reasons["depthwise"].startswith("a depthwise kernel")
    plain, after = finalize(trained(pruned))
    assert type(plain) is type(model)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert after.sparsity == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(plain.predict(X, verbose=0), pruned.predict(X, verbose=0), atol=1e-5)
    inner = next(layer for layer in pruned.layers if layer.name.endswith("twin_block_conv")).layer
    np.testing.assert_array_equal(plain.get_layer("block").get_layer("conv").kernel.numpy(), inner.kernel.numpy())
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert not np.array_equal(plain.get_layer("gated").kernel.numpy(), model.get_layer("gated").kernel.numpy())


def test_it_makes_the_masks_of_the_keras_backend():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Flatten(name="flat"), L.Dense(16, name="a"), L.Dense(4, name="b")]
    )
    kernels = []
    for backend, library in (("tfmot", tf_keras), ("keras", keras)):
        pruned, _ = magnitude(model, GRADUAL, backend=backend, sparsity_by_layer={"a": 0.5})
        loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
        pruned.compile(library.optimizers.SGD(0.05), loss)
        pruned.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        plain, _ = finalize(pruned)
        kernels.append([plain.get_layer(name).kernel.numpy() for name in "ab"])
    for one, other in zip(*kernels, strict=True):
        np.testing.assert_array_equal(one != 0, other != 0)
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert [np.mean(kernel == 0) for kernel in kernels[0]] == [0.5, 0.75]


def test_dropout_of_the_twin_is_that_of_training():
    twin = adapted_twin(network()).model
    assert np.abs(twin(X, training=True).numpy() - twin(X, training=True).numpy()).max() > 1e-3
    assert np.abs(twin(X, training=False).numpy() - twin(X, training=False).numpy()).max() == 0.0


def test_attention_and_recurrent_layers_of_the_twin():
    keras.utils.set_random_seed(2)
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = L.Embedding(10, 8, mask_zero=True, name="embedding")(tokens)
    x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = L.Bidirectional(L.LSTM(4, name="lstm"), name="both")(x)
    model = keras.Model(tokens, L.Dense(2, name="out")(x), name="text")
    data = RNG.integers(0, 10, (16, 6)).astype("int32")
    twin = adapted_twin(model)
    assert [one.path for one in twin.layers if isinstance(one.twin, Adapter)] == ["attention"]
    np.testing.assert_allclose(twin.model.predict(data, verbose=0), model.predict(data, verbose=0), atol=1e-6)
    pruned, report = magnitude(model, 0.5, backend="tfmot")
    pruned.compile("sgd", "mse")
    pruned.fit(data, np.ones((16, 2)), verbose=0)
    plain, _ = finalize(pruned)
    np.testing.assert_allclose(plain.predict(data, verbose=0), pruned.predict(data, verbose=0), atol=1e-6)
    reasons = {one.layer: one.detail for one in report.skipped}
    assert reasons["embedding"] == "a mask goes through it, which tfmot's wrapper would lose"
    assert reasons["attention/query"] == "it has no tf_keras twin"
    assert [one.path for one in report.variables] == ["out/kernel"]
    assert reasons["both/forward_lstm/lstm_cell"] == "a mask goes through it, which tfmot's wrapper would lose"


@pytest.mark.parametrize("name", ["MobileNetV3Small", "ConvNeXtTiny"])
def test_twins_of_applications_compute_the_same(name):
    """Those with layers that tf_keras does not have; `make sweep` runs all."""
    difference, adapters = bridge_checks.twin(applications.build(name), applications.images(name))
    assert difference <= bridge_checks.BOUNDS["twin"]
    assert adapters > 0


def test_every_weight_of_an_application_comes_back():
    back = bridge_checks.there_and_back(applications.build("MobileNetV2"), applications.images("MobileNetV2"))
    assert (back["not_bit_for_bit"], back["wrapped"]) == (0, 36)
    assert back["finalized"] <= bridge_checks.BOUNDS["finalized"]
    assert len(back["left"]) == 17  # the depthwise ones


def test_what_tfmot_cannot_do():
    model = network()
    with pytest.raises(ConfigError, match='the backend "keras" has both'):
        magnitude(model, 0.5, backend="tfmot", granularity="channel")
    with pytest.raises(ConfigError, match="tfmot can prune nothing in the model 'net': gated"):
        magnitude(model, 0.5, backend="tfmot", layers=["gated"])
    with pytest.raises(ConfigError, match="Unknown `backend`"):
        magnitude(model, 0.5, backend="torch")
    with pytest.raises(UnsupportedModelError, match="its way back to Keras 3 is not known"):
        finalize(tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(2,))]))


def test_blocks_are_of_matrices_alone():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, name="conv")(inputs))
    model = keras.Model(inputs, L.Dense(4, name="classes")(x))
    twin, report = magnitude(model, 0.5, granularity="block", block_size=(4, 1), backend="tfmot")
    assert [(one.layer, one.detail) for one in report.skipped] == [
        ("conv", "tfmot does not prune this kind of layer in blocks")
    ]
    twin.compile("sgd", "sparse_categorical_crossentropy")
    twin.fit(X, Y, verbose=0)
    plain, _ = finalize(twin)
    assert np.mean(plain.get_layer("classes").kernel.numpy() == 0) == 0.5


def test_a_layer_that_has_the_name_of_the_model_is_pruned():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10, 6))
    x = L.Flatten()(L.Conv1D(8, 3, name="net")(inputs))
    model = keras.Model(inputs, L.Dense(3, name="dense")(x), name="net")
    wrapped, report = magnitude(model, 0.5, backend="tfmot")
    assert [one.layer for one in report.variables] == ["net", "dense"]
    wrapped.compile("adam", "mse")
    wrapped.fit(RNG.normal(size=(8, 10, 6)), RNG.normal(size=(8, 3)), verbose=0, callbacks=[])
    plain, _ = finalize(wrapped)
    assert plain.name == "net"
    assert np.mean(plain.get_layer("net").kernel.numpy() == 0) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tfmot", "kopt"])
def test_a_training_in_which_tfmot_prunes_nothing_is_refused(name):
    from tensorflow_model_optimization.sparsity import keras as sparsity

    late = schedules.Polynomial(0.8, begin=100, end=200)
    schedule = sparsity.PolynomialDecay(0.0, 0.8, 0, 1000) if name == "tfmot" else late
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(16), keras.layers.Dense(3)])
    pruned, _ = magnitude(model, schedule, backend="tfmot")
    pruned.compile("adam", "mse")
    with pytest.raises(ConfigError, match="prunes nothing in this training, which takes 24 steps"):
        pruned.fit(np.zeros((64, 12)), np.zeros((64, 3)), batch_size=8, epochs=3, verbose=0)
