"""Scores of channels and what they make of widths, by hand."""

import numpy as np
import pytest

from kopt.core.records.changes.channel_pruning import NEED_DATA
from kopt.prune.channel_removal import criteria
from kopt.prune.channel_removal.widths import Candidate, best, by_rank, by_share, divisor_of, filled, rounded

ROWS = np.array([[3.0, -4.0], [0.0, 0.0], [1.0, 0.0]])


def test_norms():
    assert criteria.l1(ROWS).tolist() == [7, 0, 1]
    assert criteria.l2(ROWS).tolist() == [5, 0, 1]


def test_geometric_median_sums_the_distances_to_all_others():
    # |a - b| = 5, |a - c| = sqrt(4 + 16), |b - c| = 1.
    expected = [5 + 20**0.5, 5 + 1, 20**0.5 + 1]
    np.testing.assert_allclose(criteria.geometric_median(ROWS), expected, rtol=1e-6)


def test_lamp_is_the_share_of_what_is_left_with_the_row():
    # Squares 25, 0, 1: the smallest first 0 / 26, then 1 / 26, then 25 / 25.
    np.testing.assert_allclose(criteria.lamp(ROWS), [1, 0, 1 / 26])
    assert criteria.lamp(np.zeros((2, 2))).tolist() == [0, 0]


def test_taylor_squares_the_sum_of_products():
    assert criteria.taylor(ROWS, np.array([[1.0, 1.0], [5.0, 5.0], [2.0, 9.0]])).tolist() == [1, 0, 4]


def test_gradient_is_the_norm_of_the_gradients_alone():
    gradients = np.array([[0.0, 0.0], [5.0, 12.0], [-3.0, 4.0]])
    assert criteria.gradient(ROWS, gradients).tolist() == [0, 13, 5]
    assert criteria.gradient(100 * ROWS, gradients).tolist() == [0, 13, 5]


def test_fisher_halves_the_sum_of_squared_products_which_do_not_cancel():
    # Products 3, -4; 0, 0; 2, 0: halves of 9 + 16, 0, 4. The sum of the first row's is -1.
    gradients = np.array([[1.0, 1.0], [5.0, 5.0], [2.0, 9.0]])
    assert criteria.fisher(ROWS, gradients).tolist() == [12.5, 0, 2]
    assert criteria.taylor(ROWS, gradients).tolist() == [1, 0, 4]


def test_what_needs_data_is_said_where_no_numbers_are_known():
    assert set(NEED_DATA) == {*criteria.BY_GRADIENT, "activation"}
    assert set(NEED_DATA) < set(criteria.CRITERIA)
    assert len(set(criteria.CRITERIA)) == len(criteria.CRITERIA) == 10


def test_active_share_counts_positive_entries():
    assert criteria.active_share(np.array([[1.0, 0.0], [2.0, -1.0], [0.0, 3.0], [5.0, 0.0]])).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("units", "per_unit", "round_to", "expected"),
    [
        (64, 1, 8, 8),
        (16, 1, 8, 8),
        (15, 1, 8, 4),  # fewer than 2 * 8
        (6, 1, 8, 2),
        (3, 1, 8, 1),
        (10, 4, 8, 2),  # units of 4 channels: two of them are 8
        (4, 32, 8, 1),
        (64, 1, 1, 1),
        (100, 1, 6, 6),
    ],
)
def test_divisor(units, per_unit, round_to, expected):
    assert divisor_of(units, per_unit, round_to) == expected


def candidate(size, divisor=1, least=1):
    return Candidate(np.arange(size, dtype=float), divisor, least)


def test_widths_are_rounded_to_the_nearest_multiple_within_bounds():
    assert rounded(11.2, candidate(16, 8)) == 8
    assert rounded(12.0, candidate(16, 8)) == 16
    assert rounded(0.0, candidate(16, 8)) == 8
    assert rounded(0.0, candidate(16, 8, least=9)) == 16
    assert rounded(43.0, candidate(44, 8)) == 40
    assert rounded(44.0, candidate(44, 8)) == 44
    assert rounded(0.0, candidate(4, 1, least=9)) == 4


def test_shares_and_ranks():
    assert by_share([candidate(8, 2), candidate(10)], 0.5) == [4, 5]
    low, high = Candidate(np.array([0.1, 0.2, 0.9]), 1, 1), Candidate(np.array([0.8, 0.7, 0.6]), 1, 1)
    assert by_rank([low, high], 2) == [1, 3]
    assert by_rank([low, high], 4) == [1, 1]
    assert by_rank([low, high], 6) == [1, 1]


def test_the_best_keep_their_order():
    assert best(np.array([3.0, 1.0, 2.0, 3.0]), 2).tolist() == [0, 3]
    assert best(np.array([1.0, 1.0, 1.0]), 2).tolist() == [0, 1]


def test_what_rounding_took_too_much_comes_back_the_most_important_first():
    scores = np.array([9.0, 8, 7, 6, 5, 4, 3, 2])
    groups = [Candidate(scores, 2, 1), Candidate(scores / 10, 1, 1), Candidate(scores / 4, 4, 1)]
    # Units cost 1, 1 and 3. From 2 + 1 + 4 * 3 = 15: two pairs of the first group, the third's four for 12 do not fit,
    # the rest of the first, and then units of the second until 25 is reached.
    tried = []

    def fits(counts):
        tried.append(tuple(counts))
        return counts[0] + counts[1] + 3 * counts[2] <= 25

    assert filled(groups, [2, 1, 4], fits) == [8, 5, 4]
    assert tried[:4] == [(4, 1, 4), (6, 1, 4), (8, 1, 4), (8, 1, 8)]
    assert filled(groups, [2, 1, 4], lambda counts: False) == [2, 1, 4]
    assert filled(groups, [2, 1, 4], lambda counts: True) == [8, 8, 8]
