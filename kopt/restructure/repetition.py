"""What repeats itself in a row: functions of sequences."""

import dataclasses
import itertools
from collections.abc import Hashable, Sequence


@dataclasses.dataclass(frozen=True)
class Run:
    """`count` blocks of `period` entries, one after the other, that are equal entry by entry.

    Attributes:
        start: place of the first entry.
        period: entries of a block.
        count: blocks, at least 2.
    """

    start: int
    period: int
    count: int

    @property
    def end(self) -> int:
        """Place behind the last entry."""
        return self.start + self.period * self.count

    def blocks(self) -> list[range]:
        """Return the places of each block."""
        return [range(place, place + self.period) for place in range(self.start, self.end, self.period)]


def find_runs(entries: Sequence[Hashable], sizes: Sequence[int]) -> list[Run]:
    """Return the repetitions that spare most, then those in what is left before and behind, in order.

    Args:
        entries: what is compared.
        sizes: what each entry weighs; a run spares the weight of all of its blocks but one.
    """
    best = max(_runs(entries), key=lambda run: (_spared(run, sizes), -run.period), default=None)
    if best is None:
        return []
    behind = find_runs(entries[best.end :], sizes[best.end :])
    shifted = [dataclasses.replace(run, start=run.start + best.end) for run in behind]
    return [*find_runs(entries[: best.start], sizes[: best.start]), best, *shifted]


def _runs(entries: Sequence[Hashable]) -> list[Run]:
    found = []
    for period in range(1, len(entries) // 2 + 1):
        matches = [entries[place] == entries[place + period] for place in range(len(entries) - period)]
        place = 0
        for equal, group in itertools.groupby(matches):
            length = len(list(group))
            if equal and length >= period:
                found.append(Run(place, period, length // period + 1))
            place += length
    return found


def _spared(run: Run, sizes: Sequence[int]) -> int:
    return sum(sizes[run.start : run.start + run.period]) * (run.count - 1)
