"""The strongest form of a technique that stays inside the budget: brief looks, halving, then bisection."""

from typing import Any

from kopt.search.proposing.ascending import Ascent, Climb, Rung, recovery
from kopt.search.proposing.halving import between
from kopt.search.proposing.proposals import Ladder
from kopt.search.techniques.catalog import CATALOG
from kopt.search.training import Training
from kopt.search.trials.bench import Bench
from kopt.search.trials.limits import RunEnded

# Strengths nearer than this are not told apart, and one bisection is one training.
_GAP, _BISECTIONS = 0.05, 2


def climb(bench: Bench, ladder: Ladder, training: Training) -> Climb:
    """Return what was trained to the end, the strongest first, and what ended the run meanwhile, if anything did.

    All levels are trained briefly, the promising half to the end, and then strengths half way between the strongest
    inside the budget and the mildest outside it. What stops on the way is noted with the reason. Where the run ends
    before, what is inside the budget after its brief training is among the results.
    """
    ascent, end = Ascent(bench), None
    try:
        ascent.begin([_rung(ladder, level, training) for level in ladder.levels])
        _bisect(ascent, ladder, training)
    except RunEnded as early:
        end = early
    return ascent.result(sorted(ascent.rungs, key=lambda rung: rung.level), end)


def _bisect(ascent: Ascent, ladder: Ladder, training: Training) -> None:
    for _ in range(_BISECTIONS if ladder.neutral is not None else 0):
        level = _next_level(ascent, ladder.neutral)
        if level is None:
            return
        rung = _rung(ladder, level, training)
        look = ascent.go_on(rung, "half way between inside and outside the budget")
        if look.drop is None:  # of the same widths as one before, so that those between are, too
            return


def _next_level(ascent: Ascent, neutral: float | None) -> float | None:
    """Return the strength to look at next; smaller values are stronger."""
    assert neutral is not None
    good, bad = ascent.levels()
    within = min(good, default=None)
    return between(
        within, max((level for level in bad if within is None or level < within), default=None), neutral, _GAP
    )


def _rung(ladder: Ladder, level: Any, training: Training) -> Rung:
    row = CATALOG[ladder.technique]
    shape = (row.step(**{row.strength: level}),)
    brief, full = recovery(training)
    return Rung(level, ladder.why, shape, (*shape, *brief), (*shape, *full))
