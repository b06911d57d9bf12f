import pytest

from kopt.profile.timing.intervals import Interval, divided, innermost, sums


def test_an_interval_inside_another_cuts_it_in_two():
    outer, inner = Interval(0, 10, 1), Interval(2, 5, 2)
    assert innermost([inner, outer]) == [Interval(0, 2, 1), Interval(2, 5, 2), Interval(5, 10, 1)]


def test_what_lies_three_deep_counts_for_the_innermost_only():
    cut = innermost([Interval(0, 10, 1), Interval(1, 9, 2), Interval(2, 3, 3), Interval(4, 6, 3)])
    # 10 in all: key 3 has 1 + 2, key 2 the other 8 - 3 = 5, key 1 the outer two.
    assert sums(cut) == {1: 2, 2: 5, 3: 3}


def test_intervals_that_only_touch_stay_as_they_are():
    one, two = Interval(0, 4, 1), Interval(4, 6, 2)
    assert innermost([one, two]) == [one, two]


def test_a_gap_between_intervals_belongs_to_nobody():
    assert sums(innermost([Interval(0, 1, 1), Interval(5, 6, 1)])) == {1: 2}


def test_what_starts_together_with_its_parent_is_inside_it():
    assert sums(innermost([Interval(0, 3, 2), Interval(0, 10, 1)])) == {1: 7, 2: 3}


def test_a_helper_stays_a_helper_when_it_is_cut():
    cut = innermost([Interval(0, 4, 1, helper=True), Interval(1, 2, 2)])
    assert [piece.helper for piece in cut] == [True, False, True]


def test_two_threads_share_the_time_in_which_both_run():
    # 0-4 alone for key 1: 4. 4-10 together: 3 each. 10-12 alone for key 2: 2.
    times = divided([[Interval(0, 10, 1)], [Interval(4, 12, 2)]])
    assert times == {1: 7, 2: 5}


def test_an_operation_with_a_helper_counts_twice_against_another_one():
    # Three threads for 6: key 1 has two of them.
    times = divided([[Interval(0, 6, 1)], [Interval(0, 6, 1, helper=True)], [Interval(0, 6, 2)]])
    assert times == pytest.approx({1: 4, 2: 2})


def test_the_shares_add_up_to_the_time_in_which_anything_runs():
    threads = [
        [Interval(0, 3, 1), Interval(3, 7, 2), Interval(20, 21, 5)],
        [Interval(1, 2, 3), Interval(6, 9, 4)],
        [Interval(2.5, 8, 1, helper=True)],
    ]
    # Union: 0 to 9 and 20 to 21.
    assert sum(divided(threads).values()) == pytest.approx(10)


def test_an_empty_interval_has_no_share():
    assert divided([[Interval(1, 1, 1)]]) == {}
