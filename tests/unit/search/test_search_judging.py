import numpy as np
import pytest
from scipy import stats

from kopt.core.records.search.budget import Budget
from kopt.measure.paired_power import fractions_needed
from kopt.report.parts.statistics import paired_interval
from kopt.search.judging.judgement import class_changes, counted_drop, judge, own_interval, position
from kopt.search.judging.outcomes import Outcomes, left_out_values, load, save


def answers(right, examples):
    scores = np.zeros(examples)
    scores[:right] = 1.0
    return Outcomes(right / examples, examples, scores)


def test_equal_answers_on_enough_examples_are_inside_and_on_few_cannot_be_told():
    # Bonett and Price: no example differs, n + 2 = 1,002: half the interval is 1.96 * sqrt(2 / 1002 / 1002) = 0.00277.
    sure = judge(answers(950, 1000), answers(950, 1000), Budget(0.01))
    assert sure.interval == pytest.approx((-0.0027664, 0.0027664), abs=1e-6)
    assert (sure.verdict, sure.drop) == ("inside", 0.0)
    assert judge(answers(95, 100), answers(95, 100), Budget(0.01)).verdict == "undecided"  # half of it is 0.0272


def test_a_drop_is_paired_by_example():
    # 12 answers are lost and 2 won of 2,000: the drop is 0.5 points, and 14 differ.
    before, after = answers(1900, 2000), answers(1888, 2000)
    after.scores[1900:1902] = 1.0
    found = judge(before, Outcomes(0.945, 2000, after.scores), Budget(0.01))
    assert found.drop == pytest.approx(0.005)
    assert found.interval == pytest.approx(paired_interval(0.005, 14 / 2000, 2000), abs=1e-9)
    assert found.verdict == "inside"
    assert judge(before, Outcomes(0.945, 2000, after.scores), Budget(0.001)).verdict == "outside"
    assert judge(before, Outcomes(0.945, 2000, after.scores), Budget(0.005)).verdict == "undecided"


def test_more_examples_are_asked_for_only_where_they_would_help():
    before, after = answers(190, 200), answers(189, 200)
    found = judge(before, after, Budget(0.01))
    assert found.verdict == "undecided"
    # It gains -0.005 where -0.01 does not matter, and 0.5 % of the answers differ.
    assert found.examples_needed == fractions_needed(-0.005, 0.005, 0.95, 0.8, margin=0.01)
    assert judge(before, answers(187, 200), Budget(0.01)).examples_needed is None  # it loses 1.5 points


def test_the_ends_decide():
    assert position((-0.02, 0.01), 0.01) == "inside"
    assert position((0.0100001, 0.03), 0.01) == "undecided"  # Keras counts in float32
    assert position((0.0101, 0.03), 0.01) == "outside"
    assert position((0.0, 0.02), 0.01) == position(None, 1.0) == "undecided"


def test_classes_by_hand():
    before = np.array([1, 1, 1, 1, 0, 1.0])
    after = np.array([1, 0, 0, 1, 1, 1.0])
    found = class_changes(Outcomes(5 / 6, 6, before), Outcomes(4 / 6, 6, after), np.array([3, 3, 3, 3, 5, 5]), 0.95)
    assert [(one.label, one.examples, one.before, one.after) for one in found] == [
        ("3", 4, 1.0, 0.5),
        ("5", 2, 0.5, 1.0),
    ]
    assert [one.drop for one in found] == [0.5, -0.5]
    low, high = paired_interval(0.5, 0.5, 4)  # two of four lost
    assert (found[0].low, found[0].high) == pytest.approx((low, min(high, 1.0)))


def test_the_worst_class_is_judged_against_its_floor():
    classes = np.repeat([0, 1], 500)
    before = Outcomes(1.0, 1000, np.ones(1000))
    scores = np.ones(1000)
    scores[:100] = 0  # a fifth of class 0
    after = Outcomes(0.9, 1000, scores)
    assert judge(before, after, Budget(0.5, max_class_drop=0.1), classes).worst_class == "outside"
    assert judge(before, after, Budget(0.5, max_class_drop=0.21), classes).worst_class == "undecided"
    assert judge(before, after, Budget(0.5, max_class_drop=0.3), classes).worst_class == "inside"
    assert judge(before, after, Budget(0.5), classes).worst_class == ""
    assert judge(before, after, Budget(0.5), classes).most_changed.label == "0"


