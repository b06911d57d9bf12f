"""The second run of a function in the backward pass, and the parts of Keras that it rests on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, MeasurementError, UnsupportedModelError
from kopt.graph.view import GraphView
from kopt.train import internals
from kopt.train.interception import replaced
from kopt.train.memory.recomputation import recomputed
from kopt.train.memory.remat_measurement import measure_rematerialization
from kopt.train.memory.rematerialization import rematerialized

L = keras.layers


def test_calls_come_in_the_order_in_which_keras_makes_them():
    order = []

    class Traced(L.Layer):
        def call(self, x):
            order.append(self.name)
            return x

    i = keras.Input((2,))
    short = Traced(name="short")(i)
    long = Traced(name="long2")(Traced(name="long1")(i))
    model = keras.Model(i, L.Add(name="add")([short, long]))
    order.clear()
    model(np.ones((1, 2)))
    names = [node.operation.name for node in internals.nodes_in_order(model)]
    assert names == [*order, "add"]
    assert set(names) == {operation.name for operation in GraphView.of(model).operations}
    with replaced(model, internals.RUN_GRAPH, lambda inputs, *_, **__: [inputs[0] * 7]):
        np.testing.assert_array_equal(model(np.ones((1, 2))), [[7, 7]])
    np.testing.assert_array_equal(model(np.ones((1, 2))), [[2, 2]])


def test_training_and_autocasting_are_those_of_the_first_point():
    seen = []

    class Inner(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale", dtype="float32")

        def call(self, x, training=None):
            seen.append((training, (x * self.scale).dtype.name))
            return x

    class Outer(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = Inner(dtype=kwargs["dtype"])

        def call(self, x, training=None):
            self.state = internals.call_state()
            return self.inner(x)

    outer = Outer(dtype="mixed_bfloat16")
    outer(np.ones((1, 2)), training=True)
    outer.inner.call(tf.ones((1, 2), "float32"))
    with internals.restored_call_state(outer.state):
        outer.inner(tf.ones((1, 2), "bfloat16"))
    assert seen[-3] == seen[-1] == (True, "bfloat16")
    assert seen[-2] == (None, "float32")
    assert internals.call_state() == (None, None)


def test_stored_values_show_neither_scopes_nor_casts():
    layer = L.Dense(2, dtype="mixed_bfloat16")
    layer.build((None, 2))
    with keras.StatelessScope([(layer.bias, np.ones(2))]):
        np.testing.assert_array_equal(internals.stored_value(layer.bias), [0, 0])
    assert internals.stored_value(layer.bias).dtype == tf.float32
    with keras.StatelessScope():
        late = keras.Variable(lambda shape, dtype: tf.zeros(shape), shape=(2,))
        assert not internals.is_initialized(late)
    assert internals.is_initialized(late)


def test_masks_and_added_losses_are_found():
    old, new = tf.ones((2, 2)), tf.ones((2, 2))
    internals.copy_mask(old, new)
    assert not hasattr(new, "_keras_mask")
    mask = tf.constant([True, False])
    (embedded := L.Masking()(tf.constant([[[1.0], [0.0]]])))
    internals.copy_mask(embedded, new)
    np.testing.assert_array_equal(new._keras_mask, mask[None])

    class Adds(L.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_sum(x))
            return x

    one, other = Adds(), Adds()
    with keras.StatelessScope(collect_losses=True) as scope:
        one(tf.ones(2)), other(tf.ones(3))
    assert [internals.loss_owner([other, one], loss) for loss in scope.losses] == [one, other]
    assert internals.loss_owner([], scope.losses[0]) is None


@pytest.mark.slow
def test_a_function_of_plain_tensors():
    # d/dx of sum(x^3) is 3 x^2; integers, text and what is no tensor pass through, structures are kept.
    def function(part, number):
        assert number == 3
        return {"y": part["x"] ** number, "i": part["i"] + 1, "s": part["s"]}

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = recomputed(function, ({"x": x, "i": tf.constant([4]), "s": tf.constant("a")}, 3))
        return out, tape.gradient(out["y"], x)

    for run in (gradient, tf.function(gradient)):
        out, slope = run(tf.constant([2.0, -1.0]))
        np.testing.assert_array_equal(out["y"], [8, -1])
        assert (int(out["i"][0]), out["s"].numpy()) == (5, b"a")
        np.testing.assert_array_equal(slope, [12, 3])


def test_a_nan_that_arrives_stays_where_it_is():
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = recomputed(lambda x: x * x, (x,))
        return tape.gradient(y, x, output_gradients=tf.constant([np.nan, 1.0, np.inf]))

    np.testing.assert_array_equal(tf.function(gradient)(tf.constant([1.0, 2.0, 3.0])), [np.nan, 4, np.inf])


def test_an_unused_result_has_no_gradient_and_the_others_do():
    x = tf.constant([2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        square, cube = recomputed(lambda x: (x**2, x**3), (x,))
    np.testing.assert_array_equal(tape.gradient(cube, x), [12])
    assert square.numpy() == 4


class DroppingCell(L.Layer):
    state_size = output_size = 2

    def __init__(self):
        super().__init__()
        self.drop = L.Dropout(0.5)

    def call(self, x, states, training=False):
        y = self.drop(x, training=training) + states[0]
        return y, [y]


def test_what_cannot_be_computed_again_is_an_error():
    recurrent = keras.Sequential([keras.Input((5, 2)), L.RNN(DroppingCell(), name="loop")])
    with pytest.raises(UnsupportedModelError, match="assigned inside a loop or branch of a rematerialized block"):
        tf.function(rematerialized(recurrent, ["loop"]).forward, autograph=False)(tf.ones((1, 5, 2)))
    weights = [keras.Variable(tf.ones(1)), keras.Variable(tf.ones(1))]
    x = tf.constant([2.0])
    with tf.GradientTape() as tape:
        y = recomputed(lambda x: x * weights.pop(), (x,), name="popping")
    with pytest.raises(UnsupportedModelError, match="'popping' reads the variable"):
        tape.gradient(y, x)

    class Stranger(L.Layer):
        def __init__(self):
            super().__init__()
            self.hidden = (lambda one: lambda: one)(L.ActivityRegularization(l2=1.0))

        def call(self, x):
            return self.hidden()(x)

    model = keras.Sequential([keras.Input((2,)), Stranger(), L.Dense(1)])
    with pytest.raises(UnsupportedModelError, match="no part of the model"):
        rematerialized(model, ["stranger"]).forward(tf.ones((1, 2)))


def deep():
    i = x = keras.Input((32, 32, 3))
    for _ in range(16):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(16, 3, padding="same")(x)))
    return keras.Model(i, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


@pytest.mark.slow
def test_xla_computes_the_convolutions_again():
    model = keras.Sequential([keras.Input((8, 8, 3)), *(L.Conv2D(3, 3, activation="relu") for _ in range(3))])

    def convolutions(forward):
        @tf.function(jit_compile=True)
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(forward(x) ** 2)
            return tape.gradient(loss, model.trainable_variables)

        return step.experimental_get_compiler_ir(tf.ones((2, 8, 8, 3)))(stage="optimized_hlo").count(" convolution(")

    plain = convolutions(lambda x: model(x, training=True))
    names = [layer.name for layer in model.layers]
    # Three forward, three by weights, two by inputs. Again: the first two, whose outputs the backward pass needs, and
    # the third for the slope of its ReLU.
    assert plain == 8
    assert convolutions(rematerialized(model, [f"{names[0]}..{names[2]}"]).forward) == plain + 3


@pytest.mark.slow
def test_memory_falls_as_the_count_says():
    x, y = np.ones((64, 32, 32, 3), "float32"), np.zeros(64, int)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    report = measure_rematerialization(deep(), x, y, loss=loss, steps=1)
    # 48 activations of 4 MiB, of which the backward pass needs those of convolutions and ReLUs: 32. In parts of 8 calls
    # with 5 kept between them 13 stay; workspaces and the gradients on the way come on top of both.
    assert report.memory_ratio < 0.65
    assert report.plain_peak_bytes > 32 * 2**22
    assert report.batch_size == 64
    assert "does not fit" not in str(report)
    assert type(report).from_json(report.to_json()) == report


def test_measuring_refuses_what_it_cannot_measure():
    model = keras.Sequential([keras.Input((2,)), L.Dense(2), L.Dense(2)])
    x = np.ones((1, 2), "float32")
    with pytest.raises(DataError, match="belong together"):
        measure_rematerialization(model, x, loss="mse", blocks=2)
    with pytest.raises(ConfigError, match="`steps`"):
        measure_rematerialization(model, x, blocks=2, steps=0)

    class Inside(L.Layer):
        def call(self, x):
            return x

    own = keras.Sequential([keras.Input((2,)), L.Dense(2), Inside(), L.Dense(2)])
    with pytest.raises(MeasurementError, match=r"Inside cannot be imported in another process"):
        measure_rematerialization(own, x, blocks=2)
