"""Brief looks at several models, and trainings to the end of those that promise something."""

import dataclasses
from typing import Any

from kopt.core.records.search.techniques import Step
from kopt.search.proposing.halving import Scored, halved, hopeless, inside
from kopt.search.techniques.catalog import CATALOG
from kopt.search.training import Training
from kopt.search.trials.bench import Bench, Look
from kopt.search.trials.limits import RunEnded

_BRIEF = 4


@dataclasses.dataclass(frozen=True)
class Rung:
    """A model that may be trained.

    Attributes:
        level: its strength, or its name.
        why: what speaks for it.
        shape: steps before the training, which may make what those of another rung made; empty where none do.
        brief: steps up to the end of a brief training.
        full: steps up to the end of the whole one.
    """

    level: Any
    why: str
    shape: tuple[Step, ...]
    brief: tuple[Step, ...]
    full: tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Climbed:
    """A rung, and what its model was worth when it was last looked at."""

    rung: Rung
    look: Look


@dataclasses.dataclass(frozen=True)
class Climb:
    """What came of several rungs.

    Attributes:
        shipped: what files are made of, the strongest first.
        inside: all that was inside the budget when it was last looked at, likewise.
        end: what ended the run meanwhile, if anything did.
    """

    shipped: list[Climbed]
    inside: list[Climbed]
    end: RunEnded | None = None


def brief_epochs(training: Training) -> int:
    """Return the epochs of a brief training."""
    return max(1, training.epochs // _BRIEF)


def recovery(training: Training) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return the steps of a brief recovery, and those of a whole one, which begins with it."""
    brief = brief_epochs(training)
    first, rest = (CATALOG["recover"].step(epochs=brief),), training.epochs - brief
    return first, (*first, CATALOG["recover"].step(epochs=rest)) if rest else first


class Ascent:
    """Rungs that were looked at, and those that were trained to the end."""

    def __init__(self, bench: Bench):
        self._bench = bench
        self._known: set[str] = set()
        self._brief: dict[Rung, Look] = {}
        self._ended: dict[Rung, Look] = {}

    def begin(self, rungs: list[Rung]) -> None:
        """Train all briefly, the mildest first, and then the promising half to the end.

        Raises:
            RunEnded: the limits of the run are used up.
        """
        looks: list[Look] = []
        try:
            for rung in rungs:
                looks.append(self.look(rung))
        except RunEnded as end:
            for rung, look in zip(rungs, looks, strict=False):
                lost = f"{look.loss} after a brief training; " if look.loss else ""
                self._bench.decide(look, rung.why, kept=False, reason=look.problem or f"{lost}{end}")
            raise
        scored = [
            Scored(rung.level, look.counted, look.loss, look.problem) for rung, look in zip(rungs, looks, strict=True)
        ]
        for rung, look, one in zip(rungs, looks, halved(scored, self._bench.allowed), strict=True):
            self._bench.decide(look, rung.why, kept=one.kept, reason=one.reason)
            if one.kept:
                self.to_the_end(rung)

    def look(self, rung: Rung) -> Look:
        """Train a rung briefly, unless it makes a model that another one made."""
        look = self._bench.look(rung.brief, sorted(self._known))
        if rung.shape and (made := self._bench.fingerprint(rung.shape)) is not None:
            self._known.add(made)
        self._brief[rung] = look
        return look

    def to_the_end(self, rung: Rung) -> None:
        """Train on, and note whether it came inside the budget."""
        bench = self._bench
        if rung.full == rung.brief:
            self._ended[rung] = self._brief[rung]
            return
        full = bench.look(rung.full)
        kept = inside(full.counted, bench.allowed)
        reason = full.problem
        if full.loss:
            words = "inside the budget: kept" if kept else "still outside the budget: reverted"
            reason = f"{full.loss} of {bench.allowed:.4f} allowed after all epochs, {words}"
        bench.decide(full, rung.why, kept=kept, reason=reason)
        self._ended[rung] = full

    def go_on(self, rung: Rung, reason: str) -> Look:
        """Look at one more rung, and train it to the end unless it is hopeless."""
        look = self.look(rung)
        ends = look.problem or (look.counted is not None and hopeless(look.counted, self._bench.allowed))
        if ends:
            reason = look.problem or f"{look.loss}: more training does not bring that back"
        self._bench.decide(look, rung.why, kept=not ends, reason=reason)
        if not ends:
            self.to_the_end(rung)
        return look

    def levels(self) -> tuple[list[Any], list[Any]]:
        """Return the levels that were trained to the end and are inside the budget, and those that ended outside."""
        good = [rung.level for rung, look in self._ended.items() if inside(look.counted, self._bench.allowed)]
        last = {**self._brief, **self._ended}
        return good, [rung.level for rung, look in last.items() if not inside(look.counted, self._bench.allowed)]

    def result(self, strongest_first: list[Rung], end: RunEnded | None = None) -> Climb:
        """Return what was found; where the run ended before, what is inside after its brief training is shipped, too.

        Args:
            strongest_first: the rungs in their order.
            end: what ended the run.
        """
        last = {**self._brief, **self._ended}
        known = [Climbed(rung, last[rung]) for rung in strongest_first if rung in last]
        good = [one for one in known if inside(one.look.counted, self._bench.allowed)]
        shipped = [one for one in known if one.rung in self._ended or (end is not None and one in good)]
        return Climb(shipped, good, end)

    @property
    def rungs(self) -> list[Rung]:
        """All that were looked at."""
        return list(self._brief)
