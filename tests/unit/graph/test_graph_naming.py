import keras

from kopt.graph import layer_paths, owned_variables


def block(name):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")], name=name)


def test_paths_are_names_from_the_outside_in():
    inputs = keras.Input((3,))
    hidden = [block("left")(inputs), block("right")(inputs)]
    outputs = keras.layers.Dense(1, name="dense")(keras.layers.Concatenate(name="join")(hidden))
    model = keras.Model(inputs, outputs, name="net")
    paths = list(layer_paths(model).values())
    assert paths[0] == "net"
    assert {"left", "left/dense", "right", "right/dense", "join", "dense"} < set(paths)
    variables = owned_variables(model)
    assert [one.variable for one in variables] == list(model.variables)
    assert [one.path for one in variables] == [
        f"{layer}/{name}" for layer in ("left/dense", "right/dense", "dense") for name in ("kernel", "bias")
    ]
    assert [one.layer_path for one in variables][::2] == ["left/dense", "right/dense", "dense"]


class Twins(keras.Model):
    """Two layers of one name, a shared one, a weight of its own."""

    def __init__(self):
        super().__init__(name="twins")
        self.first = keras.layers.Dense(2, name="same")
        self.second = keras.layers.Dense(2, name="same")
        self.also = self.first
        self.scale = self.add_weight(shape=(2,), name="scale", trainable=False)
        self.drop = keras.layers.Dropout(0.5)

    def call(self, x):
        return self.also(self.drop(self.second(self.first(x)))) * self.scale


def test_equal_names_are_numbered_and_every_variable_is_listed_once():
    model = Twins()
    model(keras.ops.ones((1, 2)))
    found = {one.path: one for one in owned_variables(model)}
    assert len(found) == len(model.variables)
    assert found["scale"].layer is model
    assert (found["scale"].layer_path, found["scale"].trainable) == ("twins", False)
    assert found["same/kernel"].layer is model.first
    assert found["same#2/kernel"].layer is model.second
    assert found["same#2/kernel"].trainable
    assert any(path.startswith("dropout") for path in found)


def test_cells_of_recurrent_layers():
    recurrent = keras.layers.LSTM(2, name="lstm")
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.Bidirectional(recurrent, name="both")])
    paths = [one.path for one in owned_variables(model)]
    assert paths[0] == "both/forward_lstm/lstm_cell/kernel"
    assert len(set(paths)) == 8  # three weights and the seed of the dropout, each twice


def test_a_layer_with_the_name_of_its_model_keeps_it():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="net")], name="net")
    paths = layer_paths(model)
    assert (paths[id(model)], paths[id(model.layers[0])]) == ("net#2", "net")
    assert [one.path for one in owned_variables(model)] == ["net/kernel", "net/bias"]
