"""Statistics of arrays against hand arithmetic and NumPy, and their standard errors against simulation."""

import dataclasses
import math

import ml_dtypes
import numpy as np
import pytest

from kopt.core.blocks import BLOCK, flat_blocks, is_float
from kopt.core.records.profiles.parameter_layers import pool
from kopt.core.records.profiles.parameters import ParameterSettings
from kopt.profile.weights import order_statistics
from kopt.profile.weights.moments import Moments, merge, moments_of, streamed_moments
from kopt.profile.weights.order_statistics import exact_percentiles
from kopt.profile.weights.sampling import sample_places
from kopt.profile.weights.statistics import full_statistics, histogram_edges, sampled_statistics

SETTINGS = ParameterSettings(percentiles=(0.0, 25.0, 50.0, 90.0, 100.0), bins=4, near_zero=0.5)
DTYPES = ("float64", "float32", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
          "int8", "uint8", "int16", "int32", "int64", "bool")  # fmt: skip


def rng(seed=0):
    return np.random.default_rng(seed)


def cast(values, dtype):
    return (np.abs(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)


def skewed(size, seed=0, dtype="float32"):
    """Entries with a mean, a tail and exact zeros."""
    values = rng(seed).gamma(1.0, 2.0, size) - 0.5
    return np.where(rng(seed + 1).random(size) < 0.05, 0, values).astype(dtype)


def test_statistics_of_five_numbers_by_hand():
    statistics = full_statistics(np.array([[0.0, 1.0, -2.0, 4.0, 2.0]], "float32"), SETTINGS)
    assert statistics.read == statistics.finite == 5
    assert statistics.mean == 1.0
    # Deviations -1, 0, -3, 3, 1: squares sum to 20, cubes to 0, fourth powers to 164.
    assert statistics.std == 2.0
    assert statistics.skewness == 0.0
    assert statistics.excess_kurtosis == pytest.approx(164 / 5 / 16 - 3)
    assert (statistics.minimum, statistics.maximum, statistics.l1, statistics.l2) == (-2, 4, 9, 5)
    # The root mean square is sqrt(5), half of it 1.118: 0 and 1 are near zero.
    assert (statistics.zeros, statistics.near_zeros) == (1, 2)
    assert (statistics.zero_fraction, statistics.near_zero_fraction) == (0.2, 0.4)
    # Sorted: -2 0 1 2 4; the 90th percentile is at place 0.9 * 4 = 3.6, between 2 and 4.
    assert statistics.percentiles == pytest.approx({"0": -2, "25": 0, "50": 1, "90": 3.2, "100": 4})
    # Bins of 1.5: [-2, -0.5) [-0.5, 1) [1, 2.5) [2.5, 4].
    assert statistics.histogram.edges == (-2, -0.5, 1, 2.5, 4)
    assert statistics.histogram.counts == (1, 1, 2, 1)
    assert statistics.errors is None


def test_what_is_not_finite_is_counted_and_left_out():
    values = np.array([1.0, np.nan, 3.0, np.inf, -np.inf, np.nan, 0.0], "float32")
    statistics = full_statistics(values, SETTINGS)
    assert (statistics.read, statistics.finite, statistics.nans, statistics.infinities) == (7, 3, 2, 2)
    assert statistics.mean == pytest.approx(4 / 3)
    assert statistics.percentiles["50"] == 1.0
    assert sum(statistics.histogram.counts) == 3
    nothing = full_statistics(values[1:2], SETTINGS)
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.percentiles["50"])
    assert nothing.histogram.counts == ()
    assert full_statistics(np.zeros((0, 3), "float32"), SETTINGS).read == 0


def test_equal_entries_have_one_bin_and_no_shape():
    ones = full_statistics(np.ones(10, "float32"), SETTINGS)
    assert (ones.std, ones.zeros, ones.near_zeros) == (0, 0, 0)
    assert math.isnan(ones.skewness)
    assert ones.histogram.counts == (10,)
    assert ones.histogram.edges == (0.5, 1.5)
    zeros = full_statistics(np.zeros(10, "float32"), SETTINGS)
    assert (zeros.zeros, zeros.near_zeros, zeros.l2) == (10, 10, 0)


