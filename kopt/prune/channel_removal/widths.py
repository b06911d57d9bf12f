"""How many channels of a group are left: pure functions of counts and scores."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A group that may shrink.

    Attributes:
        scores: of its units; larger matters more.
        divisor: the units left are a multiple of it, unless all are left.
        least: units that stay.
    """

    scores: Scores
    divisor: int
    least: int


def divisor_of(units: int, channels_per_unit: int, round_to: int) -> int:
    """Return what the number of units is a multiple of, so that that of the channels is one of `round_to`.

    A group of fewer than `2 * round_to` channels takes half of it, or a quarter, and so on: otherwise it could not
    shrink, or by half only.
    """
    while round_to > 1 and units * channels_per_unit < 2 * round_to:
        round_to //= 2
    return round_to // math.gcd(round_to, channels_per_unit)


def rounded(wanted: float, candidate: Candidate) -> int:
    """Return the allowed number of units that is nearest to `wanted`, the larger one of two."""
    units, divisor = candidate.scores.size, candidate.divisor
    least = least_units(units, divisor, candidate.least)
    if wanted >= units:
        return units
    nearest = divisor * math.floor(wanted / divisor + 0.5)
    return min(max(nearest, least), units)


def least_units(units: int, divisor: int, least: int) -> int:
    """Return how many of so many units are left at the least, rounded up to what is allowed."""
    return min(units, divisor * math.ceil(max(least, 1) / divisor))


def by_share(candidates: Sequence[Candidate], keep: float) -> list[int]:
    """Return the units left of every group if each keeps the same share."""
    return [rounded(candidate.scores.size * keep, candidate) for candidate in candidates]


def by_rank(candidates: Sequence[Candidate], removed: int) -> list[int]:
    """Return the units left of every group if the `removed` units of the lowest scores go, wherever they are.

    Units that a group cannot do without do not go, so that others make up for them.
    """
    everything = np.concatenate([_removable(candidate) for candidate in candidates])
    owner = np.repeat(np.arange(len(candidates)), [candidate.scores.size for candidate in candidates])
    gone = np.bincount(owner[np.argsort(everything, kind="stable")[:removed]], minlength=len(candidates))
    return [
        rounded(candidate.scores.size - int(lost), candidate) for candidate, lost in zip(candidates, gone, strict=True)
    ]


def _removable(candidate: Candidate) -> Scores:
    """Return the scores of a group, infinite of the best as many as are left at the least."""
    scores = candidate.scores.copy()
    scores[best(scores, least_units(scores.size, candidate.divisor, candidate.least))] = math.inf
    return scores


def filled(candidates: Sequence[Candidate], counts: Sequence[int], fits: Callable[[list[int]], bool]) -> list[int]:
    """Return the units left of every group after as many came back as fit, those that matter most first.

    Rounding takes more than a goal asks for: in a network of few channels, a step of one group is a large part of all.

    Args:
        candidates: the groups.
        counts: units left of each.
        fits: whether so many units are few enough; what does not fit now does not fit with more.
    """
    filled, growing = list(counts), set(range(len(candidates)))
    while growing:
        steps = {place: _next(candidates[place], filled[place]) for place in growing}
        place = max(sorted(growing), key=lambda one: steps[one][1])
        wider = [steps[place][0] if one == place else count for one, count in enumerate(filled)]
        if wider != filled and fits(wider):
            filled = wider
        else:
            growing.remove(place)
    return filled


def _next(candidate: Candidate, count: int) -> tuple[int, float]:
    """Return the next larger number of units, and the mean score of those that it brings back."""
    wider = min(candidate.scores.size, candidate.divisor * (count // candidate.divisor + 1))
    back = np.sort(candidate.scores)[::-1][count:wider]
    return wider, float(back.mean()) if back.size else -math.inf


def best(scores: Scores, count: int) -> npt.NDArray[np.int64]:
    """Return the places of the `count` largest scores in ascending order; of equal scores the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])
