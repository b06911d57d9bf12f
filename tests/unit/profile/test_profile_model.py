import keras
import numpy as np
import pytest

from kopt import profile
from kopt.core.errors import ConfigError, DataError, InputError
from kopt.core.records.profiles.cost import ModelProfile

L = keras.layers


def test_layers_in_order_with_shapes_and_parameters():
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.BatchNormalization(), L.Flatten(), L.Dense(2)])
    result = profile.model(model)
    assert [(layer.type, layer.output_shape, layer.parameters, layer.macs) for layer in result.layers] == [
        ("Conv2D", (None, 6, 6, 4), 9 * 4 + 4, 36 * 4 * 9),
        ("BatchNormalization", (None, 6, 6, 4), 4 * 4, 0),
        ("Flatten", (None, 144), 0, 0),
        ("Dense", (None, 2), 144 * 2 + 2, 288),
    ]
    assert result.macs == 36 * 4 * 9 + 288
    assert result.parameters == model.count_params() == 40 + 16 + 290
    assert result.trainable_parameters == 40 + 8 + 290, "mean and variance are not trained"
    assert ModelProfile.from_json(result.to_json()).layers == result.layers


def test_shared_layers_compute_every_time_and_weigh_once():
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    shared = L.Dense(4, name="shared")
    model = keras.Model([left, right], L.Add(name="sum")([shared(left), shared(right)]))
    result = profile.model(model)
    assert [(layer.name, layer.parameters, layer.macs) for layer in result.layers] == [
        ("shared", 16, 12),
        ("shared (call 2)", 0, 12),
        ("sum", 0, 0),
    ]
    assert result.parameters == 16


def test_nested_models_are_opened():
    encoder = keras.Sequential([keras.Input((3,)), L.Dense(4, name="dense")], name="encoder")
    left, right = keras.Input((3,)), keras.Input((3,))
    distance = L.Subtract(name="difference")([encoder(left), encoder(right)])
    result = profile.model(keras.Model([left, right], distance))
    assert [(layer.name, layer.parameters, layer.macs) for layer in result.layers] == [
        ("encoder/dense", 16, 12),
        ("encoder (call 2)/dense", 0, 12),
        ("difference", 0, 0),
    ]


def test_nested_models_of_any_size_take_the_size_they_are_called_with():
    inside = keras.Input((None, None, 3))
    backbone = keras.Model(inside, L.GlobalMaxPooling2D()(L.Conv2D(4, 3, name="conv")(inside)), name="backbone")
    image = keras.Input((6, 5, 3))
    result = profile.model(keras.Model(image, backbone(image)))
    assert result.layers[0].name == "backbone/conv"
    assert result.layers[0].output_shape == (None, 4, 3, 4)
    assert result.macs == 12 * 4 * 27


def test_data_says_what_the_model_leaves_open():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    hidden = L.Embedding(10, 3, mask_zero=True)(tokens)
    model = keras.Model(tokens, L.Dense(2)(L.LSTM(5)(hidden * 2.0)))
    assert profile.model(model).macs == 10
    result = profile.model(model, np.ones((4, 7), np.int64))
    assert result.macs == 7 * 4 * 5 * 8 + 10
    assert [layer.output_shape for layer in result.layers] == [(None, 7, 3), (None, 7, 3), (None, 5), (None, 2)]
    with pytest.raises(DataError, match="tokens"):
        profile.model(model, np.ones((4, 7, 2), np.int64))


def test_operations_count_nothing_or_are_unknown():
    x = keras.Input((4, 3))
    model = keras.Model(x, keras.ops.sort(keras.ops.transpose(keras.ops.relu(x) + 1.0, (0, 2, 1))[:, :3]))
    costs = {layer.type: layer for layer in profile.model(model).layers}
    assert {kind: layer.macs for kind, layer in costs.items()} == {
        "Relu": 0,
        "Add": 0,
        "Transpose": 0,
        "GetItem": 0,
        "Sort": None,
    }
    assert costs["Sort"].reason == "There is no formula for Sort, which computes with TopKV2."


def test_a_model_without_a_graph_lists_parameters_only():
    class Block(L.Layer):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(4, name="dense")

        def build(self, shape):
            self.dense.build(shape)
            self.scale = self.add_weight(shape=(4,), name="scale")

        def call(self, x):
            return self.dense(x) * self.scale

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.block = Block()
            self.head = L.Dense(2, name="head")

        def call(self, x):
            return self.head(self.block(x))

    model = Model()
    with pytest.raises(InputError):
        profile.model(model)
    model(np.zeros((1, 3), np.float32))
    result = profile.model(model)
    assert sorted((layer.type, layer.parameters, layer.macs) for layer in result.layers) == [
        ("Block", 4, None),
        ("Dense", 10, None),
        ("Dense", 16, None),
    ]
    assert result.parameters == 30
    assert all("pass `data`" in layer.reason for layer in result.layers)
    watched = profile.model(model, np.zeros((1, 3), np.float32))
    assert [(layer.name, layer.parameters, layer.macs, layer.flops) for layer in watched.layers] == [
        ("block", 4, 0, 4),  # What `call` does itself: four products with the scale.
        ("block/dense", 16, 12, 28),
        ("head", 10, 8, 18),
    ]
    assert watched.macs == 20


