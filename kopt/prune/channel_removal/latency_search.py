"""The widest model that is fast enough, found with few measurements: a pure function of what they give."""

import dataclasses
from collections.abc import Callable

from kopt.prune.channel_removal.goals import first_below

# A measurement this far below the target, or nearer, ends the search.
TOLERANCE = 0.05
MOST_PROBES = 8


@dataclasses.dataclass(frozen=True)
class Point:
    """A step of the path: its multiply-accumulates, and its share of the latency that the model has."""

    step: int
    macs: int
    share: float


def fastest_enough(
    target: float, low: Point, high: Point, macs: Callable[[int], int], measure: Callable[[int], float]
) -> Point:
    """Return the step with the most arithmetic of those measured whose share of the latency is at most `target`.

    In turns the share of the latency is taken to go with the multiply-accumulates between the two ends, and their range
    is halved. The search ends when a share lies within `TOLERANCE` below the target, when no widths are left between
    the ends, or after `MOST_PROBES` measurements, those of the ends not counted.

    Args:
        target: share of the latency of the model as it is, in (0, 1).
        low: a step that is too slow.
        high: a later step that is fast enough.
        macs: multiply-accumulates of a step, which fall from step to step.
        measure: share of the latency of a step.
    """
    for probe in range(MOST_PROBES):
        if high.share >= (1 - TOLERANCE) * target:
            break
        step = _between(low, high, target if probe % 2 == 0 else None, macs)
        if step is None:
            break
        point = Point(step, macs(step), measure(step))
        low, high = (low, point) if point.share <= target else (point, high)
    return high


def _between(low: Point, high: Point, target: float | None, macs: Callable[[int], int]) -> int | None:
    """Return a step between two: where the target should be, or half way if there is none; `None` if nothing is."""
    if target is None:
        wanted = (low.macs + high.macs) / 2
    else:
        # Aimed at the middle of what is accepted.
        aim = target * (1 - TOLERANCE / 2)
        wanted = high.macs + (low.macs - high.macs) * (aim - high.share) / (low.share - high.share)
    step = first_below(macs, wanted, low.step, high.step)
    if macs(step) == high.macs:
        step = first_below(macs, high.macs, low.step, high.step) - 1
    return step if low.macs > macs(step) > high.macs else None
