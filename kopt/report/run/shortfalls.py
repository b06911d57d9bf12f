"""The demands of a budget in words, and what a candidate misses of them."""

from kopt.core.records.search.budget import Budget
from kopt.core.records.search.judgement import Shortfall
from kopt.report.parts import formats


def demands(budget: Budget) -> list[str]:
    """Return everything that a budget asks, one phrase each."""
    lost = f"{formats.metric_change(budget.max_drop, budget.metric)} {formats.change_unit(budget.metric)}"
    found = [f"at most {lost.replace('points', f'points of {budget.metric}')} lost"]
    if budget.undecided == "outside":
        found[0] += f", surely (by the {budget.level:.0%} interval)"
    if budget.max_class_drop is not None:
        found.append(f"at most {formats.metric_change(budget.max_class_drop, 'accuracy')} points lost by any class")
    found += map(str, budget.constraints)
    return found


def objective_text(budget: Budget) -> str:
    """Return what the best is best in: `smallest latency`, `best of latency and size together`."""
    if len(budget.objectives) > 1:
        return f"best of {' and '.join(budget.objectives)} together"
    return f"{'largest' if budget.objective == 'throughput' else 'smallest'} {budget.objectives[0]}"


def target_text(budget: Budget) -> str:
    """Return the target, empty if there is none: `3.0x in latency, 4.0x in size`."""
    return ", ".join(f"{formats.times(factor)} in {name}" for name, factor in budget.targets.items())


def shortfall_text(shortfall: Shortfall, budget: Budget) -> str:
    """Return a demand that is not met, with what was asked and what there is."""
    if " " not in shortfall.demand:
        got = "is not known" if shortfall.got is None else f"is {_quantity(shortfall.got)}"
        return f"misses {shortfall.demand}: {got}"
    of_class = shortfall.demand.startswith("drop of class")
    metric = "accuracy" if of_class else budget.metric
    lost, allowed = (formats.metric_change(value, metric) for value in (shortfall.got, shortfall.asked))
    if of_class:
        return f"over budget: {shortfall.demand.removeprefix('drop of ')} loses {lost} points, {allowed} allowed"
    verb = "may lose" if shortfall.demand.startswith("sure") else "loses"
    return f"over budget: {verb} {lost} {formats.change_unit(metric)}, {allowed} allowed"


def _quantity(value: float) -> str:
    """Return a number as constraints write it: whole ones in full, others with three digits."""
    return f"{value:,.0f}" if value == round(value) else formats.number(value)
