"""Ranges from what calibration saw: functions of arrays, with numbers that can be worked out by hand."""

import numpy as np
import pytest

from kopt.quantize.after_training import estimators
from kopt.quantize.after_training.histograms import (
    Histogram,
    Observation,
    histogram_of,
    joined,
    merged,
    observation_of,
)

LEVELS = 256


def seen(counts, low, high, lows=(0.0,), highs=(1.0,)):
    return Observation(np.array(lows), np.array(highs), Histogram(low, high, np.array(counts, np.float64)))


def test_an_observation_has_the_extremes_of_every_example_and_the_histogram_of_all():
    found = observation_of(np.array([[0.0, 1.0], [-2.0, 2.0]], np.float32), most=100)
    np.testing.assert_array_equal(found.lows, [0, -2])
    np.testing.assert_array_equal(found.highs, [1, 2])
    assert (found.histogram.low, found.histogram.high, found.histogram.counts.sum()) == (-2.0, 2.0, 4)


def test_histograms_are_merged_over_the_range_of_both():
    """Four values in [0, 2] and two in [0, 4]: of bins of width 1, each of the first gets 2, of all four 0.5."""
    both = merged(Histogram(0.0, 2.0, np.array([1.0, 1, 1, 1])), Histogram(0.0, 4.0, np.array([0.5, 0.5, 0.5, 0.5])))
    np.testing.assert_allclose(both.counts, [2.5, 2.5, 0.5, 0.5])
    assert (both.low, both.high) == (0.0, 4.0)


def test_a_constant_has_a_histogram():
    found = histogram_of(np.full(10, 3.0), bins=4)
    assert found.counts.sum() == 10
    assert found.high > found.low


def test_tensors_of_the_same_examples_have_common_extremes_and_others_follow_each_other():
    one, other = seen([1, 1], 0, 1, [0, 0], [1, 5]), seen([1, 1], 0, 1, [-1, 0], [2, 2])
    same = joined(one, other, same_examples=True)
    np.testing.assert_array_equal([same.lows, same.highs], [[-1, 0], [2, 5]])
    np.testing.assert_array_equal(joined(one, other, same_examples=False).highs, [1, 5, 2, 2])


def test_minmax_is_the_extremes():
    assert estimators.minmax(seen([1], 0, 1, [-1, -3, 0], [2, 7, 4]), LEVELS) == (-3.0, 7.0)


def test_the_moving_average_weighs_the_last_example_most(monkeypatch):
    """With a momentum of 0.5 the weights of three examples are 1/4, 1/2, 1, that is 1/7, 2/7, 4/7."""
    monkeypatch.setattr(estimators, "MOMENTUM", 0.5)
    low, high = estimators.moving_average(seen([1], 0, 1, [0, 0, -7], [7, 14, 7]), LEVELS)
    assert (low, high) == pytest.approx((-4.0, 9.0))


def test_the_percentile_leaves_out_the_same_share_on_both_sides(monkeypatch):
    """Of 100 values, spread evenly from 0 to 10, the 90th percentile is 9 and the 10th 1."""
    monkeypatch.setattr(estimators, "PERCENTILE", 90.0)
    assert estimators.percentile(seen([10] * 10, 0, 10), LEVELS) == pytest.approx((1.0, 9.0))


def test_the_squared_error_of_a_grid():
    """Integers from 0 to 3. The middles of the bins are 1.5, 2.7 and 3.9: two values are off by 0.5, one by 0.9."""
    histogram = Histogram(0.9, 4.5, np.array([2.0, 0, 1.0]))
    assert estimators._squared_error(histogram, 0.0, 3.0, 4) == pytest.approx(2 * 0.5**2 + 0.9**2)


def test_least_squares_clip_a_rare_value_far_out():
    """A thousand values in each of 100 bins up to 1 and a single one at 10.

    On the whole range a step is 10 / 15 and the error of a value 0.667 ** 2 / 12 = 0.037; below 1 it is 0.00037, and
    the one that is clipped costs 81: less than 100,000 * 0.0366.
    """
    counts = np.zeros(1000)
    counts[:100], counts[-1] = 1000, 1
    low, high = estimators.mse(seen(counts, 0, 10), 16)
    assert low == 0.0
    assert 0.9 < high < 3.0
    counts[-1] = 1e7
    assert estimators.mse(seen(counts, 0, 10), 16)[1] > 9.0


def test_entropy_clips_a_rare_value_and_keeps_a_spread_that_is_even():
    counts = np.rint(1e5 * np.exp(-np.square(np.linspace(0, 8, 2048)) / 2))
    counts[-1] = 1
    assert 2.5 < estimators.entropy(seen(counts, 0, 8), LEVELS)[1] < 5.0
    assert estimators.entropy(seen(np.full(2048, 10.0), 0, 8), LEVELS) == (0.0, 8.0)


def test_entropy_does_not_count_the_zeros_of_a_relu():
    counts = np.full(2048, 10.0)
    counts[0] = 1e6
    assert estimators.entropy(seen(counts, 0, 8), LEVELS) == (0.0, 8.0)


def test_entropy_leaves_ranges_of_sixteen_bits_whole():
    assert estimators.entropy(seen(np.arange(2048.0), 0, 8), 65535) == (0.0, 8.0)


@pytest.mark.parametrize("name", list(estimators.ESTIMATORS))
def test_every_estimator_stays_inside_what_it_saw_with_zero(name):
    values = np.random.default_rng(0).normal(2.0, 1.0, (20, 500)).astype(np.float32)
    low, high = estimators.ESTIMATORS[name](observation_of(values, 10_000), LEVELS)
    assert min(values.min(), 0.0) - 1e-6 <= low <= high <= values.max() + 1e-6
    assert high > 3.0
