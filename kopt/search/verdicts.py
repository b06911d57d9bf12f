"""Why a candidate won or lost, in words."""

from kopt.core.budget_records import Budget
from kopt.core.quantities import joint
from kopt.core.records import Candidate
from kopt.report import formats
from kopt.report.shortfalls import objective_text, shortfall_text

_WORSE = {
    "latency": "slower",
    "throughput": "less throughput",
    "size": "larger",
    "memory": "more memory",
    "energy": "more energy",
}


def verdict(candidate: Candidate, best: Candidate | None, budget: Budget) -> str:
    """Return why a judged candidate won or lost.

    Args:
        candidate: with its drop and shortfalls.
        best: the winner; `None` if there is none.
        budget: it was judged by.
    """
    if candidate.status != "ok":
        return f"{candidate.status}: {candidate.reason.splitlines()[0] if candidate.reason else 'no reason given'}"
    doubt = open_question(candidate, budget)
    if not candidate.within_budget:
        text = "; ".join(shortfall_text(one, budget) for one in candidate.shortfalls)
        is_about_drop = any(one.demand.endswith(f"drop of {budget.metric}") for one in candidate.shortfalls)
        return f"{text}; {doubt}" if doubt and is_about_drop else text
    where = "inside by estimate" if doubt else "inside the budget"
    if best is None or candidate.name == best.name:
        text = f"best: {objective_text(budget)} {where}"
    else:
        text = f"{where}, {_ratio(candidate, best, budget)} than {best.name}"
    return f"{text}; {doubt}" if doubt else text


def open_question(candidate: Candidate, budget: Budget) -> str:
    """Return what so many examples cannot tell: empty if the interval of the drop is on one side of the budget."""
    found = candidate.judgement
    if found is None or found.verdict != "undecided":
        return ""
    if found.interval is None:
        return f"cannot be told with {found.examples:,} example{'' if found.examples == 1 else 's'}"
    low, high = (formats.metric_change(end, budget.metric) for end in found.interval)
    return f"cannot be told apart with {found.examples:,} examples (drop {low} to {high})"


def _ratio(candidate: Candidate, best: Candidate, budget: Budget) -> str:
    ratio = joint(candidate, budget) / joint(best, budget)
    if len(budget.objectives) > 1:
        return f"{ratio:.2f}x worse in {' and '.join(budget.objectives)} together"
    return f"{ratio:.2f}x {_WORSE[budget.objectives[0]]}"
