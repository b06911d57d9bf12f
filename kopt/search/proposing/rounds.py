"""The rounds of a search: ways to ship, what needs no training, what is trained, and their combinations."""

import dataclasses
from collections.abc import Iterator

from kopt.core.records.search.recipes import Recipe, steps_name
from kopt.core.records.search.techniques import Step
from kopt.search.plan import INT8, Plan
from kopt.search.proposing import combining
from kopt.search.proposing.ascending import Ascent, Climb
from kopt.search.proposing.climbing import climb
from kopt.search.proposing.combining import Combination, Part
from kopt.search.proposing.halving import inside
from kopt.search.proposing.proposals import compressible, cost_noun, exact, ladders
from kopt.search.techniques.catalog import CATALOG
from kopt.search.trials.bench import Bench
from kopt.search.trials.limits import RunEnded, TargetReached

# Files are made of this many of the strengths inside the budget: the strongest may lose too much in integers.
_SHIPPED = 2
# What may make a better int8 file than the converter does, the cheapest first.
_ROUNDING = ("post_training", "aware", "mixed")


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
    """Try each technique alone, and then those that hold the budget together."""
    assert plan.training is not None
    found, too_little = ladders(plan.facts, plan.objective, plan.changes)
    left.extend(too_little)
    climbs = [_climbed(bench, plan, climb(bench, ladder, plan.training), left) for ladder in found]
    packed = _compressed(bench, plan, left)
    if len(climbs) + len(packed) > 1:
        _combined(bench, plan, _shapes(bench, plan, climbs), packed, left)


def _climbed(bench: Bench, plan: Plan, found: Climb, left: list[str]) -> Climb:
    """Make files of what was trained; it is worth them, which take seconds, also where the run has ended."""
    try:
        if found.end is not None:
            raise found.end
        _ship(bench, plan, found, left)
    except TargetReached:
        raise
    except RunEnded:
        bench.overrun()
        _ship(bench, dataclasses.replace(plan, changes={}), found, left)
        raise
    return found


def _compressed(bench: Bench, plan: Plan, left: list[str]) -> list[Part]:
    """Try trainings whose files are smaller after compression, and return those that hold the budget."""
    assert plan.training is not None
    parts = []
    for step, why in compressible(plan.objective, plan.changes, plan.training.epochs):
        _ways(bench, plan, (step,), why, left)
        plain, own = bench.files(()), bench.files((step,))
        good = [one for one in own if inside(bench.drop(one), bench.allowed)]
        shares = [
            (one.artifact.gzip_bytes / other.artifact.gzip_bytes, bench.drop(one) or 0.0)
            for one in good
            for other in plain
            if one.artifact and other.artifact and one.config == other.config
        ]
        if shares:
            share, drop = min(shares)
            parts.append(Part(step, drop, min(share, 1.0), "the bytes after compression"))
    return parts


def _shapes(bench: Bench, plan: Plan, climbs: list[Climb]) -> list[Part]:
    """Return the smaller models that hold the budget, with what they left of the cost."""
    return [
        Part(one.rung.shape[0], one.look.drop or 0.0, bench.left(one.rung.shape), f"the {cost_noun(plan.objective)}")
        for found in climbs
        for one in found.inside
    ]


def _combined(bench: Bench, plan: Plan, shapes: list[Part], packed: list[Part], left: list[str]) -> None:
    """Try what holds the budget alone together: smaller models first, then with what makes files compress better."""
    for parts, is_packed in ((shapes, False), ([*shapes, *packed] if packed else [], True)):
        chosen = combining.promising(parts, bench.allowed, packed=is_packed)
        if chosen:
            _together(bench, plan, chosen, left)
        elif parts:
            left.append(combining.why_none(parts, packed=is_packed))


def _together(bench: Bench, plan: Plan, chosen: tuple[Combination, ...], left: list[str]) -> None:
    """Look at combinations as at the strengths of one technique, and ship what holds the budget."""
    assert plan.training is not None
    ascent, end = Ascent(bench), None
    try:
        ascent.begin([combining.rung(one, plan.training, bench.allowed) for one in chosen])
    except RunEnded as early:
        end = early
    _climbed(bench, plan, ascent.result(ascent.rungs[::-1], end), left)


def _ship(bench: Bench, plan: Plan, found: Climb, left: list[str]) -> None:
    """Make files of the strongest models inside the budget; of the nearest where none is."""
    made = [one for one in found.shipped if one.look.counted is not None]
    good = [one for one in made if inside(one.look.counted, bench.allowed)]
    nearest = sorted(made, key=lambda one: one.look.counted or 0.0)[:1]
    for one in good[:_SHIPPED] or nearest:
        place = "inside the budget" if good else "outside the budget, and the nearest to it"
        why = f"{one.rung.why}; in Keras it {one.look.loss}: {place}"
        if _ways(bench, plan, one.look.steps, why, left):
            return


def _ways(bench: Bench, plan: Plan, steps: tuple[Step, ...], why: str, left: list[str]) -> bool:
    """Ship a model in the main ways, and return whether an int8 file of it is inside the budget."""
    for way in plan.main_ways:
        if way.name != INT8:
            bench.attempt(Recipe(steps, way.export), why)
    return _integers(bench, plan, steps, why, left)


def _integers(bench: Bench, plan: Plan, steps: tuple[Step, ...], why: str, left: list[str]) -> bool:
    """Try ways to an int8 file until one is inside the budget, and return whether one is."""
    if INT8 not in plan.way_names:
        return False
    plain = bench.attempt(Recipe(steps, CATALOG[INT8].export), why)
    what = f"the int8 file of {steps_name(steps) or 'the original'}"
    if inside(bench.drop(plain), bench.allowed):
        unused = [name for name in _ROUNDING if name in plan.changes]
        if unused and not steps:
            left.append(f"Not tried: {' and '.join(unused)}, because {what} is inside the budget already.")
        return True
    lost = f"{words} of {bench.allowed:.4f} allowed" if (words := bench.loss(plain)) else "cannot be made"
    others = [inside(bench.drop(one), bench.allowed) for one in bench.files(steps)]
    for step in _roundings(plan, mixed=any(others)):
        reason = f"{what} {lost}; {CATALOG[step.technique].summary}"
        tried = bench.attempt(Recipe((*steps, step), CATALOG[INT8].export), f"{why}; {reason}" if why else reason)
        if inside(bench.drop(tried), bench.allowed):
            return True
    return False


def _roundings(plan: Plan, *, mixed: bool) -> Iterator[Step]:
    """Return what may make a better int8 file, in the order in which it is tried.

    Args:
        plan: what may be done.
        mixed: whether layers in float may help, because a file of the model that rounds less is inside the budget.
    """
    for name in _ROUNDING:
        if name not in plan.changes or (name == "mixed" and not mixed):
            continue
        row = CATALOG[name]
        if name == "aware":
            assert plan.training is not None
            yield row.step(epochs=max(1, plan.training.epochs // 2))
        elif row.strength:
            yield from (row.step(**{row.strength: level}) for level in row.ladder)
        else:
            yield row.step()
