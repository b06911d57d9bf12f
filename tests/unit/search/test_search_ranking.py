import dataclasses

import pytest

from kopt.core.errors import ConfigError
from kopt.core.records import (
    Artifact,
    Budget,
    Candidate,
    Energy,
    Evaluation,
    ExportConfig,
    Latency,
    Machine,
    Measurement,
)
from kopt.search.catalog import CATALOG, select
from kopt.search.ranking import dominates, rank

MACHINE = Machine("Linux", "cpu", 2, 1, (), "3.11", {})


def candidate(name, accuracy, latency_ms=1.0, size=1000, millijoules=None):
    latency = Latency(1, 10, 1, latency_ms, latency_ms, latency_ms, latency_ms, latency_ms, 1000 / latency_ms)
    energy = None if millijoules is None else Energy(millijoules, "meter", True)
    artifact = Artifact(name, "tflite", "int8", size, size, "", "", (), (), (), {}, {})
    return Candidate(
        name,
        ExportConfig(),
        "ok",
        artifact=artifact,
        evaluation=Evaluation(name, "LiteRT", 100, {"accuracy": accuracy}),
        measurement=Measurement(name, "LiteRT", None, (latency,), MACHINE, energy=energy),
    )


BASELINE = candidate("baseline", 0.95, 10.0, 5000)


def test_the_fastest_inside_the_budget_wins_not_the_fastest():
    fast, middle, slow = candidate("fast", 0.90, 1.0), candidate("middle", 0.945, 2.0), candidate("slow", 0.95, 3.0)
    ranked, best = rank((fast, middle, slow), BASELINE, Budget(0.01))
    assert best == "middle"
    assert [c.within_budget for c in ranked] == [False, True, True]
    assert ranked[0].drop == pytest.approx(0.05)
    assert ranked[0].verdict == "over budget: loses 5.00 points, 1.00 allowed"
    assert ranked[2].verdict == "inside the budget, 1.50x slower than middle"


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
