"""Which techniques that hold the budget alone are worth trying together, by what each of them gave. Pure."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from kopt.core.records.search.recipes import Recipe, steps_name
from kopt.core.records.search.techniques import Step
from kopt.search.proposing.ascending import Rung, brief_epochs, recovery
from kopt.search.proposing.halving import inside
from kopt.search.techniques.catalog import CATALOG, TRAINING, Technique
from kopt.search.techniques.recipes import why_illegal
from kopt.search.techniques.stages import PRUNE, STAGES
from kopt.search.training import Training

# A combination that leaves more than this of what the best technique alone leaves is not worth a training.
_LEAST_GAIN = 0.9
# Brief looks: in all, and at different strengths of the same techniques.
_MOST, _MOST_ALIKE = 4, 2


@dataclasses.dataclass(frozen=True)
class Part:
    """A technique in a strength in which it holds the budget alone.

    Attributes:
        step: that makes it.
        drop: what it lost of the metric.
        left: share of the cost of the original that it left, in (0, 1].
        cost: what that is a share of, e.g. `"the parameters"`.
    """

    step: Step
    drop: float
    left: float
    cost: str

    @property
    def row(self) -> Technique:
        """Of the catalog."""
        return CATALOG[self.step.technique]

    @property
    def trains(self) -> bool:
        """Whether the technique is a training of its own."""
        return TRAINING in self.row.needs


@dataclasses.dataclass(frozen=True)
class Combination:
    """Techniques together, in the order in which they are applied."""

    parts: tuple[Part, ...]

    @property
    def left(self) -> float:
        """Share of the cost that is expected to be left: each takes its share of what the one before left."""
        return math.prod(part.left for part in self.parts)

    @property
    def drop(self) -> float:
        """What is expected to be lost: the sum of what each lost alone; what one won does not pay for another."""
        return sum(max(part.drop, 0.0) for part in self.parts)

    @property
    def name(self) -> str:
        """Names of the steps, without trainings that follow them."""
        return steps_name(tuple(part.step for part in self.parts))

    def why(self, allowed: float) -> str:
        """Return what speaks for it."""
        alone = "; ".join(f"{part.step.label} leaves {part.left:.0%} of {part.cost}" for part in self.parts)
        return (
            f"alone {alone}: together {self.left:.0%} is expected, and a loss of {self.drop:.4f} of {allowed:.4f} "
            f"allowed"
        )


def promising(parts: Sequence[Part], allowed: float, *, packed: bool = False) -> tuple[Combination, ...]:
    """Return the combinations that are worth a brief look, those that change the model least first.

    Of all legal ones that leave clearly less than any technique alone, those come first whose expected loss is inside
    the budget, by what they leave; then the others, by their loss.

    Args:
        parts: techniques in all strengths that hold the budget; those of one technique are never combined.
        allowed: drop that is inside the budget.
        packed: return those with a training of its own, for files that compress better; else those without.
    """
    found = [one for one in _all(parts, packed) if _gains(one, parts) and not why_not(one)]
    found.sort(key=lambda one: _rank(one, allowed))
    chosen: list[Combination] = []
    alike: Counter[frozenset[str]] = Counter()
    for one in found:
        techniques = frozenset(part.step.technique for part in one.parts)
        if alike[techniques] < _MOST_ALIKE and len(chosen) < _MOST:
            alike[techniques] += 1
            chosen.append(one)
    return tuple(sorted(chosen, key=lambda one: -one.left))


def why_none(parts: Sequence[Part], *, packed: bool = False) -> str:
    """Return why nothing is combined where `promising` returns nothing."""
    techniques = tuple(dict.fromkeys(part.step.technique for part in parts))
    if len(techniques) < 2:
        which = f"only {techniques[0]}" if techniques else "no technique"
        return f"Nothing was combined: {which} holds the budget alone."
    reasons = dict.fromkeys(map(why_not, _all(parts, packed)))
    if "" not in reasons:
        return f"Nothing was combined: {next(iter(reasons))}"
    return (
        f"{' and '.join(techniques)} were not combined: together they promise no less than {_LEAST_GAIN:.0%} of what "
        f"the best leaves alone."
    )


def why_not(combination: Combination) -> str:
    """Return why techniques may not be combined, in a sentence; empty if they may."""
    return why_illegal(Recipe(_steps(combination, recovery(Training())[0], None)))


def rung(combination: Combination, training: Training, allowed: float) -> Rung:
    """Return a combination as a model that may be trained: its shape, then a recovery, then trainings of its own."""
    first, whole = recovery(training)
    return Rung(
        combination.name,
        combination.why(allowed),
        (),
        _steps(combination, first, brief_epochs(training)),
        _steps(combination, whole, None),
    )


def _gains(one: Combination, parts: Sequence[Part]) -> bool:
    """Return whether clearly less is expected to be left than the best of the parts leaves alone."""
    return one.left <= _LEAST_GAIN * min(part.left for part in parts)


def _all(parts: Sequence[Part], packed: bool) -> Iterator[Combination]:
    """Yield combinations of two or more techniques, each in any of its strengths."""
    by_technique: dict[str, list[Part]] = {}
    for part in sorted(parts, key=lambda part: STAGES.index(part.row.stage)):
        by_technique.setdefault(part.step.technique, []).append(part)
    for count in range(2, len(by_technique) + 1):
        for techniques in itertools.combinations(by_technique.values(), count):
            found = map(Combination, itertools.product(*techniques))
            yield from (one for one in found if packed == any(part.trains for part in one.parts))


def _rank(one: Combination, allowed: float) -> tuple[bool, float, float]:
    """Sort those that are expected inside the budget by what they leave, and the others by what they lose."""
    if inside(one.drop, allowed):
        return False, one.left, one.drop
    return True, one.drop, one.left


def _steps(combination: Combination, recover: tuple[Step, ...], epochs: int | None) -> tuple[Step, ...]:
    """Return the steps of a combination; a training that prunes recovers by itself, and none may stand before it."""
    shape = tuple(part.step for part in combination.parts if not part.trains)
    own = [part for part in combination.parts if part.trains]
    recovers = bool(shape) and not any(part.row.stage == PRUNE for part in own)
    return (*shape, *(recover if recovers else ()), *(_with_epochs(part.step, epochs) for part in own))


def _with_epochs(step: Step, epochs: int | None) -> Step:
    if epochs is None:
        return step
    return dataclasses.replace(step, config=dataclasses.replace(step.config, epochs=epochs))  # type: ignore[call-arg]
