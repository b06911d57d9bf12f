"""The strongest form of a technique that stays inside the budget: brief looks, halving, then bisection."""

import dataclasses
from typing import Any

from kopt.search.proposing.halving import Scored, between, halved, hopeless, inside
from kopt.search.proposing.proposals import Ladder
from kopt.search.techniques.catalog import CATALOG
from kopt.search.training import Training
from kopt.search.trials.bench import Bench, Look
from kopt.search.trials.limits import RunEnded

# Strengths nearer than this are not told apart, and one bisection is one training.
_GAP, _BISECTIONS = 0.05, 2
_BRIEF = 4


@dataclasses.dataclass(frozen=True)
class Climbed:
    """A strength of a technique, trained to the end."""

    level: Any
    look: Look


def climb(bench: Bench, ladder: Ladder, training: Training) -> tuple[list[Climbed], RunEnded | None]:
    """Return what was trained to the end, the strongest first, and what ended the run meanwhile, if anything did.

    All levels are trained briefly, the promising half to the end, and then strengths half way between the strongest
    inside the budget and the mildest outside it. What stops on the way is noted with the reason. Where the run ends
    before, what is inside the budget after its brief training is among the results.
    """
    ascent = _Ascent(bench, ladder, training)
    try:
        _ascend(bench, ladder, ascent)
    except RunEnded as end:
        return ascent.results(with_brief=True), end
    return ascent.results(), None


def _ascend(bench: Bench, ladder: Ladder, ascent: "_Ascent") -> None:
    looks = [ascent.look(level) for level in ladder.levels]
    for one, look in zip(halved(ascent.scored, bench.allowed), looks, strict=True):
        bench.decide(look, ladder.why, kept=one.kept, reason=one.reason)
        if one.kept:
            ascent.to_the_end(one.level, look)
    for _ in range(_BISECTIONS if ladder.neutral is not None else 0):
        level = ascent.next_level()
        if level is None:
            break
        look = ascent.look(level)
        ends = look.problem or (look.drop is not None and hopeless(look.drop, bench.allowed))
        reason = "half way between inside and outside the budget"
        if ends:
            reason = look.problem or f"loses {look.drop:.4f}: more training does not bring that back"
        bench.decide(look, ladder.why, kept=not ends, reason=reason)
        if look.drop is None:  # of the same widths as one before, so that those between are, too
            break
        if not ends:
            ascent.to_the_end(level, look)


class _Ascent:
    """Strengths that were looked at, and those that were trained to the end."""

    def __init__(self, bench: Bench, ladder: Ladder, training: Training):
        self._bench, self._ladder = bench, ladder
        self._brief = max(1, training.epochs // _BRIEF)
        self._rest = training.epochs - self._brief
        self._known: set[str] = set()
        self._looks: dict[Any, Look] = {}
        self.scored: list[Scored] = []
        self.climbed: list[Climbed] = []

    def look(self, level: Any) -> Look:
        """Train one strength briefly, unless it makes a model that another one made."""
        row = CATALOG[self._ladder.technique]
        step = row.step(**{row.strength: level})
        look = self._bench.look((step, CATALOG["recover"].step(epochs=self._brief)), sorted(self._known))
        if (made := self._bench.fingerprint((step,))) is not None:
            self._known.add(made)
        self.scored.append(Scored(level, look.drop, look.problem))
        self._looks[level] = look
        return look

    def results(self, *, with_brief: bool = False) -> list[Climbed]:
        """Return what was trained to the end, and with `with_brief` what is inside the budget already."""
        found = {one.level: one for one in self.climbed}
        for level, look in self._looks.items() if with_brief else ():
            if level not in found and inside(look.drop, self._bench.allowed):
                found[level] = Climbed(level, look)
        return [found[level] for level in sorted(found)]

    def to_the_end(self, level: Any, look: Look) -> None:
        """Train on, and note whether it came inside the budget."""
        if not self._rest:
            self.climbed.append(Climbed(level, look))
            return
        bench = self._bench
        full = bench.look((*look.steps, CATALOG["recover"].step(epochs=self._rest)))
        kept = inside(full.drop, bench.allowed)
        reason = full.problem
        if full.drop is not None:
            words = "inside" if kept else "still outside"
            reason = f"loses {full.drop:.4f} of {bench.allowed:.4f} allowed after all epochs: {words} the budget"
        bench.decide(full, self._ladder.why, kept=kept, reason=reason)
        self.climbed.append(Climbed(level, full))

    def next_level(self) -> float | None:
        """Return the strength to look at next; smaller values are stronger."""
        allowed = self._bench.allowed
        within = min((one.level for one in self.climbed if inside(one.look.drop, allowed)), default=None)
        ended = {one.level for one in self.climbed}
        beyond = [one.level for one in self.climbed if not inside(one.look.drop, allowed)]
        beyond += [one.level for one in self.scored if one.level not in ended and not inside(one.drop, allowed)]
        weaker = max((level for level in beyond if within is None or level < within), default=None)
        assert self._ladder.neutral is not None
        return between(within, weaker, self._ladder.neutral, _GAP)
