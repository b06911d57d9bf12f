"""Which candidate wins, which ones no other beats, and why the rest lost. Records in, records out.

The rule. A candidate that keeps every demand of the budget is inside it. Where so many examples cannot tell whether the
drop is, `Budget.undecided` decides: by its estimate, or as outside. Of those inside, the one with the best objective
wins. Times and energies that differ by 2 % or less are equal, because two loads of one file differ by as much; among
equals those come first that are surely inside, then those that lose least, then the quicker, then the smaller.
"""

import dataclasses
import math

from kopt.core.records.candidates import Candidate
from kopt.core.records.search.budget import QUANTITY_OF, Budget
from kopt.core.records.search.judgement import Shortfall
from kopt.core.records.search.quantities import improvement, joint, to_minimize, value_of
from kopt.search.judging.judgement import TOLERANCE
from kopt.search.judging.verdicts import doubt, verdict

# See `kopt.measure.ab_inference`: what two loads of one file differ by.
_LOADS_DIFFER = 0.02
_ALWAYS = ("latency", "size")


def rank(
    candidates: tuple[Candidate, ...], baseline: Candidate, budget: Budget
) -> tuple[tuple[Candidate, ...], str | None]:
    """Fill in drop, budget, Pareto mark and verdict of every candidate.

    Args:
        candidates: measured ones (`status` `"ok"`) and failed ones.
        baseline: the model as it was given.
        budget: what may be lost, and what is to improve.

    Returns:
        The candidates in the same order, and the name of the best one, or `None` if none is inside the budget.
    """
    judged = tuple(_against_budget(candidate, baseline, budget) for candidate in candidates)
    usable = [candidate for candidate in judged if candidate.status == "ok"]
    best = best_of([candidate for candidate in usable if candidate.within_budget], budget)
    final = tuple(
        dataclasses.replace(
            candidate,
            pareto=candidate in usable and not any(dominates(other, candidate, budget) for other in usable),
            verdict=verdict(candidate, best, budget),
            doubt=doubt(candidate, budget),
        )
        for candidate in judged
    )
    return final, best.name if best else None


def best_of(inside: list[Candidate], budget: Budget) -> Candidate | None:
    """Return the winner among candidates inside the budget, by the rule above; `None` if there are none."""
    if not inside:
        return None
    # Sizes are exact; of several objectives every one but the size brings its noise into the mean.
    noisy = sum(objective != "size" for objective in budget.objectives) / len(budget.objectives)
    least = min(joint(candidate, budget) for candidate in inside)
    equal = [candidate for candidate in inside if joint(candidate, budget) <= least * (1 + _LOADS_DIFFER) ** noisy]
    return min(equal, key=lambda candidate: (not is_sure(candidate), _drop(candidate), *_costs(candidate, budget)))


def nearest_of(candidates: tuple[Candidate, ...], budget: Budget) -> str | None:
    """Return the candidate that misses an impossible budget by least: the sum of its shortfalls is smallest."""
    usable = [candidate for candidate in candidates if candidate.status == "ok" and candidate.shortfalls]
    found = min(
        usable,
        key=lambda candidate: (sum(one.excess for one in candidate.shortfalls), joint(candidate, budget)),
        default=None,
    )
    return found.name if found else None


def is_sure(candidate: Candidate) -> bool:
    """Return whether the whole interval of the drop is inside the budget, and that of every class."""
    found = candidate.judgement
    return found is None or (found.verdict == "inside" and found.worst_class in ("", "inside"))


def dominates(a: Candidate, b: Candidate, budget: Budget) -> bool:
    """Return whether `a` is at least as good as `b` in the metric and every cost that counts, and better in one.

    Several objectives are the costs that count; beside a single one latency and size do, too.
    """
    at_least, better = _metric(a, budget) >= _metric(b, budget), _metric(a, budget) > _metric(b, budget)
    for mine, other in zip(_costs(a, budget), _costs(b, budget), strict=True):
        at_least, better = at_least and mine <= other, better or mine < other
    return at_least and better


