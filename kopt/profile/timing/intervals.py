"""The arithmetic of times that lie inside and beside each other; pure functions of numbers."""

import dataclasses
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Interval:
    """Something that ran in one thread.

    Attributes:
        start, end: in one unit of time.
        key: what ran.
        helper: whether the thread only lent a hand to what runs in another one.
    """

    start: float
    end: float
    key: int
    helper: bool = False

    @property
    def length(self) -> float:
        """How long it took."""
        return self.end - self.start


def innermost(intervals: Iterable[Interval]) -> list[Interval]:
    """Cut the intervals of one thread, which may lie inside each other, so that at any time only the innermost is left.

    Example:
        >>> innermost([Interval(0, 10, key=1), Interval(2, 5, key=2)])
        [Interval(0, 2, 1), Interval(2, 5, 2), Interval(5, 10, 1)]
    """
    cut: list[Interval] = []
    stack: list[Interval] = []
    position = 0.0

    def advance(until: float) -> None:
        nonlocal position
        if stack and until > position:
            cut.append(dataclasses.replace(stack[-1], start=position, end=until))
        position = max(position, until)

    for interval in sorted(intervals, key=lambda one: (one.start, -one.end)):
        while stack and stack[-1].end <= interval.start:
            advance(stack[-1].end)
            stack.pop()
        advance(interval.start)
        position = interval.start if not stack else position
        stack.append(interval)
    while stack:
        advance(stack[-1].end)
        stack.pop()
    return cut


def divided(threads: Sequence[Sequence[Interval]]) -> dict[int, float]:
    """Return, by key, the time at which something ran, divided equally among all that ran at that moment.

    The values add up to the length of the time in which anything ran at all, however many threads there were.

    Args:
        threads: intervals of each thread, none inside another.
    """
    edges = sorted(
        edge
        for thread in threads
        for one in thread
        if one.length > 0
        for edge in ((one.start, 1, one.key), (one.end, 0, one.key))
    )
    running: dict[int, int] = {}
    times: dict[int, float] = {}
    active, position = 0, 0.0
    for moment, begins, key in edges:
        if active and moment > position:
            part = (moment - position) / active
            for one, copies in running.items():
                times[one] = times.get(one, 0.0) + part * copies
        position = moment
        active += 1 if begins else -1
        running[key] = running.get(key, 0) + (1 if begins else -1)
        if not running[key]:
            del running[key]
    return times


def sums(intervals: Iterable[Interval]) -> dict[int, float]:
    """Return the total length by key."""
    totals: dict[int, float] = {}
    for one in intervals:
        totals[one.key] = totals.get(one.key, 0.0) + one.length
    return totals
