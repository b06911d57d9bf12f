"""The strongest form of a technique that stays inside the budget: brief looks, halving, then bisection."""

import dataclasses
from typing import Any

from kopt.core.technique_records import Step
from kopt.search.bench import Bench, Look
from kopt.search.catalog import CATALOG
from kopt.search.halving import Scored, between, halved, hopeless, inside
from kopt.search.proposals import Ladder
from kopt.search.training import Training

# Strengths nearer than this are not told apart, and one bisection is one training.
_GAP, _BISECTIONS = 0.05, 2
_BRIEF = 4


@dataclasses.dataclass(frozen=True)
class Climbed:
    """A strength of a technique, trained to the end."""

    level: Any
    look: Look


def climb(bench: Bench, ladder: Ladder, training: Training) -> list[Climbed]:
    """Return what was trained to the end, the strongest first.

    All levels are trained briefly, the promising half to the end, and then strengths half way between the strongest
    inside the budget and the mildest outside it. What stops on the way is noted with the reason.
    """
    brief = max(1, training.epochs // _BRIEF)
    looks = [bench.look(_steps(ladder, level, brief)) for level in ladder.levels]
    scored = [Scored(level, one.drop, one.problem) for level, one in zip(ladder.levels, looks, strict=True)]
    climbed = []
    for one, look in zip(halved(scored, bench.allowed), looks, strict=True):
        bench.decide(look, ladder.why, kept=one.kept, reason=one.reason)
        if one.kept:
            climbed.append(_to_the_end(bench, ladder, one.level, look, training.epochs - brief))
    for _ in range(_BISECTIONS if ladder.neutral is not None else 0):
        level = _next(climbed, scored, ladder, bench.allowed)
        if level is None:
            break
        steps = _steps(ladder, level, brief)
        if _is_known(bench, ladder, level, [one.level for one in scored]):
            look = Look(steps[:1], None)
            bench.decide(look, ladder.why, kept=False, reason="the same model as another one, after rounding of widths")
            break
        look = bench.look(steps)
        if look.drop is None or hopeless(look.drop, bench.allowed):
            bench.decide(look, ladder.why, kept=False, reason=look.problem or "more training does not bring that back")
            scored.append(Scored(level, look.drop, look.problem))
            continue
        bench.decide(look, ladder.why, kept=True, reason="half way between inside and outside the budget")
        scored.append(Scored(level, look.drop))
        climbed.append(_to_the_end(bench, ladder, level, look, training.epochs - brief))
    return sorted(climbed, key=lambda one: one.level)


def _is_known(bench: Bench, ladder: Ladder, level: Any, seen: list[Any]) -> bool:
    """Return whether a strength makes the same model as one before: widths are rounded."""
    new = bench.identity(_steps(ladder, level, 1)[:1])
    return new is not None and new in {bench.identity(_steps(ladder, one, 1)[:1]) for one in seen}


def _steps(ladder: Ladder, level: Any, epochs: int) -> tuple[Step, ...]:
    row = CATALOG[ladder.technique]
    return row.step(**{row.strength: level}), CATALOG["recover"].step(epochs=epochs)


def _to_the_end(bench: Bench, ladder: Ladder, level: Any, look: Look, epochs: int) -> Climbed:
    """Train on, and note whether it came inside the budget."""
    if not epochs:
        return Climbed(level, look)
    full = bench.look((*look.steps, CATALOG["recover"].step(epochs=epochs)))
    if full.drop is None:
        bench.decide(full, ladder.why, kept=False, reason=full.problem)
    else:
        kept = inside(full.drop, bench.allowed)
        words = "inside" if kept else "still outside"
        reason = f"loses {full.drop:.4f} of {bench.allowed:.4f} allowed after all epochs: {words} the budget"
        bench.decide(full, ladder.why, kept=kept, reason=reason)
    return Climbed(level, full)


def _next(climbed: list[Climbed], scored: list[Scored], ladder: Ladder, allowed: float) -> float | None:
    """Return the strength to look at next; smaller values are stronger."""
    assert ladder.neutral is not None
    within = min((one.level for one in climbed if inside(one.look.drop, allowed)), default=None)
    seen = {one.level for one in climbed}
    beyond = [one.level for one in climbed if not inside(one.look.drop, allowed)]
    beyond += [one.level for one in scored if one.level not in seen and not inside(one.drop, allowed)]
    weaker = max((level for level in beyond if within is None or level < within), default=None)
    return between(within, weaker, ladder.neutral, _GAP)
