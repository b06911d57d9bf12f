import functools

import keras
import numpy as np
import pytest

from kopt.core.errors import InputError, UnsupportedModelError
from kopt.core.records.actions import LayerAction
from kopt.graph import GraphView, as_functional, rewrite, signature

L = keras.layers
ops = keras.ops

# Keras 3.15 reads its variables with `np.array(variable)` while it saves, which NumPy 2 deprecates.


@keras.saving.register_keras_serializable("kopt_graph_tests")
class Scale(L.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), name="scale")

    def call(self, inputs):
        return inputs * self.scale


def mlp():
    return keras.Sequential([keras.Input((4,), name="x"), L.Dense(5, "relu"), L.Dropout(0.5), L.Dense(2, name="out")])


def residual_cnn():
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))
    y = L.Add()([y, L.Conv2D(4, 1)(y)])
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))


def siamese():
    tower = keras.Sequential([keras.Input((4,)), L.Dense(3), L.BatchNormalization()], name="tower")
    a, b, head = keras.Input((4,)), keras.Input((4,)), L.Dense(2)
    return keras.Model([a, b], L.Subtract()([head(tower(a)), head(tower(b))]))


def nested():
    x = keras.Input((4,))
    inner = keras.Model(x, [L.Dense(3)(x), L.Dense(2)(x)], name="inner")
    x = keras.Input((4,))
    first, second = inner(x)
    return keras.Model(x, (second, first))


def two_dicts():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    return keras.Model({"b": b, "a": a}, {"q": L.Dense(2)(a), "p": L.Concatenate()([a, b])})


def operations():
    x = keras.Input((4,))
    y = ops.concatenate([x * 2 + 1, ops.relu(x)], axis=-1)
    y = ops.reshape(y, (-1, 2, 4))[:, 0] @ np.ones((4, 3), "float32")
    return keras.Model(x, ops.einsum("ij,ij->i", y, y))


def transformer():
    x = keras.Input((6,), dtype="int32")
    y = L.Embedding(5, 8)(x)
    y = L.LayerNormalization()(y + L.MultiHeadAttention(2, 4)(y, y))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(y)))


def masked_lstm():
    x = keras.Input((6,), dtype="int32")
    y = L.Bidirectional(L.LSTM(3, return_sequences=True))(L.Embedding(5, 4, mask_zero=True)(x))
    return keras.Model(x, L.LSTM(2)(y))


def passed_states():
    x = keras.Input((5, 4))
    sequence, *states = L.LSTM(3, return_sequences=True, return_state=True)(x)
    return keras.Model(x, L.LSTM(3)(sequence, initial_state=states))


def preprocessing():
    normalization = L.Normalization()
    normalization.adapt(np.arange(30.0).reshape(10, 3))
    return keras.Sequential([keras.Input((4, 4, 3)), normalization, L.Rescaling(0.5), L.RandomFlip()])


def lookup():
    layer = L.StringLookup()
    layer.adapt(np.array(["b", "b", "a"]))
    x = keras.Input((2,), dtype="string")
    return keras.Model(x, L.Embedding(4, 2)(layer(x)))


def custom():
    return keras.Sequential([keras.Input((4,)), Scale(), L.Dense(2)])


def mixed_precision():
    x = keras.Input((4,))
    return keras.Model(x, L.Dense(2, dtype="float32")(L.Dense(3, dtype="mixed_bfloat16")(x)))


def mobilenet_v2():
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)


MODELS = [
    *(mlp, residual_cnn, siamese, nested, two_dicts, operations, transformer, masked_lstm, passed_states),
    *(preprocessing, lookup, custom, mixed_precision, pytest.param(mobilenet_v2, marks=pytest.mark.slow)),
]


def randomize(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "kernel" in variable.name or variable.name in ("gamma", "beta", "bias", "embeddings", "scale"):
            variable.assign(rng.normal(size=variable.shape) * 0.3)
        if variable.name in ("moving_mean", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1, size=variable.shape))


def examples(model):
    rng = np.random.default_rng(1)

    def array(tensor):
        shape = (3, *tensor.shape[1:])
        if tensor.dtype == "string":
            return np.array(["a", "b", "z"])[rng.integers(0, 3, shape)]
        return rng.integers(0, 5, shape) if "int" in tensor.dtype else rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(array, GraphView.of(model).input_structure)


def calls_recorded(model):
    return [len(operation._inbound_nodes) for _, operation in GraphView.of(model).walk()]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_rewriting_nothing_gives_an_equal_model_that_shares_nothing(build):
    model = build()
    randomize(model)
    recorded = calls_recorded(model)
    twin, report = rewrite(model, lambda layer: None)
    inputs = examples(model)
    expected, found = model(inputs, training=False), twin(inputs, training=False)
    keras.tree.assert_same_structure(expected, found)
    for a, b in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
        np.testing.assert_array_equal(a, b)
    assert report.applied == ()
    assert signature(twin) == signature(model)
    assert calls_recorded(model) == recorded
    assert len(twin.variables) == len(model.variables)
    assert not {id(variable) for variable in twin.variables} & {id(variable) for variable in model.variables}


