import gzip

import keras
import numpy as np
import pytest

import kopt
from kopt.cluster import Clustering, finalize, weights
from kopt.core.errors import ConfigError, InputError, NonFiniteError, UnsupportedModelError

L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 12)).astype("float32")
Y = RNG.integers(0, 4, 64)


def mlp():
    keras.utils.set_random_seed(3)
    layers = [L.Dense(16, activation="relu", name="hidden"), L.Dense(4, name="logits")]
    return keras.Sequential([keras.Input((12,)), *layers], name="net")


def values(model):
    """Return how many different weights each kernel has."""
    return {layer.name: np.unique(layer.kernel.numpy()).size for layer in model.layers if hasattr(layer, "kernel")}


def train(model, epochs=3, optimizer=None, **settings):
    if getattr(model, "optimizer", None) is None:
        model.compile(optimizer or keras.optimizers.Adam(0.01), LOSS, **settings)
    model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model


@pytest.mark.slow
def test_kernels_have_few_values_and_keep_them_in_a_plain_fit():
    model = mlp()
    before = [value.copy() for value in model.get_weights()]
    clustered, report = weights(model, clusters=8)
    assert values(clustered) == {"hidden": 8, "logits": 8}
    old = np.unique(clustered.get_layer("hidden").kernel.numpy())
    train(clustered)
    assert values(clustered) == {"hidden": 8, "logits": 8}
    new = np.unique(clustered.get_layer("hidden").kernel.numpy())
    assert np.median(np.abs(new - old)) > 1e-3
    for value, given in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, given)
    assert [one.path for one in report.variables] == ["hidden/kernel", "logits/kernel"]


