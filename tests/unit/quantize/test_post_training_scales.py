"""Numbers that scale channels between layers, and what they do to kernels."""

import numpy as np
import pytest

from kopt.quantize.after_training import scales
from kopt.quantize.after_training.correcting import clipped_kernel
from kopt.quantize.after_training.weight_changes import divided, largest_made, largest_taken, multiplied

RNG = np.random.default_rng(0)


def test_weights_become_equally_large():
    """8 and 2: divided by 2 and multiplied by 2 both are 4. A channel without weights stays."""
    np.testing.assert_allclose(scales.by_weights(np.array([8.0, 0.0]), np.array([2.0, 3.0])), [2.0, 1.0])


def test_a_share_of_the_spread_of_activations_goes_into_weights():
    """0.5: sqrt(16 / 4) = 2; 1: 16; 0: 1 / 4."""
    for alpha, expected in ((0.5, 2.0), (1.0, 16.0), (0.0, 0.25)):
        np.testing.assert_allclose(scales.by_activations(np.array([16.0]), np.array([4.0]), alpha), [expected])
    np.testing.assert_array_equal(scales.by_activations(np.array([0.0, 1]), np.array([1.0, 0]), 0.5), [1, 1])


def test_nothing_is_enlarged_into_a_cap():
    """1.2 may grow to 4.8, four times, or be made smaller; 6 and above stay; what is never positive may grow."""
    seen = np.array([1.2, 1.2, 6.0, 9.0, -1.0])
    found = scales.under_cap(np.array([0.01, 2.0, 0.5, 2.0, 0.5]), seen, 6.0)
    np.testing.assert_allclose(found, [0.25, 2.0, 1.0, 1.0, 0.5])


def test_kernels_of_convolutions_in_groups():
    """Four inputs in two groups, two outputs each: input 3 is the second of the second group, taken by outputs 2, 3."""
    kernel = np.arange(8.0).reshape(1, 1, 2, 4)
    np.testing.assert_array_equal(largest_taken(kernel, 2, 4, 4), [1, 5, 3, 7])
    np.testing.assert_array_equal(
        multiplied(kernel, 2, 4, np.array([1.0, 10, 100, 1000]))[0, 0], [[0, 1, 200, 300], [40, 50, 6000, 7000]]
    )


def test_a_channel_behind_a_flatten_is_taken_several_times():
    kernel = np.array([[1.0], [2], [3], [4]])
    np.testing.assert_array_equal(largest_taken(kernel, 0, 4, 2), [3, 4])
    np.testing.assert_array_equal(multiplied(kernel, 0, 4, np.array([1.0, 10])), [[1], [20], [3], [40]])


def test_channels_of_depthwise_kernels_have_two_axes():
    kernel = np.array([[[[1.0, -2], [3, 4]]]])
    np.testing.assert_array_equal(largest_made(kernel, (2, 3)), [1, 2, 3, 4])
    np.testing.assert_array_equal(divided(kernel, (2, 3), np.array([1.0, 2, 3, 4])), [[[[1, -1], [1, 1]]]])


@pytest.mark.parametrize(
    ("shape", "axis", "inputs"), [((3, 3, 4, 6), 2, 4), ((3, 3, 2, 6), 2, 4), ((3, 3, 6, 4), 3, 4)]
)
def test_scaling_back_gives_the_kernel_again(shape, axis, inputs):
    kernel, by = RNG.normal(size=shape).astype(np.float32), np.array([1.0, 2, 4, 8])
    np.testing.assert_array_equal(multiplied(multiplied(kernel, axis, inputs, by), axis, inputs, 1 / by), kernel)


def test_an_outlier_is_clipped_where_that_costs_less_than_a_coarse_grid():
    """Three bits, integers up to 3. A weight of 1.5 beside a thousand of 0.5: its own grid has the step 0.5, which is
    exact. Beside a thousand of 0.35: a step of 0.35 ends at 1.05 and costs 0.45 ** 2; 0.5 costs a thousand times
    0.15 ** 2.
    """
    exact = np.full((1001, 1), 0.5, np.float32)
    exact[0] = 1.5
    np.testing.assert_array_equal(clipped_kernel(exact, (1,), 3), exact)
    coarse = np.full((1001, 1), 0.35, np.float32)
    coarse[0] = 1.5
    assert clipped_kernel(coarse, (1,), 3).max() == pytest.approx(1.05, abs=0.01)
