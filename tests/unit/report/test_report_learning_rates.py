import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from kopt.core.errors import TrainingError
from kopt.core.records.training.finders import LearningRateCurve
from kopt.report import LEARNING_RATES

RATES = tuple(np.geomspace(1e-6, 1.0, 7).tolist())


def make_curve(**changes):
    given = {
        "rates": RATES,
        "losses": (2.4, 2.2, 2.3, 1.5, 0.9, 0.7, 8.0),
        "smoothed": (2.3, 2.3, 2.2, 1.5, 0.9, 0.8, 1.2),
        "steepest": 1e-3,
        "valley": 2e-4,
        "minimum": 1e-2,
        "stopped": "diverged",
        "passes": 1,
    }
    return LearningRateCurve(**{**given, **changes})


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")]


def test_suggestions_are_named_and_equal_records_give_equal_bytes():
    svg = LEARNING_RATES.svg(make_curve())
    assert svg == LEARNING_RATES.svg(make_curve())
    assert {"steepest 0.001", "valley 0.0002", "minimum 0.01", "smoothed"} <= set(texts(svg))
    assert "Learning-rate range test: train with 0.001" in texts(svg)
    assert {"1e−06", "1e−02", "1"} <= set(texts(svg))  # noqa: RUF001 - the minus sign of matplotlib
    assert not any("$" in text for text in texts(svg))
    assert "from 1e-06 to 1, 7 steps, diverged. Smoothed loss from 2.3, lowest 0.8." in svg


def test_curve_without_a_suggestion():
    curve = make_curve(steepest=None, valley=None, minimum=None, notes=("The loss did not fall by more than chance.",))
    shown = texts(LEARNING_RATES.svg(curve))
    assert "Learning-rate range test: the loss did not fall" in shown
    assert not any(text.startswith("valley") for text in shown)
    with pytest.raises(TrainingError, match="between the learning rates 1e-06 and 1, so no rate"):
        _ = curve.suggestion
    assert make_curve().suggestion == 1e-3


def test_table_has_the_rules():
    lines = LEARNING_RATES.text(make_curve(valley=None), 60).splitlines()
    assert [line.split() for line in lines[3:6]] == [
        ["steepest", "0.001", "1.50"],
        ["valley", "-", "-"],
        ["minimum", "0.01", "0.900"],
    ]


def test_losses_that_are_all_equal_can_be_drawn():
    flat = make_curve(losses=(0.0,) * 7, smoothed=(0.0,) * 7)
    assert LEARNING_RATES.svg(flat).startswith("<svg")
