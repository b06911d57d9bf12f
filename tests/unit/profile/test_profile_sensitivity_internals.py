"""Fails when a Keras release changes what `kopt.profile.layer_sensitivity.internals` reads."""

import keras
import numpy as np

from kopt.profile.layer_sensitivity import internals


def test_loss_weights_are_what_compile_was_given():
    x = keras.Input((2,))
    model = keras.Model(x, {"a": keras.layers.Dense(1, name="a")(x), "b": keras.layers.Dense(1, name="b")(x)})
    model.compile(loss={"a": "mse", "b": "mse"}, loss_weights={"a": 2.0, "b": 0.5})
    assert internals.loss_weights(model) == {"a": 2.0, "b": 0.5}
    model.compile(loss="mse")
    assert internals.loss_weights(model) is None


def test_the_values_of_a_metric_have_the_metric_as_their_mean():
    y, outputs = np.array([[1.0], [2.0], [5.0]]), np.array([[1.5], [2.0], [3.0]])
    metric = keras.metrics.MeanAbsoluteError()
    np.testing.assert_allclose(internals.values_of_metric(metric, y, outputs), [0.5, 0.0, 2.0])
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=2)
    found = internals.values_of_metric(top, np.array([0, 1]), np.array([[0.1, 0.2, 0.7], [0.3, 0.2, 0.5]], np.float32))
    np.testing.assert_array_equal(found, [0.0, 0.0])
