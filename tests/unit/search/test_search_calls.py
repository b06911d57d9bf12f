import dataclasses
import inspect
from pathlib import Path

import pytest

import kopt
from kopt.search.settings import Settings, budget_text, call_text


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
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert {name: parameters[name].default for name in defaults} == defaults
    assert call_text(kopt.Budget(0.02), Path("run"), Settings(samples=50), has_test=True) == (
        "kopt.optimize(model, train, validation, test=test, budget=kopt.Budget(max_drop=0.02), samples=50, "
        "workdir='run')"
    )