def test_a_formula_for_a_layer_of_the_user():
    class Sorted(L.Layer):
        def call(self, x):
            return keras.ops.sort(x)

    model = keras.Sequential([keras.Input((5,)), Sorted(name="sorted"), L.Dense(2)])
    unknown = profile.model(model)
    assert [layer.name for layer in unknown.unknown] == ["sorted"]
    assert unknown.layers[0].reason == (
        "There is no formula for Sorted, which computes with TopKV2: give its multiply-accumulates with `formulas`."
    )
    for key in ("Sorted", Sorted):
        result = profile.model(model, formulas={key: lambda layer, inputs, output: inputs[0][-1]})
        assert (result.layers[0].macs, result.layers[0].flops) == (5, 10)
    with pytest.raises(ConfigError, match=r"No layer is of the class 'Sort'\. Did you mean 'Sorted'"):
        profile.model(model, formulas={"Sort": lambda *_: 1})
    with pytest.raises(ConfigError, match=r"formula of Sorted must return a whole number .* Received: 1\.5"):
        profile.model(model, formulas={Sorted: lambda *_: 1.5})


def test_memory_of_a_training_step_with_the_optimizer():
    model = keras.Sequential([keras.Input((10,)), L.Dense(4, use_bias=False)])
    assert profile.model(model).training is None
    model.compile("adam", "mse")
    training = profile.model(model, batch_size=16).training
    assert (training.batch_size, training.weights_bytes, training.gradients_bytes) == (16, 160, 160)
    # Two moments of every weight, the number of updates (int64 or int32) and the learning rate.
    assert training.optimizer_bytes - 2 * 160 in (8, 12)
    assert "A training step of 16 takes about" in profile.model(model, batch_size=16).table()
    with pytest.raises(ConfigError, match="`batch_size` must be"):
        profile.model(model, batch_size=0)


def test_the_model_is_left_as_it_was():
    model = keras.Sequential([keras.Input((None, 3)), L.LSTM(5), L.Dense(2)])
    before = [len(layer._inbound_nodes) for layer in model.layers]
    profile.model(model, np.zeros((1, 4, 3), np.float32))
    assert [len(layer._inbound_nodes) for layer in model.layers] == before


@pytest.mark.slow
def test_mobilenet_v2():
    # Published: 300 million multiply-accumulates, 3.4 million parameters (Sandler et al. 2018, table 4). By the
    # formulas on the published architecture: 300,774,272.
    result = profile.model(keras.applications.MobileNetV2(weights=None))
    assert result.macs == pytest.approx(300.8e6, rel=0.01)
    assert result.parameters == 3_538_984
    assert sum(layer.parameters for layer in result.layers) == result.parameters
    assert all(layer.macs is not None for layer in result.layers)


@pytest.mark.parametrize("structure", [list, tuple])
def test_a_subclassed_model_gets_its_inputs_as_it_takes_them(structure):
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.shared = L.Dense(4)

        def call(self, inputs):
            first, second = inputs
            return self.shared(first) + self.shared(second)

    model = Pair()
    data = [np.zeros((8, 3), "float32")] * 2
    model(structure(data))
    assert profile.model(model, data).macs == 2 * 3 * 4


def test_a_batch_that_the_model_fixes_stays_with_data():
    i = keras.Input(batch_shape=(8, 4, 6))
    model = keras.Model(i, L.Dense(3)(keras.ops.reshape(i, (8, 24))))
    assert profile.model(model, np.zeros((16, 4, 6), "float32")).macs == profile.model(model).macs == 24 * 3


def test_text_has_a_cost():
    layers = [L.StringLookup(vocabulary=["a", "b"]), L.Embedding(4, 2), L.Dense(3)]
    model = keras.Sequential([keras.Input((1,), dtype="string"), *layers])
    assert profile.model(model, np.array([["a"], ["b"]])).macs == 2 * 3


@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_two_directions_of_convolutions_cost_twice_one(merge):
    i = keras.Input((7, 8, 8, 3))
    one, both = L.ConvLSTM2D(5, 3, padding="same"), L.ConvLSTM2D(5, 3, padding="same")
    expected = 2 * profile.model(keras.Model(i, one(i))).macs
    assert profile.model(keras.Model(i, L.Bidirectional(both, merge_mode=merge)(i))).macs == expected
