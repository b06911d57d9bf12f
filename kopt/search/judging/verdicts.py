"""Why a candidate won or lost, in a few words, and what is open about it, in numbers."""

from kopt.core.records.candidates import Candidate
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.judgement import Ends
from kopt.core.records.search.quantities import joint
from kopt.report.parts import formats
from kopt.report.run.shortfalls import objective_text, shortfall_text

_WORSE = {
    "latency": "slower",
    "throughput": "less throughput",
    "size": "larger",
    "memory": "more memory",
    "energy": "more energy",
}


def verdict(candidate: Candidate, best: Candidate | None, budget: Budget) -> str:
    """Return why a judged candidate won or lost, short enough for a column; what is open has numbers in `doubt`.

    Args:
        candidate: with its drop and shortfalls.
        best: the winner; `None` if there is none.
        budget: it was judged by.
    """
    if candidate.status != "ok":
        return f"{candidate.status}: {candidate.reason.splitlines()[0] if candidate.reason else 'no reason given'}"
    if not candidate.within_budget:
        return "; ".join(shortfall_text(one, budget) for one in candidate.shortfalls)
    is_open = bool(doubt(candidate, budget))
    if best is None or candidate.name == best.name:
        return f"best: {objective_text(budget)}{', undecided' if is_open else ' inside the budget'}"
    return f"{'undecided' if is_open else 'inside the budget'}, {_ratio(candidate, best, budget)} than the best"


def doubt(candidate: Candidate, budget: Budget) -> str:
    """Return what so many examples cannot tell: empty if the intervals of drop and classes are on one side each."""
    found = candidate.judgement
    if found is None:
        return ""
    questions = [_not_told(found.interval, found.examples, budget.metric)] if found.verdict == "undecided" else []
    if found.worst_class == "undecided" and budget.max_class_drop is not None:
        worst = max(found.classes, key=lambda change: change.high)
        questions.append(f"class {worst.label} {_not_told((worst.low, worst.high), worst.examples, 'accuracy')}")
    return "; ".join(questions)


def _not_told(interval: Ends | None, examples: int, metric: str) -> str:
    counted = f"{examples:,} example{'' if examples == 1 else 's'}"
    if interval is None:
        return f"{counted} are too few for an interval"
    low, high = (formats.metric_change(end, metric) for end in interval)
    return f"drop {low} to {high} on {counted}"


def _ratio(candidate: Candidate, best: Candidate, budget: Budget) -> str:
    ratio = joint(candidate, budget) / joint(best, budget)
    if len(budget.objectives) > 1:
        return f"{ratio:.2f}x worse in {' and '.join(budget.objectives)} together"
    return f"{ratio:.2f}x {_WORSE[budget.objectives[0]]}"
