"""How many channels of a group are left: pure functions of counts and scores."""

import dataclasses
import math
from collections.abc import Sequence

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
    least = min(units, divisor * math.ceil(max(candidate.least, 1) / divisor))
    if wanted >= units:
        return units
    nearest = divisor * math.floor(wanted / divisor + 0.5)
    return min(max(nearest, least), units)


def by_share(candidates: Sequence[Candidate], keep: float) -> list[int]:
    """Return the units left of every group if each keeps the same share."""
    return [rounded(candidate.scores.size * keep, candidate) for candidate in candidates]


def by_rank(candidates: Sequence[Candidate], removed: int) -> list[int]:
    """Return the units left of every group if the `removed` units of the lowest scores go, wherever they are."""
    everything = np.concatenate([candidate.scores for candidate in candidates])
    owner = np.repeat(np.arange(len(candidates)), [candidate.scores.size for candidate in candidates])
    gone = np.bincount(owner[np.argsort(everything, kind="stable")[:removed]], minlength=len(candidates))
    return [
        rounded(candidate.scores.size - int(lost), candidate) for candidate, lost in zip(candidates, gone, strict=True)
    ]


def best(scores: Scores, count: int) -> npt.NDArray[np.int64]:
    """Return the places of the `count` largest scores in ascending order; of equal scores the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])
