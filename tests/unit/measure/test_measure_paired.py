import itertools

import numpy as np
import pytest
from scipy import stats

from kopt.measure import paired

RNG = np.random.default_rng(0)


def test_bca_interval_is_that_of_scipy():
    skewed = np.random.default_rng(1).exponential(size=60) - 0.8
    ours = paired.bca_interval(skewed, 0.95, 20_000, seed=0)
    theirs = stats.bootstrap((skewed,), np.mean, n_resamples=20_000, method="BCa", random_state=1).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.02 * width)


def test_few_distinct_values_are_drawn_by_count_and_give_the_same_interval():
    answers = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], size=400, p=[0.05, 0.85, 0.1])
    by_count = paired.bca_interval(answers, 0.9, 20_000, seed=0)
    noise = np.random.default_rng(3).normal(scale=1e-9, size=400)  # Too many values to count them.
    by_index = paired.bca_interval(answers + noise, 0.9, 20_000, seed=0)
    assert by_count.low == pytest.approx(by_index.low, abs=0.003)
    assert by_count.high == pytest.approx(by_index.high, abs=0.003)


@pytest.mark.parametrize("interval", ["bca", "t", "median"])
def test_intervals_contain_the_truth_as_often_as_they_say(interval):
    # Of 400 intervals of 90 %, 360 contain it; the binomial deviation is 6, four of them are 24.
    make = {
        "bca": lambda values: paired.bca_interval(values, 0.9, 1000, seed=0),
        "t": lambda values: paired.t_interval(values, 0.9),
        "median": lambda values: paired.median_interval(values, 0.9),
    }[interval]
    size = {"bca": 60, "t": 6, "median": 61}[interval]
    values = np.random.default_rng(4).normal(0.3, 1.0, size=(400, size))
    covered = sum(low <= 0.3 <= high for low, high in map(make, values))
    assert 336 <= covered <= 390


def test_t_interval_by_hand():
    # Mean 2, standard deviation 1, standard error 1 / sqrt(3); t of 2 degrees of freedom at 0.975 is 4.302653.
    interval = paired.t_interval(np.array([1.0, 2.0, 3.0]), 0.95)
    assert interval.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-6)
    assert interval.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-6)


def test_sign_flips_are_gone_through():
    differences = np.array([3.0, -1.0, 2.0, 0.5])
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=4)]
    assert paired.sign_flip_p(differences) == np.mean([one >= 4.5 for one in sums])
    assert paired.sign_flip_p(np.full(5, 0.1)) == 2 / 32  # all plus and all minus


def test_mcnemar_by_hand():
    # 1 against 4: P(X <= 1) = (1 + 5) / 32, doubled 12/32, less P(X = 1) = 5/32.
    assert paired.mcnemar_p(1, 4) == pytest.approx(7 / 32)
    assert paired.mcnemar_p(4, 1) == pytest.approx(7 / 32)
    exact = stats.binomtest(3, 20, 0.5).pvalue
    assert paired.mcnemar_p(3, 17) == pytest.approx(exact - stats.binom.pmf(3, 20, 0.5))
    assert paired.mcnemar_p(5, 5) == paired.mcnemar_p(0, 0) == 1.0


def test_t_and_sign_test_are_those_of_scipy():
    values = np.random.default_rng(5).normal(0.2, 1, 40)
    assert paired.t_test_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert paired.sign_test_p(np.array([1.0, 2.0, -1.0, 3.0, 0.0])) == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert paired.t_test_p(np.zeros(3)) == 1.0


def test_bootstrap_interval_of_answers_is_only_used_where_enough_of_them_differ():
    # Two equally good models: with an expectation of 6 answers of 300 that differ, an interval of 95 % should leave out
    # 0 in 20 of 400 cases; the binomial deviation is 4.4. The bootstrap alone does so in about 36.
    drawn = np.random.default_rng(9).multinomial(300, [0.01, 0.01, 0.98], size=400)
    sound = [paired.fractions_interval(a, b, 300, 0.95) for a, b, _ in drawn]
    assert sum(not low <= 0 <= high for low, high in sound) <= 20
    resampled = [
        paired.bca_interval(np.repeat([-1.0, 1.0, 0.0], [a, b, 300 - a - b]), 0.95, 1000, seed=0)
        for a, b, _ in drawn
        if a + b
    ]
    assert sum(not low <= 0 <= high for low, high in resampled) > 28
    # 20 and more.
    drawn = np.random.default_rng(10).multinomial(300, [0.05, 0.05, 0.9], size=400)
    resampled = [
        paired.bca_interval(np.repeat([-1.0, 1.0, 0.0], [a, b, 300 - a - b]), 0.95, 1000, seed=0) for a, b, _ in drawn
    ]
    assert 7 <= sum(not low <= 0 <= high for low, high in resampled) <= 34


def test_answers_that_do_not_differ_leave_an_interval_of_some_width():
    # One added to each side: 2 of 102 differ, z = 1.959964: half width z sqrt(2 / 102 / 102).
    interval = paired.fractions_interval(0, 0, 100, 0.95)
    assert interval.high == pytest.approx(1.959964 * 2**0.5 / 102, rel=1e-6)
    assert interval.low == -interval.high


def test_error_of_an_interval():
    assert paired.error_of(paired.Interval(-1.959964, 1.959964), 0.95) == pytest.approx(1.0)