def test_a_drop_counts_as_the_budget_says():
    """Class 0 loses 3 of 10 answers and class 1 none of 90: 3 points of all."""
    before, after, classes = answers(100, 100), answers(100, 100), np.array([0] * 10 + [1] * 90)
    after.scores[:3] = 0.0
    after = Outcomes(0.97, 100, after.scores)

    def counted(**settings):
        budget = Budget(0.05, **settings)
        found = judge(before, after, budget, classes)
        return counted_drop(found, budget), found

    assert counted()[0] == pytest.approx(0.03)
    sure, found = counted(undecided="outside")
    assert sure == found.high > 0.05
    assert counted(max_class_drop=0.3)[0] == pytest.approx(0.05)  # what is allowed, exactly
    assert counted(max_class_drop=0.1)[0] == pytest.approx(0.05 + 0.3 - 0.1)
    sure, found = counted(max_class_drop=0.1, undecided="outside")
    assert sure == pytest.approx(0.05 + found.classes[0].high - 0.1)


def test_a_mean_by_the_jackknife_is_that_of_its_groups():
    # For a mean the values without a group are those of the groups turned round: the interval is Student's of groups.
    values = np.random.default_rng(0).normal(size=400)
    left_out = left_out_values(400, lambda rows: float(values[rows].mean()))
    found = own_interval(Outcomes(float(values.mean()), 400, left_out=left_out), 0.95)
    order = np.random.default_rng(0).permutation(400)
    groups = [values[order[np.arange(400) % 20 == group]].mean() for group in range(20)]
    half = stats.t.ppf(0.975, 19) * np.std(groups, ddof=1) / np.sqrt(20)
    assert found == pytest.approx((values.mean() - half, values.mean() + half))


@pytest.mark.slow
def test_the_jackknife_of_a_difference_covers_the_truth():
    """The area under the curve of two scorers that share most of their noise: 300 draws, 95 % nominal."""
    generator, covered, draws = np.random.default_rng(1), 0, 300

    def area(scores, labels):
        ranks = stats.rankdata(scores)
        positives = int(labels.sum())
        return (ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))

    # Shifts of 1.0 and 0.9 with noise of 1: P(positive above negative) = Phi(shift / sqrt(2)).
    truth = stats.norm.cdf(1.0 / np.sqrt(2)) - stats.norm.cdf(0.9 / np.sqrt(2))
    for _ in range(draws):
        labels = np.arange(400) % 2
        noise = generator.normal(size=400)
        sides = []
        for shift in (1.0, 0.9):
            scores = shift * labels + np.sqrt(0.9) * noise + np.sqrt(0.1) * generator.normal(size=400)
            left_out = left_out_values(400, lambda rows, s=scores, y=labels: area(s[rows], y[rows]))
            sides.append(Outcomes(area(scores, labels), 400, left_out=left_out))
        low, high = judge(*sides, Budget(0.01, metric="auc")).interval
        covered += low <= truth <= high
    assert 0.91 <= covered / draws <= 0.99


def test_one_example_has_no_interval():
    found = judge(answers(1, 1), answers(1, 1), Budget(0.01))
    assert (found.interval, found.before_interval, found.verdict) == (None, None, "undecided")
    assert left_out_values(1, lambda rows: 0.0) is None


@pytest.mark.parametrize(
    "outcomes",
    [
        answers(9_703, 9_997),
        Outcomes(0.5, 3, np.array([0.25, 0.5, 0.75])),
        Outcomes(0.9, 40, left_out=np.linspace(0.89, 0.91, 20)),
    ],
)
def test_outcomes_survive_and_are_small(tmp_path, outcomes):
    save(tmp_path / "o.npz", outcomes)
    read = load(tmp_path / "o.npz")
    assert (read.value, read.examples) == (outcomes.value, outcomes.examples)
    for name in ("scores", "left_out"):
        one, other = getattr(read, name), getattr(outcomes, name)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    assert (tmp_path / "o.npz").stat().st_size < 3_000


def test_damaged_outcomes_are_none(tmp_path):
    path = tmp_path / "o.npz"
    assert load(path) is None
    save(path, answers(50, 100))
    path.write_bytes(path.read_bytes()[:-40])
    assert load(path) is None
    np.savez(path, something=np.zeros(3))
    assert load(path) is None
