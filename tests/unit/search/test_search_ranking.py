import dataclasses

import pytest
from search_cases import BASELINE, candidate, change, judgement

from kopt.core.errors import ConfigError
from kopt.core.records.candidates import Candidate, ExportConfig
from kopt.core.records.measurements import Evaluation
from kopt.core.records.search.budget import Budget
from kopt.search.judging.ranking import dominates, nearest_of, rank, target_reached
from kopt.search.techniques.catalog import CATALOG, select


def test_the_fastest_inside_the_budget_wins_not_the_fastest():
    fast, middle, slow = candidate("fast", 0.90, 1.0), candidate("middle", 0.945, 2.0), candidate("slow", 0.95, 3.0)
    ranked, best = rank((fast, middle, slow), BASELINE, Budget(0.01))
    assert best == "middle"
    assert [c.within_budget for c in ranked] == [False, True, True]
    assert ranked[0].drop == pytest.approx(0.05)
    assert ranked[0].verdict == "over budget: loses 5.00 points, 1.00 allowed"
    assert ranked[2].verdict == "inside the budget, 1.50x slower than the best"


def test_a_metric_that_is_no_fraction_is_not_counted_in_points():
    def scored(name, error):
        return dataclasses.replace(candidate(name, 0), evaluation=Evaluation(name, "LiteRT", 100, {"r2": error}))

    ranked, _ = rank((scored("worse", 0.90),), scored("baseline", 0.95), Budget(0.01, metric="r2"))
    assert ranked[0].verdict == "over budget: loses 0.0500 of r2, 0.0100 allowed"


@pytest.mark.parametrize(("objective", "winner"), [("latency", "a"), ("size", "b"), ("energy", "c")])
def test_the_objective_decides(objective, winner):
    rows = (
        candidate("a", 0.95, 1.0, 30, 3.0),
        candidate("b", 0.95, 2.0, 10, 2.0),
        candidate("c", 0.95, 3.0, 20, 1.0),
    )
    assert rank(rows, BASELINE, Budget(0.01, objective))[1] == winner


def test_a_drop_equal_to_the_budget_is_inside():
    # 0.95 - 0.94 is 0.010000000000000009 in binary arithmetic.
    ranked, best = rank((candidate("a", 0.94),), BASELINE, Budget(0.01))
    assert best == "a"
    assert ranked[0].within_budget
    # Keras gives 17/100 as the nearest float32, and 0.18 - 0.17 in float32 is 0.0100000054.
    ranked, best = rank((candidate("a", 0.17000000178813934),), candidate("b", 0.18000000715255737), Budget(0.01))
    assert best == "a"
    assert ranked[0].within_budget


def test_nothing_inside_the_budget_is_no_best():
    ranked, best = rank((candidate("a", 0.5),), BASELINE, Budget(0.01))
    assert best is None
    assert ranked[0].pareto


def test_ties_go_to_the_smaller_file():
    assert rank((candidate("big", 0.95, 1.0, 20), candidate("small", 0.95, 1.0, 10)), BASELINE, Budget())[1] == "small"


def test_the_pareto_front_by_hand():
    rows = (
        candidate("accurate", 0.95, 5.0, 50),
        candidate("fast", 0.90, 1.0, 50),
        candidate("small", 0.90, 5.0, 10),
        candidate("beaten by accurate", 0.94, 5.0, 50),
        candidate("equal to fast", 0.90, 1.0, 50),
    )
    ranked, _ = rank(rows, BASELINE, Budget(1.0))
    assert [c.name for c in ranked if c.pareto] == ["accurate", "fast", "small", "equal to fast"]
    assert not dominates(rows[1], rows[4], Budget())


def test_a_failed_candidate_is_reported_and_never_wins():
    failed = Candidate("broken", ExportConfig(), "failed", reason="ExportError: crash\nmore")
    ranked, best = rank((failed, candidate("a", 0.95)), BASELINE, Budget())
    assert best == "a"
    assert ranked[0].verdict == "failed: ExportError: crash"
    assert not ranked[0].pareto


def test_the_catalog_has_a_row_for_every_scheme_and_names_the_nearest():
    assert {"tflite-float32", "tflite-float16", "tflite-dynamic", "tflite-int8", "tflite-int16x8", "tflite-int4"} < set(
        CATALOG
    )
    assert [row.name for row in select(("onnx", "tflite-int8"))] == ["onnx", "tflite-int8"]
    with pytest.raises(ConfigError, match=r"e.g. \['onnx'\]"):
        select("onnx")
    with pytest.raises(ConfigError, match="Did you mean 'tflite-int8'"):
        select(("tflite_int8",))


