"""The synthetic result with judgements, a test split, notes and an identity."""

import dataclasses

from report_records import make_measurement, make_result

from kopt.core.records.measurements import Energy
from kopt.core.records.search.judgement import ClassChange, Judgement


def make_judgement(before, after, low, high, verdict, examples=2000, needed=None, classes=()):
    ends = ((before - 0.006, before + 0.005), (after - 0.007, after + 0.005))
    return Judgement(
        "accuracy", examples, before, after, *ends, low, high, 0.95, "Bootstrap interval", verdict, needed, classes
    )


def make_judged(**changes):
    """int8 loses 0.10 points, at most 1.20 by its interval, and five points of class 7; 500 test examples."""
    result = make_result()
    classes = (ClassChange("3", 200, 0.98, 0.99, -0.04, 0.02), ClassChange("7", 180, 1.0, 0.95, 0.01, 0.10))
    judged = make_judgement(0.98, 0.979, -0.010, 0.012, "undecided", needed=4_321, classes=classes)
    energy = Energy(0.5, "estimate: 10 int8 multiply-accumulates; not measured", False)
    best = dataclasses.replace(
        result.candidates[2], judgement=judged, measurement=make_measurement("int8", 1.0, energy=energy)
    )
    given = dataclasses.replace(
        result.baseline,
        measurement=make_measurement("keras", 4.0, "Keras", energy=dataclasses.replace(energy, millijoules=2.0)),
    )
    candidates = (*result.candidates[:2], best, *result.candidates[3:])
    settings = {
        "baseline": given,
        "candidates": candidates,
        "test": make_judgement(0.97, 0.96, 0.002, 0.018, "undecided", examples=500),
        "identity": {"model": "a" * 64, "data": "b" * 64},
        "notes": ("run also holds 2 finished candidates of another model; not used and left as they are.",),
    }
    return dataclasses.replace(result, **{**settings, **changes})