def test_changing_the_copy_leaves_the_original():
    model = mlp()
    twin, _ = rewrite(model, lambda layer: None)
    before = model.get_weights()
    twin.set_weights([np.zeros_like(weight) for weight in before])
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_copy_saves_and_reloads(tmp_path):
    twin, _ = rewrite(siamese(), lambda layer: None)
    twin.save(tmp_path / "twin.keras")
    inputs = examples(twin)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "twin.keras")(inputs), twin(inputs))


def test_a_replaced_layer_brings_its_own_weights_and_keeps_the_output_name():
    model = mlp()
    wider = L.Dense(7, name="wider", kernel_initializer="zeros", bias_initializer="ones")
    twin, report = rewrite(model, lambda layer: wider if layer.name == "out" else None)
    np.testing.assert_array_equal(twin(np.ones((2, 4))), np.ones((2, 7)))
    assert [info.name for info in signature(twin)[1]] == ["out"]
    assert report.applied == (LayerAction("out", "Dense", "replaced by Dense 'wider'"),)


def test_a_layer_can_become_a_function_of_its_input():
    model = mlp()
    randomize(model)
    twin, _ = rewrite(model, lambda layer: ops.negative if layer.name == "out" else None)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    hidden = model.layers[0]
    expected = -np.maximum(x @ hidden.kernel.numpy() + hidden.bias.numpy(), 0)
    np.testing.assert_allclose(twin(x), expected, rtol=1e-6)


def test_removing_the_last_layer_keeps_the_output_name():
    twin, _ = rewrite(mlp(), lambda layer: (lambda x: x) if layer.name == "out" else None)
    assert signature(twin)[1][0].name == "out"
    assert twin.output_shape == (None, 5)


def test_removing_a_layer_whose_output_is_given_twice():
    x = keras.Input((4,))
    y = L.Dense(2, name="out")(x)
    twin, _ = rewrite(keras.Model(x, {"a": y, "b": y}), lambda layer: lambda inputs: inputs)
    outputs = twin(np.ones((1, 4), "float32"))
    np.testing.assert_array_equal(outputs["a"], np.ones((1, 4)))
    np.testing.assert_array_equal(outputs["b"], np.ones((1, 4)))


def test_a_shared_layer_inside_a_nested_model_is_replaced_once():
    model = siamese()
    seen = []

    def replace(layer):
        seen.append(layer.name)
        return (
            L.Dense(3, kernel_initializer="zeros", name="zero") if layer is model.get_layer("tower").layers[0] else None
        )

    twin, report = rewrite(model, replace)
    assert len(seen) == len(set(seen)) == 4
    assert [action.layer for action in report.applied] == [f"tower/{model.get_layer('tower').layers[0].name}"]
    np.testing.assert_array_equal(twin(examples(model)), np.zeros((3, 2)))


def test_dropout_is_not_fixed_to_inference():
    keras.utils.set_random_seed(0)  # Some weights leave no unit alive for these inputs.
    twin, _ = rewrite(mlp(), lambda layer: None)
    x = np.ones((64, 4), "float32")
    assert not np.array_equal(twin(x, training=True), twin(x, training=False))


def test_a_layer_that_was_called_in_training_mode_still_is():
    x = keras.Input((4,))
    y = L.Dropout(0.5, name="always")(x, training=True)
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, L.Dropout(0.5, name="inside")(inner_in), name="inner")
    model = keras.Model(x, [y, inner(x, training=True), L.Dropout(0.5, name="default")(x)])
    twin, _ = rewrite(model, lambda layer: None)
    for one in (model, twin):
        # Called without a mode: zeros and doubled values where dropout is on.
        always, inside, default = (np.asarray(value) for value in one(np.ones((64, 4), "float32")))
        assert set(np.unique(always)) == set(np.unique(inside)) == {0.0, 2.0}
        np.testing.assert_array_equal(default, np.ones((64, 4)))
        # A mode of the whole model goes before, in Keras.
        np.testing.assert_array_equal(one(np.ones((2, 4), "float32"), training=False)[0], np.ones((2, 4)))


def test_a_replacement_gets_the_mode_that_was_asked_for_if_it_takes_one():
    x = keras.Input((4,))
    y = L.Dropout(0.5, name="always")(x, training=True)
    model = keras.Model(x, [y, L.Dropout(0.5, name="default")(x)])
    modes = {}

    def replace(layer):
        def noted(inputs, training="not given"):
            modes[layer.name] = training
            return inputs

        return noted

    rewrite(model, replace)
    assert modes == {"always": True, "default": "not given"}
    twin, _ = rewrite(model, lambda layer: lambda inputs: inputs)
    assert twin.count_params() == 0