UNSURE = judgement(0.95, 0.945, -0.005, 0.015, "undecided")
SURE = judgement(0.95, 0.945, -0.002, 0.009, "inside")
BEYOND = judgement(0.95, 0.93, 0.012, 0.028, "outside")


def test_an_open_drop_counts_by_its_estimate_or_as_outside():
    rows = (candidate("open", 0.945, 1.0, judgement=UNSURE), candidate("sure", 0.945, 2.0, judgement=SURE))
    ranked, best = rank(rows, BASELINE, Budget(0.01))
    assert best == "open"
    assert ranked[0].verdict == "best: smallest latency, undecided"
    assert ranked[0].doubt == "drop -0.50 to 1.50 on 200 examples"
    assert ranked[1].doubt == ""
    assert ranked[1].verdict == "inside the budget, 2.00x slower than the best"
    ranked, best = rank(rows, BASELINE, Budget(0.01, undecided="outside"))
    assert best == "sure"
    assert ranked[0].verdict == "over budget: may lose 1.50 points, 1.00 allowed"
    assert ranked[0].shortfalls[0].got == 0.015


def test_a_sure_loss_is_outside_by_either_rule():
    for rule in ("estimate", "outside"):
        ranked, best = rank((candidate("a", 0.93, judgement=BEYOND),), BASELINE, Budget(0.01, undecided=rule))
        assert best is None
        assert ranked[0].verdict == "over budget: loses 2.00 points, 1.00 allowed"


def test_times_within_two_percent_are_equal_and_the_sure_one_goes_first():
    quick = candidate("quick", 0.945, 1.0, judgement=UNSURE)
    assert rank((quick, candidate("sure", 0.945, 1.019, judgement=SURE)), BASELINE, Budget(0.01))[1] == "sure"
    assert rank((quick, candidate("sure", 0.945, 1.021, judgement=SURE)), BASELINE, Budget(0.01))[1] == "quick"
    # Sizes are exact.
    small = candidate("small", 0.945, size=1000, judgement=UNSURE)
    large = candidate("large", 0.945, size=1001, judgement=SURE)
    assert rank((small, large), BASELINE, Budget(0.01, "size"))[1] == "small"


def test_among_equal_times_the_smaller_loss_goes_first():
    rows = (candidate("loses", 0.945, 1.0, 10), candidate("keeps", 0.95, 1.01, 20))
    assert rank(rows, BASELINE, Budget(0.01))[1] == "keeps"


def test_of_several_objectives_the_smallest_product_wins():
    rows = (
        candidate("fast", 0.95, 1.0, 900),  # 900
        candidate("small", 0.95, 8.0, 100),  # 800
        candidate("both", 0.95, 2.0, 300),  # 600
        candidate("beaten", 0.95, 2.0, 301),
    )
    ranked, best = rank(rows, BASELINE, Budget(0.01, ("latency", "size")))
    assert best == "both"
    assert [one.name for one in ranked if one.pareto] == ["fast", "small", "both"]
    # The square root of 800 / 600.
    assert ranked[1].verdict == "inside the budget, 1.15x worse in latency and size together than the best"


def test_the_front_is_over_the_objectives_and_no_other_cost():
    rows = (
        candidate("a", 0.95, 1.0, 300, 2.0),
        candidate("b", 0.95, 2.0, 100, 3.0),
        candidate("c", 0.95, 3.0, 50, 1.0),
    )
    ranked, _ = rank(rows, BASELINE, Budget(0.01, ("latency", "energy")))
    assert [one.pareto for one in ranked] == [True, False, True]  # b is small, which was not asked


def test_more_throughput_is_better():
    rows = (candidate("a", 0.95, 2.0), candidate("b", 0.95, 1.0))
    ranked, best = rank(rows, BASELINE, Budget(0.01, "throughput"))
    assert best == "b"
    assert ranked[0].verdict == "inside the budget, 2.00x less throughput than the best"


def test_memory_is_an_objective_and_what_is_not_known_never_wins():
    rows = (candidate("a", 0.95, memory=300), candidate("b", 0.95, memory=200), candidate("unknown", 0.95))
    assert rank(rows, BASELINE, Budget(0.01, "memory"))[1] == "b"