def target_reached(
    candidate: Candidate, baseline: Candidate, budget: Budget, reference_bytes: int | None
) -> bool | None:
    """Return whether a candidate inside the budget has every factor of the target: then a search may stop.

    Args:
        candidate: ranked.
        baseline: the model as given.
        budget: with the target; `None` is returned without one.
        reference_bytes: size of the model as given.
    """
    if not budget.targets:
        return None
    factors = {name: improvement(candidate, baseline, name, reference_bytes) for name in budget.targets}
    return candidate.within_budget and all(
        factor is not None and factor >= budget.targets[name] for name, factor in factors.items()
    )


def surely_reached(candidate: Candidate, baseline: Candidate, budget: Budget, reference_bytes: int | None) -> bool:
    """Return whether noise does not undo that a candidate has the target, so that the search may stop.

    The whole interval of the drop is inside the budget, and of every class, whatever `Budget.undecided` says. Times and
    energies have two percent to spare, by which two loads of one file differ.

    Args:
        candidate: ranked.
        baseline: the model as given.
        budget: with the target.
        reference_bytes: size of the model as given.
    """
    factors = {name: improvement(candidate, baseline, name, reference_bytes) for name in budget.targets}
    spare = {name: 1.0 if name == "size" else 1.0 + _LOADS_DIFFER for name in budget.targets}
    return (
        candidate.within_budget
        and is_sure(candidate)
        and all(factor is not None and factor >= budget.targets[name] * spare[name] for name, factor in factors.items())
    )


def _against_budget(candidate: Candidate, baseline: Candidate, budget: Budget) -> Candidate:
    if candidate.status != "ok":
        return candidate
    drop = _metric(baseline, budget) - _metric(candidate, budget)
    judged = dataclasses.replace(candidate, drop=drop)
    shortfalls = (*_drop_shortfalls(judged, baseline, budget), *_class_shortfalls(judged, budget))
    shortfalls += tuple(
        Shortfall(str(one), one.bound, value_of(judged, one.quantity), one.excess(value_of(judged, one.quantity)))
        for one in budget.constraints
        if not one.holds(value_of(judged, one.quantity))
    )
    return dataclasses.replace(judged, within_budget=not shortfalls, shortfalls=shortfalls)


def _drop_shortfalls(candidate: Candidate, baseline: Candidate, budget: Budget) -> tuple[Shortfall, ...]:
    drop, allowed, judgement = _drop(candidate), budget.max_drop, candidate.judgement
    is_open = judgement is not None and judgement.verdict == "undecided" and budget.undecided == "outside"
    if not is_open and drop <= allowed + TOLERANCE:
        return ()
    # An estimate that is inside misses a sure drop by what its interval reaches too far.
    lost = judgement.high if is_open and judgement is not None and judgement.high is not None else drop
    demand = f"{'sure ' if is_open and drop <= allowed + TOLERANCE else ''}drop of {budget.metric}"
    needed = _metric(baseline, budget) - allowed
    return (Shortfall(demand, allowed, max(lost, drop), (max(lost, drop) - allowed) / (abs(needed) or 1.0)),)


def _class_shortfalls(candidate: Candidate, budget: Budget) -> tuple[Shortfall, ...]:
    judgement, floor = candidate.judgement, budget.max_class_drop
    if judgement is None or floor is None:
        return ()
    is_open = budget.undecided == "outside"
    lost = {change: change.high if is_open else change.drop for change in judgement.classes}
    worst = max(judgement.classes, key=lambda change: lost[change], default=None)
    if worst is None or lost[worst] <= floor + TOLERANCE:
        return ()
    needed = abs(worst.before - floor) or 1.0
    return (Shortfall(f"drop of class {worst.label}", floor, lost[worst], (lost[worst] - floor) / needed),)


def _metric(candidate: Candidate, budget: Budget) -> float:
    assert candidate.evaluation is not None
    return candidate.evaluation.metrics[budget.metric]


def _drop(candidate: Candidate) -> float:
    assert candidate.drop is not None
    return candidate.drop


def _costs(candidate: Candidate, budget: Budget) -> tuple[float, ...]:
    names = budget.objectives if len(budget.objectives) > 1 else dict.fromkeys((*_ALWAYS, *budget.objectives))
    values = [to_minimize(candidate, name) for name in names if name in QUANTITY_OF]
    return tuple(math.inf if value is None else value for value in values)
