"""Grids and rounding: numbers by hand, a NumPy model of TFLite's arithmetic, gradients with their derivation."""

import integer_arithmetic as tflite
import numpy as np
import pytest
import tensorflow as tf

from kopt.quantize import grids

GENERATOR = np.random.default_rng(0)


def test_a_range_is_moved_until_zero_is_on_the_grid():
    # Width 2.55 in 255 steps: 0.01 each; -0.503 is 50.3 steps below 0, rounded to 50, so that -128 stands for -0.50.
    grid = grids.grid_of(-0.503, 2.047)
    assert grid.scale == pytest.approx(0.01)
    assert grid.zero_point == -128 + 50
    assert (grid.low, grid.high) == (pytest.approx(-0.50), pytest.approx(2.05))


def test_a_range_of_one_sign_begins_at_zero():
    assert grids.grid_of(0.5, 5.1) == grids.grid_of(0.0, 5.1)
    assert grids.grid_of(0.0, 5.1).zero_point == -128
    assert grids.grid_of(-5.1, -1.0).zero_point == 127


def test_16_bits_are_symmetric():
    grid = grids.grid_of(-1.0, 3.2767, 16)
    assert grid.zero_point == 0
    assert grid.scale == pytest.approx(1e-4)
    assert (grid.low, grid.high) == (pytest.approx(-3.2767), pytest.approx(3.2767))


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.7), (0.0, 6.0), (-0.01, 0.02), (-4.0, 0.0), (0.0, 255 / 256)])
def test_activations_are_rounded_to_the_integers_of_tflite(low, high):
    x = GENERATOR.uniform(1.5 * low - 0.1, 1.5 * high, 1000).astype(np.float32)
    grid = grids.grid_of(low, high)
    rounded = grids.quantize_activations(tf.constant(x), low, high).numpy()
    integers = tflite.quantized(x, grid)
    assert np.array_equal(tflite.quantized(rounded, grid), integers)
    np.testing.assert_allclose(rounded, (integers - grid.zero_point) * grid.scale, rtol=1e-6, atol=1e-7)


def test_the_gradient_of_an_activation_stops_outside_the_range():
    x = tf.constant([-2.0, -0.9, 0.3, 5.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = grids.quantize_activations(x, -1.0, 1.0)
    assert tape.gradient(y, x).numpy().tolist() == [0.0, 1.0, 1.0, 0.0]


def test_every_channel_of_a_kernel_has_a_step_of_its_own():
    kernel = np.array([[1.27, -0.3], [0.504, 0.02]], np.float32)
    steps = grids.kernel_steps(tf.constant(kernel), (1,))
    np.testing.assert_allclose(steps.numpy(), [[0.01, 0.3 / 127]], rtol=1e-6)
    rounded = grids.quantize_kernel(tf.constant(kernel), steps).numpy()
    # 0.504 / 0.01 is 50.4; 0.02 / (0.3 / 127) is 8.47.
    np.testing.assert_allclose(rounded, [[1.27, -0.3], [0.50, 8 * 0.3 / 127]], rtol=1e-6)


def test_four_bits_leave_fifteen_values():
    kernel = tf.constant(np.linspace(-0.7, 0.7, 101, dtype=np.float32)[:, None])
    rounded = grids.quantize_kernel(kernel, grids.kernel_steps(kernel, (1,), 4)).numpy()
    np.testing.assert_allclose(np.unique(rounded.round(4)), np.arange(-7, 8) / 10, atol=1e-4)


def test_an_empty_channel_stays_empty():
    kernel = tf.zeros((3, 2))
    assert not grids.quantize_kernel(kernel, grids.kernel_steps(kernel, (1,))).numpy().any()


def test_rounding_passes_gradients_of_weights_through():
    kernel = tf.constant(GENERATOR.normal(size=(4, 3)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        loss = tf.reduce_sum(grids.quantize_kernel(kernel, grids.kernel_steps(kernel, (1,))) * [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(tape.gradient(loss, kernel), np.tile([1.0, 2.0, 3.0], (4, 1)))


def test_a_channel_times_a_number_is_on_its_grid_times_that_number():
    kernel = GENERATOR.normal(size=(3, 3, 2, 5)).astype(np.float32)
    factor = np.array([0.5, -2.0, 3.0, 1e-3, 7.0], np.float32)

    def rounded(array):
        return grids.quantize_kernel(tf.constant(array), grids.kernel_steps(tf.constant(array), (3,))).numpy()

    np.testing.assert_allclose(rounded(kernel * factor), rounded(kernel) * factor, rtol=2e-6)


def test_a_bias_is_rounded_to_the_steps_of_the_accumulator():
    bias = grids.quantize_bias(tf.constant([0.0104, -0.0396]), tf.constant([0.001, 0.01]))
    np.testing.assert_allclose(bias, [0.010, -0.04], rtol=1e-6)


def test_the_gradient_of_a_learned_range():
    """Of the upper end, at a lower end of 0 and 255 steps of 0.1.

    Inside, `q * step` gives `dy/dstep = round(x / step) - x / step`: -0.3 for x = 1.03. Above, `y = 255 * step` gives
    255. A step is a 255th of the range, and the gradient is scaled by 1 / sqrt(entries * 127).
    """
    x = tf.constant([1.03, 30.0])
    low, high = tf.constant(0.0), tf.constant(25.5)
    with tf.GradientTape() as tape:
        tape.watch(high)
        y = tf.reduce_sum(grids.quantize_with_learned_range(x, low, high))
    expected = (-0.3 + 255) / 255 / np.sqrt(2 * 127)
    assert tape.gradient(y, high).numpy() == pytest.approx(expected, rel=1e-3)


def test_a_learned_range_rounds_like_a_fixed_one():
    x = tf.constant(GENERATOR.uniform(-2, 4, 500).astype(np.float32))
    np.testing.assert_allclose(
        grids.quantize_with_learned_range(x, -1.3, 2.7), grids.quantize_activations(x, -1.3, 2.7), atol=1e-5
    )
