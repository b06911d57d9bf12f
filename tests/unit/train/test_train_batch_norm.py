import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, NonFiniteError, UnsupportedModelError
from kopt.core.records.training.batch_norm import BatchNormReport
from kopt.train.batch_norm import Moments, batch_moments, reestimate_batch_norm, reestimate_in_place

L = keras.layers
X = np.random.default_rng(0).normal(2.0, 3.0, size=(10, 4)).astype(np.float32)


def dataset(x=X, batch_size=4):
    return tf.data.Dataset.from_tensor_slices(x).batch(batch_size)


def randomize(model):
    rng = np.random.default_rng(1)
    for variable in model.weights:
        low = 0.5 if variable.name in ("gamma", "moving_variance") else -1.0
        variable.assign(rng.uniform(low, 1.5, variable.shape))
    return model


def two_norms(dropout=0.5):
    x = keras.Input((4,))
    y = L.BatchNormalization(name="first", momentum=0.7)(x)
    y = L.Dropout(dropout)(L.Dense(3, name="dense")(y))
    return randomize(keras.Model(x, L.BatchNormalization(name="second", epsilon=0.01)(y)))


def normalized(x, layer, mean, variance):
    return layer.gamma.numpy() * (x - mean) / np.sqrt(variance + layer.epsilon) + layer.beta.numpy()


def dense(x, layer):
    return x @ layer.kernel.numpy().astype(np.float64) + layer.bias.numpy()


def test_moments_join_by_the_law_of_total_variance():
    values = np.random.default_rng(2).normal(1e3, 1.0, size=(100, 3))
    moments = Moments()
    for part in np.split(values, [1, 10, 60]):
        moments.add(len(part), part.mean(0), part.var(0))
    assert moments.count == 100
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, values.var(0), rtol=1e-9)


def test_batch_moments_of_an_axis_and_of_a_mask():
    values = np.random.default_rng(3).normal(size=(2, 3, 5)).astype(np.float32)
    count, mean, variance = batch_moments(tf.constant(values), 1)
    assert float(count) == 10
    np.testing.assert_allclose(mean, values.mean((0, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, values.var((0, 2)), rtol=1e-5)
    mask = np.array([[True, False, True], [False, False, True]])
    count, mean, variance = batch_moments(tf.constant(values), -1, tf.constant(mask))
    assert float(count) == 3
    np.testing.assert_allclose(mean, values[mask].mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, values[mask].var(0), rtol=1e-5)
    count, mean, _ = batch_moments(tf.constant(values), -1, tf.zeros((2, 3), tf.bool))
    assert float(count) == 0
    np.testing.assert_array_equal(mean, np.zeros(5))


def test_joint_statistics_are_those_with_batch_statistics_before():
    model = two_norms()
    before = model.get_weights()
    twin, report = reestimate_batch_norm(model, dataset())
    first, second = twin.get_layer("first"), twin.get_layer("second")
    np.testing.assert_allclose(first.moving_mean, X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first.moving_variance, X.var(0), rtol=1e-5)
    # Batches of 4, 4 and 2 examples, each normalized with its own statistics; dropout is off.
    parts = [dense(normalized(x, first, x.mean(0), x.var(0)), twin.get_layer("dense")) for x in np.split(X, [4, 8])]
    values = np.concatenate(parts)
    np.testing.assert_allclose(second.moving_mean, values.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second.moving_variance, values.var(0), rtol=1e-4, atol=1e-5)
    assert first.momentum == 0.7
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (report.mode, report.batches, report.examples, report.skipped) == ("joint", 3, 10, ())
    assert [change.values for change in report.layers] == [10, 10]
    assert BatchNormReport.from_json(report.to_json()) == report


def test_sequential_statistics_are_exact_in_inference():
    twin, report = reestimate_batch_norm(two_norms(), dataset(), mode="sequential")
    first, second = twin.get_layer("first"), twin.get_layer("second")
    values = dense(normalized(X, first, X.mean(0), X.var(0)), twin.get_layer("dense"))
    np.testing.assert_allclose(second.moving_mean, values.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second.moving_variance, values.var(0), rtol=1e-4, atol=1e-5)
    # So what leaves the model has the mean beta and, but for epsilon, the deviation gamma.
    outputs = twin(X, training=False).numpy()
    np.testing.assert_allclose(outputs.mean(0), second.beta, atol=1e-4)
    spread = np.abs(second.gamma.numpy()) * np.sqrt(values.var(0) / (values.var(0) + 0.01))
    np.testing.assert_allclose(outputs.std(0), spread, rtol=1e-3)
    assert report.mode == "sequential"


def test_the_report_measures_the_change():
    model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(name="norm")])
    _, report = reestimate_batch_norm(model, X, batch_size=5)
    change = report.layers[0]
    spread = 1.0 + 1e-3
    assert change.layer.endswith("norm")
    np.testing.assert_allclose(change.mean_shift, np.sqrt(np.mean(X.mean(0) ** 2 / spread)), rtol=1e-5)
    ratio = np.exp(np.mean(np.log((X.var(0) + 1e-3) / spread)))
    np.testing.assert_allclose(change.variance_ratio, ratio, rtol=1e-5)


def test_statistics_of_images_are_over_all_positions():
    images = np.random.default_rng(4).normal(size=(6, 3, 3, 2)).astype(np.float32)
    model = keras.Sequential([keras.Input((None, None, 2)), L.BatchNormalization(name="norm")])
    twin, report = reestimate_batch_norm(model, dataset(images))
    np.testing.assert_allclose(twin.get_layer("norm").moving_variance, images.var((0, 1, 2)), rtol=1e-5)
    assert report.layers[0].values == 54


