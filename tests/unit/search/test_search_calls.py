import inspect
from pathlib import Path

import pytest

import kopt
from kopt.search.calls import DEFAULTS, budget_text, call_text


@pytest.mark.parametrize(
    "budget",
    [
        kopt.Budget(),
        kopt.Budget(0.02, ("latency", "size"), "auc", ("size_bytes<=200_000",), 0.05, {"size": 4.0}, 0.9, "outside"),
    ],
)
def test_the_text_of_a_budget_makes_it_again(budget):
    assert eval(budget_text(budget), {"kopt": kopt}) == budget


def test_a_call_says_what_is_not_its_default():
    parameters = inspect.signature(kopt.optimize).parameters
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
    settings = {**DEFAULTS, "samples": 50}
    assert call_text(kopt.Budget(0.02), Path("run"), settings, has_test=True) == (
        "kopt.optimize(model, train, validation, test=test, budget=kopt.Budget(max_drop=0.02), samples=50, "
        "workdir='run')"
    )
