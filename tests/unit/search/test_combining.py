"""Which techniques are tried together, by numbers of each alone."""

import pytest

from kopt.search.proposing.combining import Combination, Part, promising, rung, why_none, why_not
from kopt.search.techniques.catalog import CATALOG
from kopt.search.training import Training


def part(technique, strength, drop, left):
    row = CATALOG[technique]
    return Part(row.step(**{row.strength: strength}), drop, left, "the parameters")


SEPARABLE = part("depthwise_separable", 1.0, 0.004, 0.30)
RANK = part("low_rank", 0.5, 0.002, 0.60)
HEADS = part("heads", 0.5, 0.001, 0.80)
MILD, STRONG = part("channels", 0.75, 0.001, 0.60), part("channels", 0.5, 0.005, 0.40)
ZEROS, CODES = part("magnitude", 0.7, 0.0, 0.50), part("cluster", 16, 0.001, 0.30)


def names(found):
    return [one.name for one in found]


def test_shares_are_multiplied_and_losses_added():
    one = Combination((SEPARABLE, STRONG))
    assert one.left == pytest.approx(0.12)
    assert one.drop == pytest.approx(0.009)
    won = part("channels", 0.75, -0.02, 0.5)
    assert Combination((SEPARABLE, won)).drop == 0.004, "what one won does not pay for another"


def test_those_expected_inside_come_first_by_what_they_leave():
    """With 0.006 allowed: 0.30 x 0.60 and 0.005 is inside; 0.30 x 0.40 and 0.009 is not, and no third is.

    Rank may not follow the separable form, and 0.60 x 0.60 is more than 0.9 of the 0.30 that that leaves alone.
    """
    assert names(promising((SEPARABLE, RANK, MILD, STRONG), 0.006)) == [
        "low_rank-0.5+channels-0.5",  # 0.24 and 0.007
        "depthwise_separable-1+channels-0.75",
        "depthwise_separable-1+channels-0.5",
    ]


def test_few_are_looked_at_and_few_of_the_same_techniques():
    strengths = [part("channels", keep, 0.001, keep**2) for keep in (0.8, 0.7, 0.6, 0.5, 0.4)]
    heads = [part("heads", keep, 0.001, keep) for keep in (0.75, 0.5, 0.25)]
    found = promising((*strengths, *heads), 0.01)
    # The two that leave least: 0.16 x 0.25 and, as 0.25 x 0.25 is 0.0625 and 0.16 x 0.5 is 0.08, the former.
    assert names(found) == ["channels-0.5+heads-0.25", "channels-0.4+heads-0.25"]
    many = promising((*strengths, *heads, *(part("low_rank", rank, 0.001, rank) for rank in (0.75, 0.5))), 0.01)
    assert len(many) == 4
    assert [one.left for one in many] == sorted((one.left for one in many), reverse=True)


def test_what_leaves_no_less_than_the_best_alone_is_not_worth_a_training():
    tiny = part("channels", 0.25, 0.001, 0.05)
    assert promising((tiny, part("heads", 0.5, 0.001, 0.95)), 0.01) == ()
    assert why_none((tiny, part("heads", 0.5, 0.001, 0.95))) == (
        "channels and heads were not combined: together they promise no less than 90% of what the best leaves alone."
    )


def test_trainings_that_compress_are_a_list_of_their_own():
    assert promising((MILD, CODES), 0.01) == ()
    assert names(promising((MILD, CODES), 0.01, packed=True)) == ["channels-0.75+cluster-16-3"]


def test_an_order_that_is_not_legal_is_named():
    assert "'low_rank' (restructure) may not come after" in why_not(Combination((SEPARABLE, RANK)))
    assert why_none((SEPARABLE, RANK)).startswith("Nothing was combined: 'low_rank' (restructure)")
    assert why_none((SEPARABLE,)) == "Nothing was combined: only depthwise_separable holds the budget alone."
    assert why_none(()) == "Nothing was combined: no technique holds the budget alone."


@pytest.mark.parametrize(
    ("parts", "brief", "full"),
    [
        ((SEPARABLE, MILD), "s+c+recover-2", "s+c+recover-2+recover-6"),
        ((MILD, CODES), "c+recover-2+cluster-16-2", "c+recover-2+recover-6+cluster-16-3"),
        # Zeros are trained into what channels left; a training without masks before them is not legal.
        ((MILD, ZEROS), "c+magnitude-0.7-2", "c+magnitude-0.7-3"),
        ((ZEROS, CODES), "magnitude-0.7-2+cluster-16-2", "magnitude-0.7-3+cluster-16-3"),
    ],
)
def test_all_changes_come_first_and_one_training_after_them(parts, brief, full):
    """Of 8 epochs 2 are brief; a technique that trains by itself has the epochs that it was tried with alone."""
    found = rung(Combination(parts), Training(epochs=8), 0.01)
    short = {"depthwise_separable-1": "s", "channels-0.75": "c"}
    for steps, expected in ((found.brief, brief), (found.full, full)):
        assert "+".join(short.get(step.label, step.label) for step in steps) == expected
        assert why_not(Combination(parts)) == ""