def test_constraints_bind_and_say_by_what_they_are_missed():
    rows = (candidate("fast", 0.95, 1.0, 3000), candidate("small", 0.95, 4.0, 1000))
    budget = Budget(0.01, constraints=("size_bytes<=2000", "accuracy>=0.9", "peak_memory_bytes<=5"))
    ranked, best = rank(rows, BASELINE, budget)
    assert best is None
    assert ranked[0].verdict == "misses size_bytes<=2000: is 3,000; misses peak_memory_bytes<=5: is not known"
    assert rank(rows, BASELINE, dataclasses.replace(budget, constraints=("size_bytes<=2000",)))[1] == "small"


def test_an_average_does_not_hide_a_lost_class():
    classes = (change("0", 1.0, 1.0, -0.1, 0.1), change("7", 0.95, 0.85, 0.02, 0.2))
    lost = judgement(0.95, 0.95, -0.01, 0.009, "inside", classes, "outside")
    row = candidate("a", 0.95, judgement=lost)
    assert rank((row,), BASELINE, Budget(0.01))[1] == "a"
    ranked, best = rank((row,), BASELINE, Budget(0.01, max_class_drop=0.05))
    assert best is None
    assert ranked[0].verdict == "over budget: class 7 loses 10.00 points, 5.00 allowed"
    # By the end of its interval class 0 may lose 10 points, class 7 twenty.
    sure = rank((row,), BASELINE, Budget(0.01, max_class_drop=0.15, undecided="outside"))[0][0]
    assert [(one.demand, one.got) for one in sure.shortfalls] == [("drop of class 7", 0.2)]
    assert rank((row,), BASELINE, Budget(0.01, max_class_drop=0.15))[1] == "a"


def test_a_class_of_too_few_examples_is_said_to_be_open():
    classes = (change("0", 1.0, 1.0, -0.02, 0.04), change("7", 1.0, 0.95, -0.05, 0.16))
    row = candidate("a", 0.95, judgement=judgement(0.95, 0.95, -0.01, 0.009, "inside", classes, "undecided"))
    question = "class 7 drop -5.00 to 16.00 on 20 examples"
    ranked, best = rank((row,), BASELINE, Budget(0.01, max_class_drop=0.06))
    assert (best, ranked[0].verdict, ranked[0].doubt) == ("a", "best: smallest latency, undecided", question)
    ranked, best = rank((row,), BASELINE, Budget(0.01, max_class_drop=0.04))
    assert (best, ranked[0].verdict) == (None, "over budget: class 7 loses 5.00 points, 4.00 allowed")
    assert ranked[0].doubt == question


def test_the_nearest_misses_by_the_smallest_share():
    budget = Budget(0.01, constraints=("size_bytes<=1000",))
    rows = (
        candidate("large", 0.95, size=1300),  # 30 % too large
        candidate("near", 0.935, size=1200),  # 0.005 below the 0.94 that are needed, and 20 % too large: 20.5 %
        candidate("poor", 0.64, size=900),  # 0.3 below 0.94: 32 %
    )
    ranked, best = rank(rows, BASELINE, budget)
    assert best is None
    assert nearest_of(ranked, budget) == "near"
    assert sum(one.excess for one in ranked[1].shortfalls) == pytest.approx(0.2 + 0.005 / 0.94)
    assert nearest_of((), budget) is None


def test_a_target_is_reached_by_a_file_inside_the_budget_alone():
    budget = Budget(0.01, ("latency", "size"), target={"latency": 5, "size": 4})
    (row,), _ = rank((candidate("a", 0.95, 2.0, 1250),), BASELINE, budget)  # 5 times faster, 4 times smaller
    assert target_reached(row, BASELINE, budget, None) is True
    assert target_reached(row, BASELINE, dataclasses.replace(budget, target=5.0), None) is False
    assert target_reached(row, BASELINE, Budget(), None) is None
    (worse,), _ = rank((candidate("a", 0.5, 2.0, 1250),), BASELINE, budget)
    assert target_reached(worse, BASELINE, budget, None) is False
    bare = dataclasses.replace(BASELINE, artifact=None)
    assert target_reached(row, bare, budget, 5000) is True
    assert target_reached(row, bare, budget, None) is False
