"""Which candidate wins, which ones no other beats, and why the rest lost. Records in, records out."""

import dataclasses

from kopt.core.records import Budget, Candidate, Measurement
from kopt.report import formats

_TOLERANCE = 1e-6  # a drop that equals the budget is inside it; Keras computes its metrics in float32


def rank(
    candidates: tuple[Candidate, ...], baseline: Candidate, budget: Budget
) -> tuple[tuple[Candidate, ...], str | None]:
    """Fill in drop, budget, Pareto mark and verdict of every candidate.

    Args:
        candidates: measured ones (`status` `"ok"`) and failed ones.
        baseline: the model as it was given.
        budget: what may be lost, and what is to become small.

    Returns:
        The candidates in the same order, and the name of the best one, or `None` if none is inside the budget.
    """
    judged = tuple(_against_budget(candidate, baseline, budget) for candidate in candidates)
    usable = [candidate for candidate in judged if candidate.status == "ok"]
    inside = [candidate for candidate in usable if candidate.within_budget]
    best = min(inside, key=lambda candidate: (objective(candidate, budget), *_costs(candidate)), default=None)
    final = tuple(
        dataclasses.replace(
            candidate,
            pareto=candidate in usable and not any(dominates(other, candidate, budget) for other in usable),
            verdict=_verdict(candidate, best, budget),
        )
        for candidate in judged
    )
    return final, best.name if best else None


def objective(candidate: Candidate, budget: Budget) -> float:
    """Return the number that is to become small: milliseconds, bytes or millijoules."""
    measurement, artifact = _measured(candidate)
    if budget.objective == "size":
        return float(artifact)
    if budget.objective == "energy":
        assert measurement.energy is not None
        return measurement.energy.millijoules
    return measurement.latency_ms


def dominates(a: Candidate, b: Candidate, budget: Budget) -> bool:
    """Return whether `a` is at least as good as `b` in metric, latency and size, and better in one of them."""
    at_least, better = _metric(a, budget) >= _metric(b, budget), _metric(a, budget) > _metric(b, budget)
    for mine, other in zip(_costs(a), _costs(b), strict=True):
        at_least, better = at_least and mine <= other, better or mine < other
    return at_least and better


def _against_budget(candidate: Candidate, baseline: Candidate, budget: Budget) -> Candidate:
    if candidate.status != "ok":
        return candidate
    drop = _metric(baseline, budget) - _metric(candidate, budget)
    return dataclasses.replace(candidate, drop=drop, within_budget=drop <= budget.max_drop + _TOLERANCE)


def _verdict(candidate: Candidate, best: Candidate | None, budget: Budget) -> str:
    if candidate.status != "ok":
        return f"{candidate.status}: {candidate.reason.splitlines()[0] if candidate.reason else 'no reason given'}"
    if not candidate.within_budget:
        lost, allowed = (formats.metric_change(drop, budget.metric) for drop in (candidate.drop, budget.max_drop))
        return f"over budget: loses {lost} {formats.change_unit(budget.metric)}, {allowed} allowed"
    if best is None or candidate.name == best.name:
        return f"best: smallest {budget.objective} inside the budget"
    ratio = objective(candidate, budget) / objective(best, budget)
    worse = {"latency": "slower", "size": "larger", "energy": "more energy"}[budget.objective]
    return f"inside the budget, {ratio:.2f}x {worse} than {best.name}"


def _metric(candidate: Candidate, budget: Budget) -> float:
    assert candidate.evaluation is not None
    return candidate.evaluation.metrics[budget.metric]


def _costs(candidate: Candidate) -> tuple[float, float]:
    measurement, size = _measured(candidate)
    return measurement.latency_ms, float(size)


def _measured(candidate: Candidate) -> tuple[Measurement, int]:
    assert candidate.measurement is not None
    assert candidate.artifact is not None
    return candidate.measurement, candidate.artifact.size_bytes
