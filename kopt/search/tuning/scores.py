"""What a file is worth to a tuner, as one number of which less is better. Records in, numbers out.

```
inside the budget     x / (1 + x)        in (0, 1), x = r ** 0.25, r the objective over that of the model as given
outside               1 + e / (1 + e)    in [1, 2], e the sum of the shares by which it misses each demand
no file               3
```
So every file inside is better than every one outside, and both than none; among those outside the nearest is best. The
numbers are bounded, because a Gaussian process takes neither infinities nor outliers well, and the fourth root keeps
files apart that are a hundred times better than the model as given. Of several objectives `r` is the geometric mean.
"""

import math

from kopt.core.records.candidates import Candidate
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.quantities import improvement

OUTSIDE, NO_FILE = 1.0, 3.0
SCORE, DROP = "score", "drop"
_ROOT = 0.25


def ratio(candidate: Candidate, baseline: Candidate, objective: str, reference_bytes: int) -> float | None:
    """Return an objective over that of the model as given, of which less is better; `None` if it is not known."""
    factor = improvement(candidate, baseline, objective, reference_bytes)
    return 1.0 / factor if factor else None


def score(candidate: Candidate, baseline: Candidate, budget: Budget, reference_bytes: int) -> float:
    """Return what a ranked candidate is worth.

    Args:
        candidate: with its shortfalls.
        baseline: the model as given.
        budget: that it was ranked by.
        reference_bytes: size of the model as given.
    """
    if candidate.status != "ok":
        return NO_FILE
    if candidate.shortfalls:
        return OUTSIDE + _squashed(sum(one.excess for one in candidate.shortfalls))
    ratios = [ratio(candidate, baseline, objective, reference_bytes) for objective in budget.objectives]
    known = [one for one in ratios if one is not None]
    if len(known) < len(ratios):  # what cannot be measured cannot be called better than anything
        return OUTSIDE + 1.0
    return _squashed(math.prod(known) ** (_ROOT / len(known)))


def metrics(candidate: Candidate, baseline: Candidate, budget: Budget, reference_bytes: int) -> dict[str, float]:
    """Return the score, and of a file its drop and the ratio of each objective, as far as they are known."""
    found = {SCORE: score(candidate, baseline, budget, reference_bytes)}
    if candidate.status != "ok" or candidate.drop is None:
        return found
    ratios = {name: ratio(candidate, baseline, name, reference_bytes) for name in budget.objectives}
    return {**found, DROP: candidate.drop, **{name: value for name, value in ratios.items() if value is not None}}


def _squashed(value: float) -> float:
    return 1.0 if math.isinf(value) else value / (1.0 + value)
