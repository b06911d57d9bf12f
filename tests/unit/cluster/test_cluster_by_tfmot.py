"""Codebooks against those of `cluster_weights` on the tf_keras twin, and the way back from there."""

import keras
import numpy as np
import pytest
import tf_keras

from kopt.cluster import finalize, weights
from kopt.cluster.codebooks import Codebooks
from kopt.core.errors import ConfigError
from kopt.graph.tfmot import load_tfmot
from kopt.graph.wrapped_twin import origin_of
from kopt.train.weight_constraints import constrainable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 6, 96)


def network(zeros=0.0):
    keras.utils.set_random_seed(1)
    layers = [L.Conv2D(8, 3, activation="relu", name="conv"), L.Flatten(name="flat"), L.Dense(6, name="logits")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="net")
    for layer in (model.get_layer("conv"), model.get_layer("logits")):
        kernel = layer.kernel.numpy()
        layer.kernel.assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), zeros), 0, kernel))
    return model


def trained(model, library):
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.SGD(0.02), loss)
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    return model


def first_centroids(twin):
    """Return the centroids of tfmot's wrappers, zero first where one is as good as zero."""
    found = []
    for layer in twin.layers:
        for centroids in getattr(layer, "cluster_centroids", {}).values():
            rows = np.atleast_2d(centroids.numpy())
            if layer.preserve_sparsity:
                rows = np.take_along_axis(rows, np.argsort(np.abs(rows), axis=-1), axis=-1)
                rows[:, 0] = 0
            found.append(rows)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zeros", "settings"),
    [
        (0.0, {"centroid_update": "mean"}),
        (0.0, {"centroid_update": "sum"}),
        (0.0, {"centroid_update": "mean", "per_channel": True, "layers": ["conv"]}),
        (0.5, {"centroid_update": "mean"}),
    ],
)
def test_the_weights_are_those_of_tfmot(zeros, settings):
    """From the same centroids, through six steps of gradient descent."""
    model = network(zeros)
    twin, report = weights(model, clusters=6, initialization="linear", backend="tfmot", **settings)
    copy = constrainable(model)
    paths = [one.path for one in report.variables]
    books = Codebooks(
        copy,
        paths,
        [6] * len(paths),
        [zeros > 0] * len(paths),
        settings.get("per_channel", False),
        settings["centroid_update"],
    )
    copy.constrain_by(books)
    books.fix(first_centroids(twin))
    expected, _ = finalize(trained(twin, tf_keras))
    plain, _ = finalize(trained(copy, keras))
    for one, other, start in zip(plain.get_weights(), expected.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)
        assert np.abs(other - start).max() > 1e-3


@pytest.mark.slow
def test_what_comes_back_is_what_tfmot_strips():
    model = network()
    twin, report = weights(model, clusters=4, backend="tfmot")
    assert [(one.path, one.distinct) for one in report.variables] == [("conv/kernel", 4), ("logits/kernel", 4)]
    plain, after = finalize(trained(twin, tf_keras))
    stripped = load_tfmot().clustering.keras.strip_clustering(twin)
    for one, other in zip(plain.get_weights(), stripped.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(plain.predict(X, verbose=0), stripped.predict(X, verbose=0), atol=1e-5)
    assert type(plain) is keras.Sequential
    assert after.gzip_before == report.gzip_before
    assert origin_of(twin).method.clusters == {"conv": 4, "logits": 4}


@pytest.mark.slow
def test_attention_and_what_tfmot_does_not_know():
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 8), name="sequence")
    y = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    y = L.LSTM(5, name="lstm")(L.Add(name="add")([x, y]))
    model = keras.Model(x, L.Dense(3, name="logits")(y), name="net")
    twin, report = weights(model, clusters=4, backend="tfmot")
    inner = ("query", "key", "value", "attention_output")
    assert {one.layer: one.detail for one in report.skipped} == {
        f"attention/{name}": "it has no tf_keras twin" for name in inner
    }
    plain, after = finalize(twin)
    kernels = {one.path: one.distinct for one in after.variables}
    assert kernels == {"lstm/lstm_cell/kernel": 4, "lstm/lstm_cell/recurrent_kernel": 4, "logits/kernel": 4}
    inputs = RNG.normal(size=(5, 6, 8)).astype("float32")
    np.testing.assert_allclose(plain.predict(inputs, verbose=0), twin.predict(inputs, verbose=0), atol=1e-5)


def test_what_tfmot_cannot_do():
    with pytest.raises(ConfigError, match="tfmot has no `iterations`"):
        weights(network(), clusters=4, iterations=5, backend="tfmot")
    model = keras.Sequential([keras.Input((8, 8, 3)), L.DepthwiseConv2D(5, name="depthwise")], name="net")
    with pytest.raises(ConfigError, match="tfmot can cluster nothing in the model 'net': depthwise"):
        weights(model, clusters=4, backend="tfmot")
