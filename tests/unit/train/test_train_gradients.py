import numpy as np
import pytest
import tensorflow as tf

from kopt.train.steps import gradients as g

KERNEL = np.array([[3.0, 0.0], [4.0, 0.1]], np.float32)
BIAS = np.array([0.0, -12.0], np.float32)


def slices(values, indices, rows):
    return tf.IndexedSlices(tf.constant(values), tf.constant(indices), tf.constant([rows, 2]))


def test_squared_norm_is_the_sum_of_all_squares():
    # 9 + 16 + 0.01 + 144
    assert float(g.squared_norm([tf.constant(KERNEL), None, tf.constant(BIAS)])) == pytest.approx(169.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sum_shows_what_is_not_finite(bad):
    assert float(g.sum_of_entries([tf.constant(KERNEL), None, slices([[1.0, 2.0]], [2], 3)])) == pytest.approx(10.1)
    for place in ([0.0, bad], [-bad, bad]):
        assert not np.isfinite(float(g.sum_of_entries([tf.constant(KERNEL), tf.constant(place)])))
    assert not np.isfinite(float(g.sum_of_entries([slices([[1.0, bad]], [2], 3)])))


def test_rows_that_are_named_twice_are_added_up():
    dense = g.dense(slices([[1.0, 2.0], [10.0, 20.0], [5.0, 5.0]], [2, 2, 0], 3))
    np.testing.assert_array_equal(dense, [[5, 5], [0, 0], [11, 22]])


def test_clip_by_value():
    kernel, missing, bias = g.clip_by_value([tf.constant(KERNEL), None, tf.constant(BIAS)], 1.0)
    np.testing.assert_allclose(kernel, [[1, 0], [1, 0.1]])
    np.testing.assert_array_equal(bias, [0, -1])
    assert missing is None


def test_clip_by_norm_takes_each_gradient_alone():
    kernel, bias = g.clip_by_norm([tf.constant(KERNEL), tf.constant(BIAS)], 6.0)
    np.testing.assert_allclose(kernel, KERNEL)  # Its norm is 5.001.
    np.testing.assert_allclose(bias, BIAS / 2)  # Its norm is 12.


def test_clip_by_global_norm_keeps_the_direction():
    kernel, missing, bias = g.clip_by_global_norm([tf.constant(KERNEL), None, tf.constant(BIAS)], 1.0)
    norm = np.sqrt(169.01)
    np.testing.assert_allclose(kernel, KERNEL / norm, rtol=1e-6)
    np.testing.assert_allclose(bias, BIAS / norm, rtol=1e-6)
    assert missing is None
    np.testing.assert_array_equal(g.clip_by_global_norm([tf.constant(KERNEL)], 100.0)[0], KERNEL)


def test_clip_adaptively_takes_units_alone():
    weights = np.array([[0.6, 0.0], [0.8, 0.0]], np.float32)
    bias_weights = np.array([2.0, 0.0], np.float32)
    kernel, bias = g.clip_adaptively([tf.constant(KERNEL), tf.constant(BIAS)], [weights, bias_weights], 0.1)
    # Unit 0 has weights of norm 1 and a gradient of norm 5: limit 0.1. Unit 1 has no weights: limit 0.1 * 0.001.
    np.testing.assert_allclose(kernel[:, 0], KERNEL[:, 0] * 0.1 / 5, rtol=1e-6)
    np.testing.assert_allclose(kernel[:, 1], KERNEL[:, 1] * 1e-4 / 0.1, rtol=1e-6)
    np.testing.assert_allclose(bias, [0.0, -1e-4], rtol=1e-6)


def test_clip_adaptively_leaves_small_gradients_as_they_are():
    np.testing.assert_array_equal(g.clip_adaptively([tf.constant(KERNEL)], [100 * KERNEL + 10], 0.1)[0], KERNEL)
