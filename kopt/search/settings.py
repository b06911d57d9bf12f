"""What a caller of `kopt.optimize` may set beside model, data and budget, and the call that repeats a run, as text."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kopt.core.records.search.budget import Budget
from kopt.search.training import Training


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `kopt.optimize` that change what it finds, with its defaults; it describes them."""

    techniques: Sequence[str] | None = None
    samples: int = 100
    threads: int | None = None
    seed: int = 0
    training: Training | None = None
    seconds: float | None = None
    trials: int | None = None


def call_text(budget: Budget, workdir: Path, settings: Settings, *, has_test: bool) -> str:
    """Return the call of `kopt.optimize` with everything that is not its default.

    Args:
        budget: as it was given.
        workdir: of the run.
        settings: other arguments.
        has_test: whether there was a test split.
    """
    words = ["model", "train", "validation", *(["test=test"] if has_test else []), f"budget={budget_text(budget)}"]
    words += changed(settings)
    return f"kopt.optimize({', '.join(words)}, workdir={str(workdir)!r})"


def budget_text(budget: Budget) -> str:
    """Return the call that makes a budget, with everything that is not its default."""
    if budget.constraints:
        words = changed(dataclasses.replace(budget, constraints=()))
        words.append(f"constraints={tuple(map(str, budget.constraints))!r}")
    else:
        words = changed(budget)
    return f"kopt.Budget({', '.join(words)})"


def changed(record: Any) -> list[str]:
    """Return the fields of a record that are not their defaults, as arguments."""
    values = {field.name: (getattr(record, field.name), field.default) for field in dataclasses.fields(record)}
    return [f"{name}={value!r}" for name, (value, default) in values.items() if value != default]
