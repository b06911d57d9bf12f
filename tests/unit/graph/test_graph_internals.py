"""Each test here holds one private part of Keras that kopt.graph.internals uses: a failure means that Keras changed."""

import keras
import numpy as np
import tensorflow as tf

from kopt.graph import internals
from kopt.graph.loading import load_model

L = keras.layers


def test_a_tensor_knows_the_call_that_made_it():
    x = keras.Input((3,), name="x")
    dense = L.Dense(2)
    first, second = dense(x), dense(x)
    assert internals.node_of(x).is_input
    assert internals.node_of(first).operation is dense
    assert internals.node_of(first) is not internals.node_of(second)
    assert internals.node_of(second).outputs[0] is second
    args, kwargs = internals.call_arguments(internals.node_of(second))
    assert args[0] is x
    assert kwargs == {}


def test_keras_records_the_default_of_training():
    x = keras.Input((3,))
    assert internals.call_arguments(internals.node_of(L.Dropout(0.5)(x)))[1] == {"training": False}


def test_graph_of_tells_graphs_from_python_code():
    class Doubling(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs)

    sequential = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    functional = keras.Model(sequential.inputs, sequential.outputs)
    assert internals.graph_of(functional) is functional
    assert internals.graph_of(sequential).outputs == sequential.outputs
    assert internals.graph_of(Doubling([keras.Input((3,)), L.Dense(2)])) is None
    assert internals.graph_of(keras.Sequential([L.Dense(2)])) is None
    assert internals.graph_of(L.Dense(2)) is None


def test_a_copied_operation_carries_no_calls():
    x = keras.Input((3,))
    operation = internals.node_of(keras.ops.relu(x)).operation
    twin = internals.copy_stateless(operation)
    y = twin(keras.Input((3,)))
    assert internals.node_of(y).operation is twin
    assert len(operation._inbound_nodes) == 1


def test_masks_are_attached_to_tensors():
    x = keras.Input((4,))
    assert internals.mask_of(x) is None
    assert internals.mask_of(L.Embedding(5, 2, mask_zero=True)(x)).shape == (None, 4)


def test_flatten_layers_starts_with_the_layer_itself():
    wrapper = L.Bidirectional(L.LSTM(2))
    flat = internals.flatten_layers(wrapper)
    assert flat[0] is wrapper
    assert wrapper.forward_layer in flat
    assert wrapper.backward_layer in flat


def test_was_called_is_not_built():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

    model = Model()
    assert not internals.was_called(model)
    model(np.zeros((1, 2), "float32"))
    assert internals.was_called(model)


def test_safe_mode_scope_lets_a_lambda_through_only_inside(tmp_path):
    model = keras.Sequential([keras.Input((2,)), L.Lambda(lambda x: 3 * x)])
    model.save(tmp_path / "m.keras")
    reloaded = load_model(tmp_path / "m.keras", safe_mode=False)
    np.testing.assert_array_equal(reloaded(np.ones((1, 2), "float32")), [[3, 3]])
    config = model.layers[0].get_config()
    with internals.safe_mode_scope(False):
        assert L.Lambda.from_config(dict(config)).function(2) == 6


def test_the_place_of_the_largest_is_traced_as_the_operator_alone():
    def operators(function):
        graph = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec((None, 3))).graph
        return {operation.type for operation in graph.get_operations()}

    assert "Bitcast" in operators(lambda x: keras.ops.argmax(x, axis=-1))
    with internals.plain_argmax():
        assert (
            {"ArgMax"}
            <= operators(lambda x: keras.ops.argmax(x, axis=-1))
            <= {"Placeholder", "Const", "ArgMax", "Identity"}
        )
    assert "Bitcast" in operators(lambda x: keras.ops.argmax(x, axis=-1))
