"""Fails when a Keras release changes what `kopt.profile.layer_sensitivity.internals` reads."""

import keras
import numpy as np

from kopt.profile.layer_sensitivity import internals


def test_the_values_of_a_metric_have_the_metric_as_their_mean():
    y, outputs = np.array([[1.0], [2.0], [5.0]]), np.array([[1.5], [2.0], [3.0]])
    metric = keras.metrics.MeanAbsoluteError()
    np.testing.assert_allclose(internals.values_of_metric(metric, y, outputs), [0.5, 0.0, 2.0])
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=2)
    found = internals.values_of_metric(top, np.array([0, 1]), np.array([[0.1, 0.2, 0.7], [0.3, 0.2, 0.5]], np.float32))
    np.testing.assert_array_equal(found, [0.0, 0.0])
