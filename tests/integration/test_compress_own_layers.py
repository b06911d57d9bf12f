"""Layers of a user's own, whose inner layers have no names: Keras gives those another number each time."""

import keras
import numpy as np
import pytest
from keras import ops

import kopt

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 20, (64, 6)), RNG.integers(0, 3, 64)


@keras.saving.register_keras_serializable("own")
class Places(L.Layer):
    """Token and place embeddings."""

    def __init__(self, size=8, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.tokens = L.Embedding(20, size)
        self.places = L.Embedding(6, size)

    def build(self, shape):
        self.tokens.build(shape)
        self.places.build(shape)

    def call(self, inputs):
        return self.tokens(inputs) + self.places(ops.arange(inputs.shape[1]))

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("own")
class Block(L.Layer):
    """Attention and two dense layers, some of them made when the shape is known."""

    def __init__(self, size=8, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.attention = L.MultiHeadAttention(2, size // 2)
        self.norms = [L.LayerNormalization() for _ in range(2)]

    def build(self, shape):
        self.inner = keras.Sequential([L.Dense(2 * self.size, activation="relu"), L.Dense(self.size)])
        for one in (self.inner, *self.norms):
            one.build(shape)
        self.attention.build(shape, shape)

    def call(self, inputs):
        x = self.norms[0](inputs + self.attention(inputs, inputs))
        return self.norms[1](x + self.inner(x))

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def transformer():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int64")
    x = Block(name="two")(Block(name="one")(Places(name="embedded")(inputs)))
    return keras.Model(inputs, L.Dense(3, activation="softmax", name="classes")(L.GlobalAveragePooling1D()(x)))


def names(model):
    return [path for identity, path in kopt.graph.layer_paths(model).items() if identity != id(model)]


def trained(model):
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(X, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    return model


WAYS = {
    "pruned": (lambda model: kopt.prune.magnitude(model, 0.5)[0], kopt.prune.finalize),
    "clustered": (lambda model: kopt.cluster.weights(model, clusters=4)[0], kopt.cluster.finalize),
    "both": (
        lambda model: kopt.cluster.weights(kopt.prune.magnitude(model, 0.5)[0], clusters=4)[0],
        kopt.cluster.finalize,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_layers_without_names_are_found_in_copies_and_files(way, tmp_path):
    treat, finalize = WAYS[way]
    model = transformer()
    treated = treat(model)
    assert names(treated)[: len(names(model))] == names(model), "a report names layers that the model does not have"
    trained(treated)
    treated.save(tmp_path / "treated.keras")
    [L.Embedding(2, 2) for _ in range(3)], [L.Dense(2) for _ in range(5)]  # a file is opened later, after other layers
    again = keras.saving.load_model(tmp_path / "treated.keras")
    for one in (treated, again):
        trained(one)
    finished = [finalize(one)[0] for one in (treated, again)]
    for one, other in zip(*(model.variables for model in finished), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    kernels = {
        one.path: one.variable.numpy()
        for one in kopt.graph.owned_variables(finished[1])
        if one.path.startswith(("embedded", "one", "two")) and one.path.endswith(("kernel", "embeddings"))
    }
    assert len(kernels) == 14, list(kernels)
    for path, kernel in kernels.items():
        if way != "clustered":
            assert np.mean(kernel == 0) >= 0.5 - 1 / kernel.size, path
        if way != "pruned":
            assert len(np.unique(kernel)) <= 5, path


@pytest.mark.slow
def test_a_layer_without_a_name_is_named_as_the_report_does():
    model = transformer()
    (tokens, _) = [one for one in names(model) if one.startswith("embedded/")]
    treated, report = kopt.prune.magnitude(model, 0.5, layers=[tokens])
    assert [one.layer for one in report.variables] == [tokens]
    zeros = [np.mean(one.numpy() == 0) for one in treated.get_layer("embedded").variables]
    assert zeros == [0.5, 0.0]
