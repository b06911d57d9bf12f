import keras
import pytest
import tensorflow as tf

from kopt.profile.timing.attribution import attribute
from kopt.profile.timing.scopes import Place, layer_scopes, numbered_paths, place_of
from kopt.profile.timing.sizes import output_sizes, size_of

L = keras.layers
PATHS = ["net", "net/conv", "net/block/cell"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kopt.layer.1/Conv2D", Place("net/conv/Conv2D", "net/conv", "forward")),
        ("gradient_tape/kopt.layer.1/Conv2D/G", Place("net/conv/Conv2D/G", "net/conv", "backward")),
        ("kopt.update/adam/Sub", Place("adam/Sub", None, "update")),
        ("cond/then/_7/cond/kopt.update/adam/Sub", Place("adam/Sub", None, "update")),
        ("compile_loss/mse/Mean", Place("compile_loss/mse/Mean", None, "other")),
        ("gradient_tape/compile_loss/mse/Mul", Place("compile_loss/mse/Mul", None, "backward")),
        (
            "kopt.layer.1/while/body/_1/kopt.layer.2/MatMul",
            Place("net/block/cell/MatMul", "net/block/cell", "forward"),
        ),
    ],
)
def test_the_name_of_an_operation_tells_layer_and_phase(name, expected):
    assert place_of(name, PATHS) == expected


def operations(model, function):
    with layer_scopes(model):
        graph = tf.function(function, autograph=False).get_concrete_function().graph
    return graph, numbered_paths(model)


def test_a_layer_called_twice_is_not_taken_for_the_one_whose_name_ends_in_1():
    image = keras.Input((4,))
    dense, other = L.Dense(4, name="dense"), L.Dense(4, name="dense_1")
    model = keras.Model(image, other(dense(dense(image))), name="net")
    graph, paths = operations(model, lambda: model(tf.zeros((2, 4))))
    layers = [place_of(one.name, paths).layer for one in graph.get_operations() if one.type == "MatMul"]
    assert layers == ["dense", "dense", "dense_1"]


def test_what_is_computed_again_for_the_backward_pass_counts_as_forward():
    dense = L.Dense(3, name="dense")
    model = keras.Sequential([keras.Input((3,)), dense], name="net")

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.recompute_grad(lambda x: tf.tanh(dense(x)))(tf.ones((2, 3))))
        return tape.gradient(loss, dense.kernel.value)

    graph, paths = operations(model, step)
    places = [place_of(one.name, paths) for one in graph.get_operations() if one.type == "MatMul"]
    assert [one.phase for one in places] == ["forward", "forward", "backward", "backward"]
    assert {one.layer for one in places} == {"dense"}


@keras.saving.register_keras_serializable("kopt_tests")
class Twice(L.Layer):
    def call(self, inputs):
        return tf.nn.relu(inputs) * tf.tanh(inputs)


def test_the_sum_of_gradients_of_one_layer_belongs_to_it():
    image = keras.Input((4,))
    model = keras.Model(image, Twice(name="twice")(L.Dense(4, name="dense")(image)))

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.ones((2, 4))))
        return tape.gradient(loss, model.trainable_variables[0].value)

    graph, paths = operations(model, step)
    [total] = [one for one in graph.get_operations() if one.type == "AddN"]
    place = attribute(graph, total.name, "AddN", paths).place
    assert (place.layer, place.phase) == ("twice", "backward")


def test_a_fused_kernel_belongs_to_its_first_part():
    image = keras.Input((6, 6, 1))
    x = L.ReLU(name="relu")(L.Conv2D(2, 3, name="conv")(image))
    model = keras.Model(image, x)
    graph, paths = operations(model, lambda: model(tf.zeros((1, 6, 6, 1))))
    [relu] = [one for one in graph.get_operations() if one.type == "Relu"]
    found = attribute(graph, relu.name, "_MklNativeFusedConv2D", paths)
    assert found.place == Place("conv/convolution + conv/BiasAdd + relu/Relu", "conv", "forward")
    assert found.fused_layers == ("relu",)
    assert attribute(graph, relu.name, "Relu", paths).place.layer == "relu"


def test_sizes_of_results():
    def step():
        x = tf.zeros((2, 3)) + tf.ones((2, 3), name="one")
        return tf.add(x, 1.0, name="sum"), tf.cast(x, "float16", name="half"), tf.argmax(x, 1, name="place")

    sizes = output_sizes(tf.function(step).get_concrete_function().graph)
    assert (sizes["sum"], sizes["half"], sizes["place"]) == (2 * 3 * 4, 2 * 3 * 2, 2 * 8)


def test_an_open_size_is_not_called_nothing():
    function = tf.function(lambda x: tf.add(x, 1.0, name="sum"), input_signature=[tf.TensorSpec((None, 3))])
    assert output_sizes(function.get_concrete_function().graph)["sum"] is None


def test_sizes_in_the_body_of_a_loop_are_found_under_the_name_it_runs_by():
    def count(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, a: (i + 1, tf.tanh(a, name="squash")), (0, x), name="loop")

    sizes = output_sizes(tf.function(count).get_concrete_function(tf.zeros((2, 5))).graph)
    assert size_of(sizes, "loop/body/_1/loop/squash") == 2 * 5 * 4
    assert size_of(sizes, "loop/ArithmeticOptimizer/made") is None
