import math

import numpy as np
import pytest

from kopt.measure import paired
from kopt.measure.paired_power import (
    fractions_detectable,
    fractions_needed,
    least_pairs,
    means_detectable,
    means_needed,
)

Z, Z_POWER = 1.959964, 0.841621


@pytest.mark.parametrize(("level", "least"), [(0.9, 5), (0.95, 6), (0.99, 8), (0.5, 2)])
def test_least_pairs_are_those_whose_exact_test_can_be_below_the_limit(level, least):
    # All of one sign has a p-value of 2 / 2^n.
    assert least_pairs(level) == least
    assert paired.sign_flip_p(np.ones(least)) <= 1 - level + 1e-12 < paired.sign_flip_p(np.ones(least - 1))


def test_fractions_needed_by_hand_and_by_simulation():
    # 10 % right only in b, 4 % only in a: g = 0.06, q = 0.14, q - g^2 = 0.1364.
    needed = fractions_needed(0.06, 0.14, 0.95, 0.8)
    assert needed == math.ceil(((Z * 0.14**0.5 + Z_POWER * 0.1364**0.5) / 0.06) ** 2) == 303
    assert fractions_needed(-0.06, 0.14, 0.95, 0.8) == needed
    drawn = np.random.default_rng(6).multinomial(needed, [0.1, 0.04, 0.86], size=2000)
    power = np.mean([paired.mcnemar_p(only_a, only_b) < 0.05 for only_b, only_a, _ in drawn])
    assert power == pytest.approx(0.8, abs=0.04)  # the deviation of 2000 trials is 0.009; the formula is approximate
    assert fractions_needed(0.0, 0.1, 0.95, 0.8) is None


def test_a_margin_is_another_question_than_a_difference():
    # No true difference, 10 % of the answers differ, a margin of 2 points.
    needed = fractions_needed(0.0, 0.1, 0.95, 0.8, margin=0.02)
    assert needed == math.ceil(((Z * (0.1 - 0.0004) ** 0.5 + Z_POWER * 0.1**0.5) / 0.02) ** 2)
    drawn = np.random.default_rng(7).multinomial(needed, [0.05, 0.05, 0.9], size=2000)
    intervals = [paired.fractions_interval(only_a, only_b, needed, 0.95) for only_b, only_a, _ in drawn]
    assert np.mean([low > -0.02 for low, _ in intervals]) == pytest.approx(0.8, abs=0.04)
    # What is worse by the margin or more will not be shown to be better than that.
    assert fractions_needed(-0.02, 0.1, 0.95, 0.8, margin=0.02) is None
    # No answer differs: the margin alone says how many; 2 points of which none was seen in 1.96^2 0.98 / 0.02.
    assert fractions_needed(0.0, 0.0, 0.95, 0.8, margin=0.02) == math.ceil(Z**2 * (0.02 - 0.0004) / 0.0004)


def test_means_needed_by_hand_and_by_simulation():
    # A difference of half a deviation: (2.801585 / 0.5)^2 + 1.920729.
    needed = means_needed(0.5, 1.0, 0.95, 0.8)
    assert needed == math.ceil((Z + Z_POWER) ** 2 * 4 + Z**2 / 2) == 34
    drawn = np.random.default_rng(8).normal(0.5, 1.0, size=(2000, needed))
    assert np.mean([paired.t_test_p(row) < 0.05 for row in drawn]) == pytest.approx(0.8, abs=0.04)
    assert means_needed(0.1, 1.0, 0.95, 0.8, margin=0.4) == needed
    assert means_needed(-0.4, 1.0, 0.95, 0.8, margin=0.4) is None
    assert means_needed(0.0, 1.0, 0.95, 0.8) is None
    assert means_needed(100.0, 1.0, 0.95, 0.8) == 6


@pytest.mark.parametrize("disagreement", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("pairs", [50, 1000])
def test_detectable_fraction_is_what_so_many_examples_are_needed_for(pairs, disagreement):
    seen = fractions_detectable(pairs, disagreement, 0.95, 0.8)
    assert fractions_needed(seen, max(disagreement, seen), 0.95, 0.8) == pairs
    assert fractions_detectable(3, disagreement, 0.95, 0.8) is None


def test_detectable_mean_is_what_so_many_pairs_are_needed_for():
    seen = means_detectable(40, 2.0, 0.95, 0.8)
    assert means_needed(seen * 1.0001, 2.0, 0.95, 0.8) == 40
    assert means_detectable(5, 2.0, 0.95, 0.8) is None
