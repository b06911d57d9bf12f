"""The rounds of a search: ways to ship, what needs no training, what is trained, and their combinations."""

import dataclasses

from kopt.core.records.search.recipes import Recipe, steps_name
from kopt.core.records.search.techniques import Step
from kopt.search.plan import INT8, Plan
from kopt.search.proposing.climbing import Climbed, climb
from kopt.search.proposing.halving import inside
from kopt.search.proposing.proposals import Ladder, compressible, exact, ladders
from kopt.search.techniques.catalog import CATALOG
from kopt.search.trials.bench import Bench
from kopt.search.trials.limits import RunEnded

# Files are made of this many of the strengths inside the budget: the strongest may lose too much in integers.
_SHIPPED = 2
# What may make a better int8 file than the converter does, the cheapest first.
_ROUNDING = ("post_training", "aware")


def run(bench: Bench, plan: Plan) -> tuple[str, tuple[str, ...]]:
    """Try what the plan allows, round after round.

    Returns:
        Why it ended, and what was left out on the way, with the reason.
    """
    left: list[str] = []
    try:
        for way in plan.ways:
            bench.attempt(Recipe((), way.export))
        _exact(bench, plan)
        _integers(bench, plan, (), "", left)
        if plan.training is not None:
            _trained(bench, plan, left)
    except RunEnded as end:
        return str(end), tuple(left)
    return "Everything that was proposed was tried.", tuple(left)


def _exact(bench: Bench, plan: Plan) -> None:
    """Try what changes no output."""
    nothing_to_do: set[Step] = set()
    for one in exact(plan.facts, tuple(plan.changes), [way.name for way in plan.main_ways]):
        if one.recipe.steps[-1] not in nothing_to_do and bench.attempt(one.recipe, one.why) is None:
            nothing_to_do.add(one.recipe.steps[-1])


def _trained(bench: Bench, plan: Plan, left: list[str]) -> None:
    assert plan.training is not None
    found, too_little = ladders(plan.facts, plan.objective, plan.changes)
    left.extend(too_little)
    for ladder in found:
        climbed, end = climb(bench, ladder, plan.training)
        if end is not None:
            # What is trained is worth its files, which take seconds; nothing more is trained.
            bench.overrun()
            _ship(bench, dataclasses.replace(plan, changes={}), ladder, climbed, left)
            raise end
        _ship(bench, plan, ladder, climbed, left)
    for step, why in compressible(plan.objective, plan.changes, plan.training.epochs):
        for way in plan.main_ways:
            if way.name == INT8:
                _integers(bench, plan, (step,), why, left)
            else:
                bench.attempt(Recipe((step,), way.export), why)


def _ship(bench: Bench, plan: Plan, ladder: Ladder, climbed: list[Climbed], left: list[str]) -> None:
    """Make files of the strongest models inside the budget; of the nearest where none is."""
    made = [one for one in climbed if one.look.drop is not None]
    good = [one for one in made if inside(one.look.drop, bench.allowed)]
    nearest = sorted(made, key=lambda one: one.look.drop or 0.0)[:1]
    for one in good[:_SHIPPED] or nearest:
        place = "inside the budget" if good else "outside the budget, and the nearest to it"
        why = f"{ladder.why}; in Keras it loses {one.look.drop:.4f}: {place}"
        for way in plan.main_ways:
            if way.name != INT8:
                bench.attempt(Recipe(one.look.steps, way.export), why)
        if _integers(bench, plan, one.look.steps, why, left):
            return


def _integers(bench: Bench, plan: Plan, steps: tuple[Step, ...], why: str, left: list[str]) -> bool:
    """Try ways to an int8 file until one is inside the budget, and return whether one is."""
    if INT8 not in plan.way_names:
        return False
    plain = bench.attempt(Recipe(steps, CATALOG[INT8].export), why)
    what = f"the int8 file of {steps_name(steps) or 'the model as it is'}"
    if inside(bench.drop(plain), bench.allowed):
        unused = [name for name in _ROUNDING if name in plan.changes]
        if unused and not steps:
            left.append(f"Not tried: {' and '.join(unused)}, because {what} is inside the budget already.")
        return True
    drop = bench.drop(plain)
    lost = "cannot be made" if drop is None else f"loses {drop:.4f} of {bench.allowed:.4f} allowed"
    for name in _ROUNDING:
        if name in plan.changes:
            step = CATALOG[name].step(**({"epochs": _aware_epochs(plan)} if name == "aware" else {}))
            reason = f"{what} {lost}; {CATALOG[name].summary}"
            tried = bench.attempt(Recipe((*steps, step), CATALOG[INT8].export), f"{why}. {reason}" if why else reason)
            if inside(bench.drop(tried), bench.allowed):
                return True
    return False


def _aware_epochs(plan: Plan) -> int:
    assert plan.training is not None
    return max(1, plan.training.epochs // 2)
