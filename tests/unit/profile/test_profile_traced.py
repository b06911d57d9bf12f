"""Formulas against the operations that TensorFlow traces the same layer to; and those of layers without a formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt import profile
from kopt.profile.cost.traced import arithmetic, needed

L = keras.layers
IMAGE, SEQUENCE = (8, 8, 4), (7, 3)


def traced(model):
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
    given = tf.function(lambda *x: model(list(x) if len(x) > 1 else x[0], training=False), autograph=False)
    graph = given.get_concrete_function(*specs).graph
    return arithmetic(needed(graph.outputs, graph.get_operations()))


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (L.Conv1D(5, 3), [SEQUENCE]),
        (L.Conv2D(8, 3, strides=2, padding="same"), [IMAGE]),
        (L.Conv2D(8, 3, groups=2), [IMAGE]),  # In a function of its own.
        (L.Conv3D(2, 2), [(3, 4, 5, 6)]),
        (L.DepthwiseConv1D(3, depth_multiplier=2), [SEQUENCE]),
        (L.DepthwiseConv2D(3, depth_multiplier=2), [IMAGE]),
        (L.SeparableConv1D(7, 3), [SEQUENCE]),
        (L.SeparableConv2D(7, 3, depth_multiplier=2), [IMAGE]),
        (L.Conv1DTranspose(5, 3, strides=2), [SEQUENCE]),
        (L.Conv2DTranspose(5, 3, strides=2, padding="same"), [IMAGE]),
        (L.Conv3DTranspose(5, 2), [(2, 2, 2, 3)]),
        (L.Dense(10, "relu"), [SEQUENCE]),
        (L.EinsumDense("abc,cde->abde", (None, 2, 5)), [SEQUENCE]),
        (L.Dot((2, 2)), [SEQUENCE, SEQUENCE]),
        (L.LSTM(5, unroll=True), [SEQUENCE]),
        (L.GRU(5, unroll=True), [SEQUENCE]),
        (L.GRU(5, unroll=True, reset_after=False), [SEQUENCE]),
        (L.SimpleRNN(5, unroll=True, use_bias=False), [SEQUENCE]),
        (L.Bidirectional(L.LSTM(5, unroll=True), merge_mode="sum"), [SEQUENCE]),
        (L.RNN([L.LSTMCell(5), L.GRUCell(4)], unroll=True), [SEQUENCE]),
        (L.ConvLSTM2D(2, 3, unroll=True), [(4, 5, 6, 3)]),
        (L.TimeDistributed(L.Dense(4)), [SEQUENCE]),
        (L.SpectralNormalization(L.Dense(4)), [SEQUENCE]),
        (L.Attention(use_scale=True), [SEQUENCE, SEQUENCE]),
        (L.Rescaling(2.0), [IMAGE]),
        (L.MaxPooling2D(), [IMAGE]),
        (L.AveragePooling2D(2), [IMAGE]),
        (L.GlobalAveragePooling2D(), [IMAGE]),
        (L.ReLU(6.0), [IMAGE]),
        (L.LeakyReLU(), [IMAGE]),
        (L.Softmax(), [IMAGE]),
        (L.Average(), [SEQUENCE, SEQUENCE]),
        (L.UpSampling2D(interpolation="bilinear"), [IMAGE]),
        (L.RandomRotation(0.1), [IMAGE]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else "",
)
def test_a_formula_counts_what_tensorflow_does(layer, shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))
    found, costs = traced(model), profile.model(model)
    assert not found.unknown
    # To add bias and state as one array costs the same once.
    assert (costs.macs, costs.flops - 2 * costs.macs) == (found.macs, found.elementwise)


def test_attention_counts_the_same_products():
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    for layer in (L.MultiHeadAttention(2, 4, value_dim=3), L.GroupQueryAttention(4, 6, 2)):
        model = keras.Model([query, value], layer(query, value))
        assert profile.model(model).macs == traced(model).macs


def test_a_lambda_is_counted_by_its_operations():
    x = keras.Input((4, 3))
    weights = np.ones((3, 5), np.float32)
    model = keras.Model(x, L.Lambda(lambda x: keras.ops.relu(x @ weights) + 1.0)(x))
    result = profile.model(model)
    assert (result.macs, result.flops) == (60, 2 * 60 + 20 + 20)


def test_operations_whose_result_is_not_used_do_not_count():
    x = keras.Input((4, 3))

    def waste(x):
        keras.ops.matmul(x, keras.ops.ones((3, 1000)))
        return x + 1.0

    assert profile.model(keras.Model(x, L.Lambda(waste)(x))).macs == 0


@pytest.mark.slow
def test_a_layer_of_the_user_is_opened_in_a_graph():
    class Block(L.Layer):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.lstm, self.dense = L.LSTM(4, return_sequences=True, name="lstm"), L.Dense(3, name="dense")

        def build(self, shape):
            self.lstm.build(shape)
            self.dense.build((*shape[:-1], 4))

        def call(self, x):
            y = self.dense(self.lstm(x))
            return self.dense(self.lstm(y)) @ keras.ops.ones((3, 2))

    x = keras.Input((5, 3))
    model = keras.Model(x, Block(name="block")(x))
    lstm, dense = 5 * 4 * 4 * 7, 5 * 4 * 3
    assert [(layer.name, layer.parameters, layer.macs) for layer in profile.model(model).layers] == [
        ("block", 0, 5 * 3 * 2),
        ("block/lstm", 4 * 4 * (3 + 4 + 1), lstm),
        ("block/dense", 15, dense),
        ("block/lstm (call 2)", 0, lstm),
        ("block/dense (call 2)", 0, dense),
    ]
    closed = profile.model(model, formulas={"Block": lambda *_: 7})
    assert [(layer.name, layer.parameters, layer.macs) for layer in closed.layers] == [("block", 143, 7)]


def test_a_loop_of_the_user_is_not_guessed_at():
    class Loop(L.Layer):
        def __init__(self):
            super().__init__(name="loop")
            self.dense = L.Dense(3, name="dense")

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return keras.ops.while_loop(
                lambda x: keras.ops.sum(x) < 10.0, lambda x: (self.dense(x),), (x,), maximum_iterations=5
            )[0]

    x = keras.Input((3,))
    loop, dense = profile.model(keras.Model(x, Loop()(x))).layers
    assert (loop.macs, dense.macs) == (None, None)
    assert "which computes with While" in loop.reason or "StatelessWhile" in loop.reason
    assert dense.reason == "It runs in a loop or branch of TensorFlow, nobody knows how often."
    assert dense.parameters == 12


def test_watching_leaves_the_model_as_it_was():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(4, kernel_regularizer="l2", activity_regularizer="l2")
            self.norm, self.drop = L.BatchNormalization(), L.Dropout(0.5, seed=1)

        def call(self, x, training=None):
            return self.drop(self.norm(self.dense(x), training=training), training=training)

    model = Model()
    x = np.ones((2, 3), np.float32)
    model(x)
    before = [variable.numpy() for variable in model.variables]
    attributes = [set(vars(layer)) for layer in (model, model.dense, model.norm, model.drop)]
    losses = len(model.losses)
    profile.model(model, x)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.variables, strict=True))
    assert attributes == [set(vars(layer)) for layer in (model, model.dense, model.norm, model.drop)]
    assert len(model.losses) == losses