def test_the_report_counts_and_compresses():
    model = mlp()
    clustered, report = weights(model, clusters=4)
    hidden = report.variables[0]
    old, new = model.get_layer("hidden").kernel.numpy(), clustered.get_layer("hidden").kernel.numpy()
    assert (hidden.weights, hidden.clusters, hidden.distinct, hidden.bits, hidden.codebooks) == (192, 4, 4, 2, 1)
    assert hidden.error == pytest.approx(np.sqrt(np.sum((new - old) ** 2) / np.sum(old**2)))
    assert (hidden.gzip_before, hidden.gzip_after) == tuple(
        len(gzip.compress(each.tobytes(), mtime=0)) for each in (old, new)
    )
    assert report.gzip_after < report.gzip_before / 4
    assert Clustering.from_json(report.to_json()) == report
    assert "hidden/kernel" in report.table()
    assert "compressed" in str(report)


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_numbers_are_those_of_a_loop_by_hand(how):
    """Gradient descent in NumPy: centroids move by the mean or sum of the changes of their weights."""
    model = keras.Sequential([keras.Input((12,)), L.Dense(1, use_bias=False, name="linear")])
    unshared = model.get_weights()[0].astype("float64")
    target = X @ np.arange(12.0)[:, None]
    clustered, _ = weights(model, clusters=3, centroid_update=how)
    centroids = np.unique(clustered.get_weights()[0]).astype("float64")
    clustered.compile(keras.optimizers.SGD(0.02), "mse")
    clustered.fit(X, target, batch_size=16, epochs=2, shuffle=False, verbose=0)
    places = np.argmin(np.abs(unshared - centroids), axis=-1)
    for start in (0, 16, 32, 48) * 2:
        x, y = X[start : start + 16], target[start : start + 16]
        change = -0.02 * 2 / 16 * x.T @ (x @ centroids[places][:, None] - y)
        unshared = unshared + change
        for cluster in range(3):
            if (places == cluster).any():
                inside = change[places == cluster, 0]
                centroids[cluster] += inside.mean() if how == "mean" else inside.sum()
        places = np.argmin(np.abs(unshared - centroids), axis=-1)
    np.testing.assert_allclose(clustered.get_weights()[0][:, 0], centroids[places], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_codebook_for_each_channel():
    clustered, report = weights(mlp(), clusters=4, per_channel=True)
    train(clustered)
    kernel = clustered.get_layer("hidden").kernel.numpy()
    assert [np.unique(kernel[:, channel]).size for channel in range(16)] == [4] * 16
    assert report.variables[0].codebooks == 16


def test_channels_of_a_depthwise_kernel_have_one_each():
    model = keras.Sequential([keras.Input((8, 8, 3)), L.DepthwiseConv2D(5, depth_multiplier=2, name="depthwise")])
    clustered, report = weights(model, clusters=3, per_channel=True)
    kernel = clustered.get_layer("depthwise").kernel.numpy()
    assert {np.unique(kernel[:, :, c, m]).size for c in range(3) for m in range(2)} == {3}
    assert report.variables[0].codebooks == 6


@pytest.mark.slow
def test_zeros_stay_zeros():
    pruned, _ = kopt.prune.magnitude(mlp(), 0.5)
    plain, _ = kopt.prune.finalize(pruned)
    zero = plain.get_layer("hidden").kernel.numpy() == 0
    clustered, report = weights(plain, clusters=8)
    train(clustered)
    kernel = clustered.get_layer("hidden").kernel.numpy()
    assert (kernel[zero] == 0).all()
    assert np.unique(kernel).size == 8
    assert report.variables[0].sparsity >= 0.5
    lost, _ = weights(plain, clusters=8, keep_zeros=False)
    assert not (train(lost).get_layer("hidden").kernel.numpy()[zero] == 0).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This training of .* ends at a sparsity of")
def test_masks_go_on_under_a_codebook(tmp_path):
    schedule = kopt.prune.schedules.Polynomial(0.75, begin=2, end=10, frequency=2)
    masked, _ = kopt.prune.magnitude(mlp(), schedule)
    clustered, _ = weights(masked, clusters=8)
    train(clustered, epochs=2)
    clustered.save(tmp_path / "part.keras")
    loaded = keras.models.load_model(tmp_path / "part.keras")
    for model in (train(clustered, epochs=2), train(loaded, epochs=2)):
        plain, _ = finalize(model)
        kernel = plain.get_layer("hidden").kernel.numpy()
        assert np.mean(kernel == 0) >= 0.75
        assert np.unique(kernel).size <= 8
        assert type(plain) is keras.Sequential
    np.testing.assert_array_equal(clustered.get_weights()[0], loaded.get_weights()[0])


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"jit_compile": True}, {"steps_per_execution": 3}, {"run_eagerly": True}])
def test_every_kind_of_step_gives_the_same_weights(settings):
    plain = train(weights(mlp(), clusters=8)[0], optimizer=keras.optimizers.SGD(0.05))
    other = train(weights(mlp(), clusters=8)[0], optimizer=keras.optimizers.SGD(0.05), **settings)
    for one, two in zip(plain.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_accelerated_and_mixed_precision_steps():
    clustered, _ = weights(mlp(), clusters=8)
    fast = kopt.train.accelerate(clustered, accumulate_steps=2, jit_compile=False)
    fast.compile(keras.optimizers.Adam(0.01), LOSS)
    fast.fit(X, Y, batch_size=16, epochs=3, verbose=0)
    assert values(clustered) == {"hidden": 8, "logits": 8}
    mixed, _ = kopt.train.to_precision(mlp(), "mixed_float16")
    assert values(train(weights(mixed, clusters=8)[0])) == {"hidden": 8, "logits": 8}


def test_layers_are_chosen_by_name():
    _, report = weights(mlp(), clusters={"hid*": 4})
    assert [(one.layer, one.clusters) for one in report.variables] == [("hidden", 4)]
    assert [(one.layer, one.detail) for one in report.skipped] == [("logits", "not named in `clusters`")]
    _, report = weights(mlp(), clusters=4, skip="hidden")
    assert [one.layer for one in report.variables] == ["logits"]
    _, report = weights(mlp(), clusters=100)
    assert report.skipped[0].detail == "it has 64 different weights only"


def test_weights_that_an_average_has_changed_are_put_back():
    clustered, _ = weights(mlp(), clusters=8)
    layer = clustered.get_layer("hidden")
    before = layer.kernel.numpy()
    layer.kernel.assign(before + 1e-4)
    plain, _ = finalize(clustered)
    np.testing.assert_array_equal(plain.get_layer("hidden").kernel.numpy(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 1}, "`clusters` must be a whole number of at least 2. Received: 1"),
        ({"clusters": 8, "initialization": "kmeans"}, "Did you mean 'k-means\\+\\+'"),
        ({"clusters": 8, "centroid_update": "max"}, "Accepted: mean, sum"),
        ({"clusters": 8, "layers": ["hiden"]}, "no layer is called 'hiden'. Did you mean 'hidden'"),
        ({"clusters": 500}, "Nothing in the model 'net' can be clustered .* 192 different weights"),
        ({"clusters": 8, "iterations": -1}, "at least 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        weights(mlp(), **settings)


def test_models_are_checked():
    clustered, _ = weights(mlp(), clusters=8)
    with pytest.raises(InputError, match="clustered already"):
        weights(clustered, clusters=4)
    with pytest.raises(InputError, match="clustered, which comes after pruning"):
        kopt.prune.magnitude(clustered, 0.5)
    with pytest.raises(InputError, match="has no codebooks"):
        finalize(mlp())
    broken = mlp()
    broken.get_layer("hidden").bias.assign(np.full(16, np.nan))
    with pytest.raises(NonFiniteError, match="hidden"):
        weights(broken, clusters=4)

    class Own(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.dense = L.Dense(units)

        def call(self, x):
            return self.dense(x)

    own = Own(4)
    own(X)
    with pytest.raises(UnsupportedModelError, match=r"Own.* does not rebuild from its config"):
        weights(own, clusters=4)


@keras.saving.register_keras_serializable("kopt_tests")
class Doubled(keras.Model):
    """A model whose `call` is Python code."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.dense = L.Dense(12, name="dense")
        self.head = L.Dense(4, name="head")

    def build(self, shape):
        self.dense.build(shape)
        self.head.build(shape)

    def call(self, x):
        return self.head(self.dense(self.dense(x)))


@pytest.mark.slow
def test_a_subclassed_model_keeps_masks_and_codebooks_in_its_file(tmp_path):
    model = Doubled()
    model(X)
    masked, _ = kopt.prune.magnitude(model, 0.5)
    clustered, report = weights(masked, clusters=5)
    assert [one.layer for one in report.variables] == ["dense", "head"]
    train(clustered, epochs=1).save(tmp_path / "model.keras")
    plain, _ = finalize(train(keras.saving.load_model(tmp_path / "model.keras"), epochs=1))
    assert type(plain) is Doubled
    for layer in (plain.dense, plain.head):
        assert np.unique(layer.kernel.numpy()).size == 5
        assert np.mean(layer.kernel.numpy() == 0) >= 0.5


def test_channels_of_models_under_constraints_stay():
    clustered, _ = weights(mlp(), clusters=8)
    with pytest.raises(InputError, match="clustered, which comes after pruning, already: `finalize` it first"):
        kopt.prune.channels(clustered, keep=0.5)
    masked, _ = kopt.prune.magnitude(mlp(), 0.5)
    with pytest.raises(InputError, match="is pruned already"):
        kopt.prune.channels(masked, keep=0.5)
