import keras
import numpy as np
import pytest

from kopt.core.errors import InputError, UnsupportedModelError
from kopt.graph import GraphView

L = keras.layers


@pytest.fixture
def residual():
    x = keras.Input((4,), name="x")
    left = L.Dense(4, name="left")(x)
    return keras.Model(x, L.Dense(2, name="head")(L.Add(name="add")([left, x])), name="residual")


def names(calls):
    return [call.operation.name for call in calls]


def test_calls_stand_after_what_they_depend_on(residual):
    assert names(GraphView.of(residual).calls) == ["left", "add", "head"]


def test_producers_and_consumers(residual):
    view = GraphView.of(residual)
    (x,) = view.inputs
    left, add, head = view.calls
    assert view.producer(x) is None
    assert view.producer(left.outputs[0]) is left
    assert view.consumers(x) == (left, add)
    assert view.consumers(head.outputs[0]) == ()
    assert view.outputs[0] is head.outputs[0]
    assert [tensor is x for tensor in add.inputs] == [False, True]


def test_foreign_calls_of_a_shared_layer_are_left_out(residual):
    head = residual.get_layer("head")
    head(keras.Input((4,)))
    assert len(GraphView.of(residual).calls_of(head)) == 1


def test_a_layer_called_twice_is_one_layer_with_two_calls():
    a, b = keras.Input((4,)), keras.Input((4,))
    shared = L.Dense(3, name="shared")
    view = GraphView.of(keras.Model([a, b], L.Subtract(name="minus")([shared(a), shared(b)])))
    assert len(view.calls_of(shared)) == 2
    assert [layer.name for layer in view.layers] == ["shared", "minus"]


def test_nested_models_are_one_call_and_walk_enters_them():
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3, name="dense"), L.ReLU(name="relu")], name="inner")
    x = keras.Input((4,))
    view = GraphView.of(keras.Model(x, L.Dense(1, name="head")(inner(x) * 2)))
    assert [call.nested is not None for call in view.calls] == [True, False, False]
    assert names(view.calls[0].nested.calls) == ["dense", "relu"]
    paths = [path for path, _ in view.walk("m/")]
    assert paths[:2] == ["m/inner/dense", "m/inner/relu"]
    assert paths[-1] == "m/head"
    assert len(paths) == 4


def test_operations_are_calls_and_no_layers():
    x = keras.Input((4,))
    view = GraphView.of(keras.Model(x, keras.ops.relu(L.Dense(2, name="dense")(x))))
    assert [layer.name for layer in view.layers] == ["dense"]
    assert len(view.operations) == 2


def test_a_subclassed_model_is_refused_with_what_works():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    model = Subclassed()
    with pytest.raises(InputError, match="never called"):
        GraphView.of(model)
    model(np.zeros((1, 2), "float32"))
    with pytest.raises(UnsupportedModelError, match=r"Subclassed.*Exporting, measuring and loading work"):
        GraphView.of(model)
