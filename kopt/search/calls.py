"""The call that repeats a run, as text."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kopt.core.records.search.budget import Budget

# Of `kopt.optimize`.
DEFAULTS: dict[str, Any] = {
    "techniques": None,
    "samples": 100,
    "threads": None,
    "seed": 0,
    "training": None,
    "seconds": None,
    "trials": None,
}


def call_text(budget: Budget, workdir: Path, settings: Mapping[str, Any], *, has_test: bool) -> str:
    """Return the call of `kopt.optimize` with everything that is not its default.

    Args:
        budget: as it was given.
        workdir: of the run.
        settings: other arguments, by name.
        has_test: whether there was a test split.
    """
    words = ["model", "train", "validation", *(["test=test"] if has_test else []), f"budget={budget_text(budget)}"]
    words += [f"{name}={value!r}" for name, value in settings.items() if value != DEFAULTS[name]]
    return f"kopt.optimize({', '.join(words)}, workdir={str(workdir)!r})"


def budget_text(budget: Budget) -> str:
    """Return the call that makes a budget, with everything that is not its default."""
    values = {
        field.name: getattr(budget, field.name)
        for field in dataclasses.fields(budget)
        if getattr(budget, field.name) != field.default
    }
    if "constraints" in values:
        values["constraints"] = tuple(map(str, budget.constraints))
    return f"kopt.Budget({', '.join(f'{name}={value!r}' for name, value in values.items())})"
