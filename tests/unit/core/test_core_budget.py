import math

import pytest

from kopt.core.errors import ConfigError
from kopt.core.records.search.budget import Budget, Constraint


@pytest.mark.parametrize(
    ("text", "parts", "written"),
    [
        ("size_bytes<=200_000", ("size_bytes", "<=", 200_000.0), "size_bytes<=200000"),
        (" latency_ms <= 2 ", ("latency_ms", "<=", 2.0), "latency_ms<=2"),
        ("auc>=0.9", ("auc", ">=", 0.9), "auc>=0.9"),
        ("peak_memory_bytes<=2e6", ("peak_memory_bytes", "<=", 2e6), "peak_memory_bytes<=2000000"),
    ],
)
def test_a_constraint_is_read_and_written(text, parts, written):
    read = Constraint.parse(text)
    assert (read.quantity, read.relation, read.bound) == parts
    assert str(read) == written
    assert Constraint.parse(str(read)) == read


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("size_bytes<200", ("a quantity, <= or >=, and a number", "'size_bytes<200'", "Costs: latency_ms")),
        ("size_bytes<=small", ("a quantity, <= or >=, and a number",)),
        ("size_bytes<=nan", ("`bound` must be a finite number",)),
        ("latency<=2", ("'latency' has no unit", "'latency_ms'")),
        ("size_bytes<=0", ("Nothing can keep size_bytes<=0",)),
        ("accuracy>=90", ("accuracy lies in [0, 1]", "Received: accuracy>=90")),
    ],
)
def test_what_is_no_constraint_says_what_is(text, parts):
    with pytest.raises(ConfigError) as raised:
        Constraint.parse(text)
    for part in parts:
        assert part in str(raised.value)


def test_a_bound_holds_at_its_border_and_what_is_not_known_does_not():
    bound = Constraint("size_bytes", "<=", 200.0)
    assert [bound.holds(value) for value in (199, 200, 201, None, math.nan)] == [True, True, False, False, False]
    # 250 is a quarter of 200 too much; 0.6 is a third of 0.9 too little.
    assert bound.excess(250) == 0.25
    assert Constraint("auc", ">=", 0.9).excess(0.6) == pytest.approx(1 / 3)
    assert (bound.excess(100), bound.excess(None)) == (0.0, math.inf)


def test_contradictory_constraints_are_named():
    with pytest.raises(ConfigError, match="size_bytes>=300 and size_bytes<=200 contradict each other"):
        Budget(constraints=("size_bytes<=200", "size_bytes>=300"))
    Budget(constraints=("size_bytes<=200", "size_bytes>=200", "latency_ms>=300"))


def test_texts_become_constraints_and_everything_survives_json():
    budget = Budget(0.02, ["latency", "size"], "auc", "auc>=0.9", 0.05, 3, 0.9, "outside")
    assert budget.objective == ("latency", "size")
    assert budget.constraints == (Constraint("auc", ">=", 0.9),)
    assert budget.targets == {"latency": 3.0, "size": 3.0}
    assert Budget.from_json(budget.to_json()) == budget
    assert Budget.from_json(Budget().to_json()) == Budget()


def test_one_objective_in_a_tuple_is_that_objective():
    assert Budget(objective=("size",)) == Budget(objective="size")
    assert Budget(objective="size").objectives == ("size",)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"objective": ("latency", "sise")}, "Did you mean 'size'"),
        ({"objective": ("size", "size")}, "several different ones"),
        ({"objective": ()}, "several different ones"),
        ({"max_class_drop": 2}, r"`max_class_drop` is a fraction of the metric in \[0, 1\]"),
        ({"target": 0.5}, "factor by which the latency is to be better, above 1"),
        ({"target": {"speed": 2}}, "Unknown `target` 'speed'"),
        ({"target": {}}, "`target` is empty"),
        ({"level": 0.999}, "from 0.5 to 0.99"),
        ({"undecided": "inside"}, "Accepted: estimate, outside"),
        ({"metric": object()}, "`metric` of a budget is a name"),
    ],
)
def test_settings_that_cannot_be(settings, match):
    with pytest.raises(ConfigError, match=match):
        Budget(**settings)


def test_what_has_to_be_measured_and_evaluated():
    budget = Budget(objective="size", constraints=("peak_memory_bytes<=5", "auc>=0.9", "accuracy>=0.5"), target=2)
    asked = [name for name in ("size_bytes", "peak_memory_bytes", "millijoules", "latency_ms") if budget.needs(name)]
    assert asked == ["size_bytes", "peak_memory_bytes"]
    assert budget.metrics == ("accuracy", "auc")
    assert Budget(target={"energy": 2}).needs("millijoules")
