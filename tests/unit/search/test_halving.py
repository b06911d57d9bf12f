import pytest

from kopt.search.proposing.halving import Scored, between, halved, hopeless, inside


def kept(*drops, allowed=0.01):
    levels = (0.75, 0.5, 0.35, 0.25)
    judged = halved(
        [Scored(level, drop, f"loses {drop:.4f}") for level, drop in zip(levels, drops, strict=True)], allowed
    )
    return [one.level for one in judged if one.kept], {one.level: one.reason for one in judged}


def test_the_strongest_inside_goes_on_with_the_nearest_outside():
    """Of four, two: 0.5 is inside, and 0.35 nearer than 0.25; 0.75 is inside, too, and milder than needed."""
    levels, reasons = kept(0.001, 0.008, 0.02, 0.04)
    assert levels == [0.5, 0.35]
    assert reasons[0.75] == "loses 0.0010 of 0.0100 allowed, but 0.5 is stronger and inside the budget, too"
    assert reasons[0.25].endswith("others are nearer")


def test_with_none_inside_the_nearest_half_goes_on():
    assert kept(0.02, 0.03, 0.04, 0.05)[0] == [0.75, 0.5]


def test_a_stronger_one_that_lost_less_goes_on_before_a_milder_one():
    assert kept(0.04, 0.03, 0.02, 0.05)[0] == [0.5, 0.35]


def test_hopeless_ones_stop_even_where_there_is_room():
    """With 0.01 allowed, 0.26 is the end: ten times would be 0.1, and 0.25 more than allowed is 0.26."""
    assert not hopeless(0.26, 0.01)
    assert hopeless(0.261, 0.01)
    levels, reasons = kept(0.3, 0.4, 0.5, 0.6)
    assert levels == []
    assert "does not bring that back" in reasons[0.75]


def test_what_could_not_be_made_is_kept_out_with_its_problem():
    judged = halved([Scored(0.5, None, problem="no memory"), Scored(0.25, 0.0, "loses 0.0000")], 0.01)
    assert [(one.kept, one.reason) for one in judged] == [
        (False, "no memory"),
        (True, "loses 0.0000 of 0.0100 allowed: the strongest inside the budget"),
    ]


def test_a_drop_equal_to_the_budget_is_inside():
    assert inside(0.01 + 5e-7, 0.01)
    assert not inside(None, 0.01)


@pytest.mark.parametrize(
    ("within", "beyond", "expected"),
    [(0.5, 0.35, 0.425), (None, 0.75, 0.875), (0.25, None, None), (0.5, 0.46, None), (0.35, 0.25, 0.3)],
)
def test_the_next_strength_is_half_way(within, beyond, expected):
    assert between(within, beyond, 1.0, 0.05) == expected
