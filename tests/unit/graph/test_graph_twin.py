import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from kopt.core.errors import UnsupportedModelError
from kopt.graph import GraphView, adapted_twin, to_tf_keras
from kopt.graph.legacy_layers import hard_sigmoid

L = keras.layers


def mlp():
    return keras.Sequential(
        [
            *(keras.Input((4,)), L.GaussianNoise(0.1), L.Dense(3, "relu"), L.Dense(3, "silu"), L.Dense(2, "softmax")),
            *(L.Reshape((2, 1)), L.Permute((2, 1)), L.Flatten(), L.RepeatVector(2), L.LayerNormalization()),
        ]
    )


def cnn():
    x = keras.Input((8, 8, 3))
    y = L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(L.Rescaling(0.5)(x)))
    y = L.LeakyReLU(0.1)(L.DepthwiseConv2D(3)(L.ReLU(6.0)(y)))
    y = L.Concatenate()([y, L.Multiply()([y, L.SeparableConv2D(4, 3, padding="same")(y)])])
    y = L.UpSampling2D()(L.Conv2DTranspose(3, 2, strides=2)(y))
    y = L.AveragePooling2D(2)(L.MaxPooling2D()(L.Cropping2D()(L.ZeroPadding2D()(y))))
    y = L.SpatialDropout2D(0.1)(L.Activation("tanh")(y))
    y = L.Maximum()([L.GlobalMaxPooling2D()(y), L.Average()([L.GlobalAveragePooling2D()(y)] * 2)])
    return keras.Model(x, L.Softmax()(L.Dense(4)(L.Dropout(0.3)(y))))


def sequence():
    layers = L.ZeroPadding1D(), L.Conv1D(4, 3, padding="causal"), L.MaxPooling1D(), L.UpSampling1D(), L.Cropping1D()
    return keras.Sequential([keras.Input((12, 2)), *layers, L.GlobalMaxPooling1D()])


def recurrent(layer):
    return keras.Sequential([keras.Input((5, 3)), layer(4, return_sequences=True), L.TimeDistributed(L.Dense(3))])


def lstm():
    return recurrent(L.LSTM)


def gru():
    return recurrent(L.GRU)


def simple_rnn():
    return recurrent(L.SimpleRNN)


def masked_tokens():
    x = keras.Input((6,), dtype="int32")
    y = L.Dropout(0.2)(L.Embedding(5, 4, mask_zero=True)(x))
    return keras.Model(x, L.Bidirectional(L.LSTM(4), merge_mode="sum")(y))


def masked_steps():
    return keras.Sequential([keras.Input((5, 3)), L.Masking(), L.LSTM(4, recurrent_activation=hard_sigmoid)])


def nested_and_shared():
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3, name="dense"), L.BatchNormalization()], name="inner")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return keras.Model([a, b], {"difference": L.Subtract()([inner(a), inner(b)]), "dense": L.Dense(1)(inner(a))})


MODELS = [mlp, cnn, sequence, lstm, gru, simple_rnn, masked_tokens, masked_steps, nested_and_shared]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_the_twin_computes_the_same(build):
    model = build()
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.2, 1, size=variable.shape))
    twin = to_tf_keras(model)

    def array(tensor):
        shape = (3, *tensor.shape[1:])
        return rng.integers(0, 5, shape) if "int" in tensor.dtype else rng.normal(size=shape).astype("float32")

    inputs = keras.tree.map_structure(array, GraphView.of(model).input_structure)
    expected, found = model(inputs, training=False), twin(inputs, training=False)
    keras.tree.assert_same_structure(expected, found)
    for a, b in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_the_twin_holds_its_own_weights_once():
    model = nested_and_shared()
    twin = to_tf_keras(model)
    assert isinstance(twin, tf_keras.Model)
    assert len(twin.weights) == len(model.weights)
    twin.weights[0].assign(tf.zeros_like(twin.weights[0]))
    assert np.any(model.weights[0].numpy())


def test_a_batch_size_can_be_fixed():
    assert to_tf_keras(sequence(), batch_size=1).input_shape == (1, 12, 2)
    assert to_tf_keras(sequence()).input_shape == (None, 12, 2)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (lambda x: x * 2, "'multiply.*' is called with 2 positional"),
        (L.Dense(2, "hard_sigmoid", name="d"), "'d' has the activation 'hard_sigmoid'"),
        (L.Lambda(lambda x: x, name="l"), "'l' .*no tf_keras twin"),
        (L.RMSNormalization(name="r"), "'r' .*no tf_keras twin. Layers that have one: Activation, Add"),
    ],
)
def test_what_has_no_twin_is_named(layer, match):
    x = keras.Input((4,))
    with pytest.raises(UnsupportedModelError, match=match):
        to_tf_keras(keras.Model(x, layer(x)))


def test_passed_states_have_no_twin():
    x = keras.Input((5, 4))
    sequence, *states = L.LSTM(3, return_sequences=True, return_state=True)(x)
    model = keras.Model(x, L.LSTM(3, name="second")(sequence, initial_state=states))
    with pytest.raises(UnsupportedModelError, match="'second' is called with `initial_state="):
        to_tf_keras(model)


def test_a_mask_of_ones_own_making_has_no_twin():
    x, mask = keras.Input((5, 4)), keras.Input((5,), dtype="bool")
    with pytest.raises(UnsupportedModelError, match="`mask="):
        to_tf_keras(keras.Model([x, mask], L.LSTM(3)(x, mask=mask)))


def masked_and_plain(merge):
    """A sum of masked and unmasked embeddings, as of words and their places."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((4,), dtype="int32", name="tokens")
    words, places = L.Embedding(5, 6, mask_zero=True)(tokens), L.Embedding(5, 6)(tokens)
    return keras.Model(tokens, L.Dense(2)(L.GRU(3)(merge(words, places))))


MERGES = {
    "add": lambda words, places: L.Add()([words, places]),
    "concatenate": lambda words, places: L.Concatenate()([words, places]),
    "one_after_the_other": lambda words, places: L.Concatenate(axis=1)([words, places]),
    "rescaling": lambda words, places: L.Rescaling(2.0)(words),
}


@pytest.mark.parametrize("merge", MERGES)
def test_masks_that_are_merged_have_no_twin_and_are_kept_by_an_adapter(merge):
    model, tokens = masked_and_plain(MERGES[merge]), np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    with pytest.raises(UnsupportedModelError, match="another mask than Keras 3"):
        to_tf_keras(model)
    np.testing.assert_allclose(adapted_twin(model).model(tokens), model(tokens), atol=1e-5)


def test_attention_over_masked_steps_is_adapted():
    tokens = keras.Input((4,), dtype="int32")
    words = L.Embedding(5, 6, mask_zero=True)(tokens)
    model = keras.Model(tokens, L.Dense(2)(L.GRU(3)(L.Attention()([words, words]))))
    x = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    np.testing.assert_allclose(adapted_twin(model).model(x), model(x), atol=1e-5)