def test_trainable_flags_and_policy_are_copied():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="a"), L.Dense(3, name="b")])
    model.trainable = False
    model.get_layer("b").trainable = True
    model.dtype_policy = keras.DTypePolicy("mixed_float16")
    twin, _ = rewrite(model, lambda layer: None)
    assert (twin.trainable, twin.get_layer("a").trainable, twin.get_layer("b").trainable) == (False, False, True)
    assert twin.dtype_policy.name == "mixed_float16"


def test_a_replacement_that_shares_variables_is_refused():
    model = mlp()
    with pytest.raises(InputError, match="shares variables"):
        rewrite(model, lambda layer: layer)


def test_a_replacement_with_another_number_of_outputs_is_refused():
    with pytest.raises(InputError, match=r"'out' gives 2 output\(s\); the layer gives 1"):
        rewrite(mlp(), lambda layer: (lambda x: [x, x]) if layer.name == "out" else None)


FACTOR = 3.0


def times_factor(x):
    return x * FACTOR


@pytest.mark.parametrize(
    "function", [times_factor, lambda x: x * FACTOR, functools.partial(keras.ops.multiply, FACTOR), keras.ops.square]
)
def test_a_copy_has_the_functions_of_lambdas(function):
    own = 1.0 + FACTOR
    i = keras.Input((3, 4))
    x = L.TimeDistributed(L.Lambda(function, name="inner"))(i)
    shifted = L.Lambda(lambda x: x + own, output_shape=lambda shape: shape, name="outer")(x)
    model = keras.Model(i, L.Dense(2)(shifted))
    before = keras.saving.get_custom_objects().copy()
    copy, _ = rewrite(model, lambda layer: None)
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    np.testing.assert_array_equal(copy(x), model(x))
    assert copy.get_layer("outer") is not model.get_layer("outer")
    assert copy.get_layer("outer").function is model.get_layer("outer").function
    # In files they are as Keras writes them.
    assert model.get_layer("outer").get_config()["function"]["class_name"] == "__lambda__"
    assert keras.saving.get_custom_objects() == before


def test_a_copy_has_the_activations_of_users():
    i = keras.Input((3, 4))
    x = L.GRU(4, activation=lambda x: keras.ops.tanh(x / FACTOR), recurrent_activation=lambda x: x * 0.1)(i)
    model = keras.Model(i, L.Activation(times_factor)(L.Dense(2, activation=lambda x: x * FACTOR)(x)))
    copy, _ = rewrite(model, lambda layer: None)
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-6)
    assert model.layers[-1].get_config()["activation"]["config"] == "times_factor"  # in files as Keras writes it


def test_a_layer_without_config_is_refused_by_name():
    class NoConfig(L.Layer):
        def __init__(self, table):
            super().__init__(name="table")
            self.table = table

        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((4,)), NoConfig(np.ones(3))])
    with pytest.raises(UnsupportedModelError, match=r"'table' .*get_config"):
        rewrite(model, lambda layer: None)


def test_a_layer_whose_derived_config_has_no_name_keeps_its_name():
    class Scaled(L.Layer):  # in the config that Keras derives, a name comes from `**kwargs` of that very name only
        def __init__(self, units, **options):
            super().__init__(**options)
            self.dense = L.Dense(units)

        def call(self, inputs):
            return self.dense(inputs)

    scaled = Scaled(3, name="mine")
    assert "name" not in scaled.get_config()
    model = keras.Sequential([keras.Input((4,)), scaled])
    twin, _ = rewrite(model, lambda layer: None)
    assert [layer.name for layer in twin.layers[1:]] == ["mine"]


def test_as_functional_shares_the_layers_of_a_sequential():
    model = mlp()
    functional = as_functional(model)
    assert not isinstance(functional, keras.Sequential)
    assert functional.name == model.name
    assert [id(variable) for variable in functional.weights] == [id(variable) for variable in model.weights]
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(functional(x), model(x))
    assert as_functional(functional) is functional


class Unembedding(L.Layer):
    """Scores tokens by the table of another layer, as language models do."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = keras.saving.deserialize_keras_object(table) if isinstance(table, dict) else table

    def call(self, x):
        return x @ keras.ops.transpose(self.table.embeddings)

    def build(self, shape):
        self.table.build(None)

    def get_config(self):
        return {**super().get_config(), "table": keras.saving.serialize_keras_object(self.table)}


def test_layers_that_share_a_variable_are_refused():
    tokens = keras.Input((4,), dtype="int32")
    table = L.Embedding(10, 4, name="table")
    model = keras.Model(tokens, Unembedding(table, name="scores")(table(tokens)))
    with pytest.raises(UnsupportedModelError, match="'table' and 'scores' share the variable 'table/embeddings'"):
        rewrite(model, lambda layer: None)