def test_bins_that_rounding_would_merge_become_one():
    assert list(histogram_edges(1.0, np.nextafter(1.0, 2.0), 50)) == [1.0, np.nextafter(1.0, 2.0)]
    assert len(histogram_edges(0.0, 1.0, 50)) == 51


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_all_dtypes_agree_with_numpy_in_float64(dtype):
    values = np.round(rng().standard_normal(3 * BLOCK // 2) * 5, 1 if is_float(np.dtype(dtype)) else 0)
    values = cast(values, dtype).reshape(3, -1)
    exact = values.astype("float64")
    statistics = full_statistics(values, SETTINGS)
    assert statistics.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert statistics.std == pytest.approx(exact.std(), rel=1e-12)
    assert statistics.l1 == pytest.approx(np.abs(exact).sum(), rel=1e-12)
    assert statistics.l2 == pytest.approx(np.linalg.norm(exact), rel=1e-12)
    assert statistics.zeros == (exact == 0).sum()
    assert list(statistics.percentiles.values()) == pytest.approx(list(np.percentile(exact, SETTINGS.percentiles)))
    counts, edges = np.histogram(exact, bins=4)
    assert statistics.histogram.counts == tuple(counts)
    assert statistics.histogram.edges == pytest.approx(edges)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_percentiles_by_counting_are_those_by_sorting(dtype, monkeypatch):
    monkeypatch.setattr(order_statistics, "_SORTED", 0)
    values = cast(rng().standard_normal(2 * BLOCK + 17) * 5, dtype)
    percentiles = (0, 0.1, 1, 33.3, 50, 99.99, 100)
    found = exact_percentiles(values, percentiles, values.size)
    assert found == pytest.approx(list(np.percentile(values.astype("float64"), percentiles)), rel=1e-13)


def test_percentiles_by_counting_take_zeros_of_both_signs_ties_and_non_finite_entries(monkeypatch):
    monkeypatch.setattr(order_statistics, "_SORTED", 0)
    values = np.array([0.0, -0.0, np.nan, -np.inf, np.inf, 2.0, 2.0, -3.0], "float32")
    # Finite and sorted: -3 0 0 2 2.
    assert exact_percentiles(values, (0, 25, 50, 75, 100), 5) == [-3, 0, 0, 2, 2]
    assert exact_percentiles(np.array([7], "int8"), (50,), 1) == [7]


def test_merged_moments_are_those_of_the_whole():
    values = skewed(1000) + 100  # Far from zero, where sums of powers would lose the digits.
    parts = [moments_of(part) for part in np.array_split(values, [1, 2, 250, 251, 700])]
    merged = Moments()
    for part in parts:
        merged = merge(merged, part)
    exact = values.astype("float64")
    deviations = exact - exact.mean()
    assert merged.count == 1000
    assert merged.mean == pytest.approx(exact.mean(), rel=1e-14)
    for power, sum_ in ((2, merged.second), (3, merged.third), (4, merged.fourth)):
        assert sum_ == pytest.approx((deviations**power).sum(), rel=1e-10)
    assert merged.mean_square == pytest.approx((exact**2).mean(), rel=1e-12)
    assert merged.mean_fourth_power == pytest.approx((exact**4).mean(), rel=1e-12)


def test_blocks_cover_every_entry_once():
    values = np.arange(2 * BLOCK + 5).reshape(-1, 1)
    assert np.array_equal(np.concatenate(list(flat_blocks(values))), np.arange(2 * BLOCK + 5))
    assert streamed_moments(flat_blocks(values)).count == 2 * BLOCK + 5


def test_places_are_different_ascending_seeded_and_evenly_likely():
    places = sample_places(1000, 500, rng(3))
    assert len(set(places)) == 500
    assert list(places) == sorted(places)
    assert np.array_equal(places, sample_places(1000, 500, rng(3)))
    hits = np.zeros(20)
    for seed in range(4000):
        hits[sample_places(20, 10, rng(seed))] += 1
    # Each place has the chance 1/2, so that the count has the deviation sqrt(4000) / 2 = 32.
    assert np.abs(hits - 2000).max() < 4 * 32


def test_a_small_variable_is_read_in_full():
    settings = dataclasses.replace(SETTINGS, sample=100)
    assert sampled_statistics(np.arange(200.0), settings, rng()).errors is None
    sampled = sampled_statistics(np.arange(201.0), settings, rng())
    assert sampled.errors is not None
    assert sampled.read == 100


def test_standard_errors_are_the_spread_of_repeated_samples():
    settings = dataclasses.replace(SETTINGS, sample=500, percentiles=(50.0, 90.0), near_zero=0.1)
    population = skewed(3000, dtype="float64")
    truth = full_statistics(population, settings)
    samples = [sampled_statistics(population, settings, rng(seed)) for seed in range(400)]
    names = ("mean", "std", "l1", "l2", "zero_fraction", "near_zero_fraction")
    estimates = {name: np.array([getattr(one, name) for one in samples]) for name in names}
    errors = {name: np.array([getattr(one.errors, name) for one in samples]) for name in names}
    for key in ("50", "90"):
        estimates[key] = np.array([one.percentiles[key] for one in samples])
        errors[key] = np.array([one.errors.percentiles[key] for one in samples])
    true = {name: getattr(truth, name) for name in names} | truth.percentiles
    for name, found in estimates.items():
        # Right on average: the mean of 400 samples has a twentieth of their spread.
        assert abs(found.mean() - true[name]) < 5 * found.std() / 20, name
        # The error is the spread; that of 400 samples is itself known to 1 / sqrt(800) = 3.5 %.
        assert errors[name].mean() == pytest.approx(found.std(), rel=0.15), name
        # Two errors cover 95 %, of which 400 samples see 95 +- 1.1.
        assert 0.90 < (np.abs(found - true[name]) <= 2 * errors[name]).mean() <= 1.0, name


def test_no_zero_in_a_sample_does_not_mean_none_for_sure():
    settings = dataclasses.replace(SETTINGS, sample=1000)
    statistics = sampled_statistics(np.arange(1.0, 1e6), settings, rng())
    assert statistics.zero_fraction == 0
    # One hit and one miss are added to the counts: about 1 / n.
    assert statistics.errors.zero_fraction == pytest.approx(1e-3, rel=0.01)


def test_norms_of_entries_of_one_magnitude_are_known_from_any_sample():
    settings = dataclasses.replace(SETTINGS, sample=500)
    signs = np.where(rng().random(10_000) < 0.3, -2.0, 2.0)
    statistics = sampled_statistics(signs, settings, rng())
    assert (statistics.l1, statistics.l2) == pytest.approx((20_000, 200))
    assert (statistics.errors.l1, statistics.errors.l2) == pytest.approx((0, 0), abs=1e-3)
    # The mean is not known: 4 sqrt(0.3 * 0.7) is the deviation, (N - n) / (N - 1) = 0.95 of its square remains.
    assert statistics.errors.mean == pytest.approx(4 * math.sqrt(0.21 * 0.95 / 500), rel=0.05)


def test_pooled_statistics_are_those_of_the_entries_together():
    first, second = skewed(400), skewed(100, seed=5) + 3
    both = full_statistics(np.concatenate([first, second]), SETTINGS)
    pooled = pool([(400, full_statistics(first, SETTINGS)), (100, full_statistics(second, SETTINGS))])
    for name in ("mean", "std", "minimum", "maximum", "l1", "l2", "zero_fraction"):
        assert getattr(pooled, name) == pytest.approx(getattr(both, name), rel=1e-6), name
    assert pooled.mean_error == pooled.std_error == pooled.l2_error == 0


def test_pooled_errors_are_the_spread_of_repeated_samples():
    settings = dataclasses.replace(SETTINGS, sample=300)
    other = skewed(5000, seed=7)
    populations = (skewed(2000), np.where(other == 0, 0, 2 * other + 1))
    pools = [
        pool(
            [(one.size, sampled_statistics(one, settings, rng([seed, place]))) for place, one in enumerate(populations)]
        )
        for seed in range(400)
    ]
    for name in ("mean", "std", "l1", "l2", "zero_fraction", "near_zero_fraction"):
        spread = np.std([getattr(one, name) for one in pools])
        assert np.mean([getattr(one, f"{name}_error") for one in pools]) == pytest.approx(spread, rel=0.15), name