def test_masked_steps_do_not_count():
    x = np.array([[1, 2, 0], [3, 0, 0]])
    model = keras.Sequential(
        [keras.Input((3,)), L.Embedding(4, 2, mask_zero=True, name="e"), L.BatchNormalization(name="n")]
    )
    twin, _ = reestimate_batch_norm(model, x)
    values = model.get_layer("e").embeddings.numpy()[[1, 2, 3]]
    np.testing.assert_allclose(twin.get_layer("n").moving_mean, values.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(twin.get_layer("n").moving_variance, values.var(0), rtol=1e-4, atol=1e-9)


@keras.saving.register_keras_serializable("kopt_batch_norm_tests")
class Subclassed(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.norm = L.BatchNormalization(name="norm")
        self.head = L.Dense(units)

    def call(self, inputs, training=None):
        return self.head(self.norm(inputs, training=training))

    def get_config(self):
        return {**super(keras.Model, self).get_config(), "units": self.units}


class Unrebuildable(Subclassed):
    def get_config(self):
        raise NotImplementedError


def test_nested_and_subclassed_models():
    x = keras.Input((4,))
    block = keras.Sequential([keras.Input((4,)), L.BatchNormalization(name="norm")], name="block")
    nested = keras.Model(x, L.Dense(1)(block(x)))
    twin, _ = reestimate_batch_norm(nested, dataset())
    np.testing.assert_allclose(twin.get_layer("block").get_layer("norm").moving_mean, X.mean(0), rtol=1e-5)
    subclassed = Subclassed(2)
    subclassed(X)
    twin, _ = reestimate_batch_norm(subclassed, dataset())
    np.testing.assert_allclose(twin.norm.moving_mean, X.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(subclassed.norm.moving_mean, np.zeros(4))
    np.testing.assert_array_equal(twin.head.kernel, subclassed.head.kernel)
    model = Unrebuildable(2)
    model(X)
    with pytest.raises(UnsupportedModelError, match=r"get_config"):
        reestimate_batch_norm(model, dataset())


def test_a_shared_layer_sees_all_its_calls():
    a, b, norm = keras.Input((4,)), keras.Input((4,)), L.BatchNormalization(name="norm")
    model = keras.Model([a, b], L.Add()([norm(a), norm(b)]))
    twin, report = reestimate_batch_norm(model, [X, 2 * X])
    both = np.concatenate([X, 2 * X])
    np.testing.assert_allclose(twin.get_layer("norm").moving_variance, both.var(0), rtol=1e-5)
    assert (report.examples, report.layers[0].values) == (10, 20)


def test_labels_are_ignored_and_batches_counted():
    pairs = tf.data.Dataset.from_tensor_slices((X, np.zeros(10))).batch(2).repeat()
    twin, report = reestimate_batch_norm(two_norms(), pairs, batches=3)
    np.testing.assert_allclose(twin.get_layer("first").moving_mean, X[:6].mean(0), rtol=1e-5)
    assert (report.batches, report.examples) == (3, 6)


@pytest.mark.skipif(not hasattr(L.BatchNormalization(), "renorm"), reason="Keras 3.12 has no batch renormalization")
def test_batch_renormalization_is_listed_not_changed():
    model = keras.Sequential(
        [keras.Input((4,)), L.BatchNormalization(renorm=True, name="renorm"), L.BatchNormalization(name="norm")]
    )
    twin, report = reestimate_batch_norm(model, dataset())
    np.testing.assert_array_equal(twin.get_layer("renorm").moving_mean, np.zeros(4))
    assert [(path.split("/")[-1], "renormalization" in reason) for path, reason in report.skipped] == [("renorm", True)]
    assert [change.layer.split("/")[-1] for change in report.layers] == ["norm"]


def test_half_precision_computes_in_float32():
    model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(name="norm", dtype="mixed_float16")])
    large = X * 200  # whose squares overflow float16
    twin, _ = reestimate_batch_norm(model, dataset(large))
    np.testing.assert_allclose(
        twin.get_layer("norm").moving_variance, large.astype("float16").var(0, dtype="float64"), rtol=1e-3
    )


def test_in_place_leaves_no_trace_but_the_statistics():
    model = two_norms()
    attributes = {layer.name: sorted(vars(layer)) for layer in model.layers}
    reestimate_in_place(model, dataset())
    assert {layer.name: sorted(vars(layer)) for layer in model.layers} == attributes
    np.testing.assert_allclose(model.get_layer("first").moving_mean, X.mean(0), rtol=1e-5)


def test_bad_input():
    model = two_norms()
    with pytest.raises(ConfigError, match=r"Unknown `mode` 'jont'. Did you mean 'joint'"):
        reestimate_batch_norm(model, dataset(), mode="jont")
    with pytest.raises(ConfigError, match=r"`batches` must be"):
        reestimate_batch_norm(model, dataset(), batches=0)
    with pytest.raises(DataError, match=r"no batches"):
        reestimate_batch_norm(model, dataset().take(0))
    with pytest.raises(DataError, match=r"never ends"):
        reestimate_batch_norm(model, dataset().repeat())
    with pytest.raises(NonFiniteError, match=r"'first' gets NaN or infinity in batch 1"):
        reestimate_batch_norm(model, dataset(np.where(np.arange(10)[:, None] == 5, np.nan, X)))
    with pytest.raises(UnsupportedModelError, match=r"no batch normalization"):
        reestimate_batch_norm(keras.Sequential([keras.Input((4,)), L.Dense(1)]), dataset())
