"""Which strengths of a technique go on after a brief look, and which one is looked at next. Pure."""

import dataclasses
from collections.abc import Sequence
from typing import Any

# What was this many times outside the budget after a brief training, and that much at least, did not come back: on
# digits 176 updates took a drop of 0.056 after 46 to 0.007, a factor of 8.
_HOPELESS_TIMES, _HOPELESS_LEAST = 10.0, 0.25
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Scored:
    """A strength that was looked at.

    Attributes:
        level: the strength.
        drop: as the budget counts it; `None` where it could not be made.
        loss: it in words.
        problem: why it could not be made.
    """

    level: Any
    drop: float | None
    loss: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        """What reasons call it."""
        return self.level if isinstance(self.level, str) else f"{self.level:g}"


@dataclasses.dataclass(frozen=True)
class Judged:
    """Whether a strength goes on, and why, or why not."""

    level: Any
    kept: bool
    reason: str


def inside(drop: float | None, allowed: float) -> bool:
    """Return whether a drop is inside the budget."""
    return drop is not None and drop <= allowed + _TOLERANCE


def hopeless(drop: float, allowed: float) -> bool:
    """Return whether a drop after a brief training is beyond what more of it brings back."""
    return drop > max(_HOPELESS_TIMES * allowed, allowed + _HOPELESS_LEAST)


def halved(scored: Sequence[Scored], allowed: float) -> tuple[Judged, ...]:
    """Return which half of the strengths goes on, in their order.

    Of those inside the budget already the strongest alone goes on. Of those that are stronger, and outside, the nearest
    go on until half of all do.

    Args:
        scored: the mildest first.
        allowed: drop that is inside the budget.
    """
    places = [place for place, one in enumerate(scored) if inside(one.drop, allowed)]
    best = places[-1] if places else -1
    room = (len(scored) + 1) // 2 - bool(places)
    outside = [
        place
        for place, one in enumerate(scored)
        if place > best and one.drop is not None and not hopeless(one.drop, allowed)
    ]
    nearest = sorted(outside, key=lambda place: (scored[place].drop, place))[:room]
    return tuple(
        Judged(one.level, place == best or place in nearest, _reason(scored, place, best, nearest, allowed))
        for place, one in enumerate(scored)
    )


def between(within: float | None, beyond: float | None, neutral: float, gap: float) -> float | None:
    """Return the strength half way between the strongest inside the budget and the mildest outside it.

    Args:
        within: strongest inside; `None`: none, so that the search goes towards `neutral`.
        beyond: mildest outside that is stronger; `None`: none, so that there is nothing to look for.
        neutral: strength at which nothing changes.
        gap: differences up to this one are not worth a training.
    """
    start = neutral if within is None else within
    if beyond is None or abs(start - beyond) <= gap:
        return None
    return round((start + beyond) / 2, 3)


def _reason(scored: Sequence[Scored], place: int, best: int, nearest: Sequence[int], allowed: float) -> str:
    one = scored[place]
    if one.drop is None:
        return one.problem
    points = f"{one.loss} of {allowed:.4f} allowed"
    if place == best:
        return f"{points}: the strongest inside the budget"
    if place in nearest:
        return f"{points} after a brief training, near enough to go on"
    if place < best:
        return f"{points}, but {scored[best].name} is stronger and inside the budget, too"
    if hopeless(one.drop, allowed):
        return f"{points}: more training does not bring that back"
    return f"{points}: others are nearer"
