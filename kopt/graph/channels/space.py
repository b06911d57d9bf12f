"""Numbers for channels, and which of them are one: they are removed together or not at all."""

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """What became of the ids of a `ChannelSpace`.

    A unit is a set of channels of any number of layers that only make sense together, e.g. the fifth channel of the two
    convolutions that a residual connection adds.

    Attributes:
        of_id: unit of every id.
        reasons: of every unit, why it stays; `""` if it may be removed.
        remarks: of every unit, what else changes when it is removed; `""` if nothing does.
    """

    of_id: Ids
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]


class ChannelSpace:
    """Hands out ids for channels and remembers which belong together.

    Ids are handed out while a graph is walked, and are put together at the end: `resolve` is one pass over all ties.
    """

    def __init__(self) -> None:
        self._size = 0
        self._ties: list[tuple[Ids, Ids]] = []
        self._reasons: list[tuple[Ids, str]] = []
        self._remarks: list[tuple[Ids, str]] = []

    def new(self, size: int) -> Ids:
        """Return `size` ids that nobody has."""
        ids = np.arange(self._size, self._size + size, dtype=np.int64)
        self._size += size
        return ids

    def tie(self, one: Ids, other: Ids) -> None:
        """Make `one[i]` and `other[i]` the same unit, for every `i`; both have the same shape."""
        if one is not other:
            self._ties.append((one.ravel(), other.ravel()))

    def freeze(self, ids: Ids, reason: str, *, first: bool = False) -> None:
        """Make these stay; of several reasons the first is kept, before all others one that is given as `first`."""
        self._reasons.insert(0 if first else len(self._reasons), (ids.ravel(), reason))

    def remark(self, ids: Ids, remark: str) -> None:
        """Say what else changes when one of these is removed; of several remarks the first is kept."""
        self._remarks.append((ids.ravel(), remark))

    def resolve(self) -> Units:
        """Return the units; they are numbered in the order of their first id."""
        ones, others = ([pair[side] for pair in self._ties] or [self.new(0)] for side in (0, 1))
        row, column = np.concatenate(ones), np.concatenate(others)
        ties = coo_array((np.ones(row.size, np.bool_), (row, column)), shape=(self._size, self._size))
        labels = connected_components(ties, directed=False)[1] if self._size else self.new(0)
        _, first, of_id = np.unique(labels, return_index=True, return_inverse=True)
        rank = np.empty(first.size, np.int64)
        rank[np.argsort(first)] = np.arange(first.size)
        of_id = rank[of_id]
        return Units(of_id, _texts(of_id, first.size, self._reasons), _texts(of_id, first.size, self._remarks))


def _texts(of_id: Ids, count: int, texts: list[tuple[Ids, str]]) -> tuple[str, ...]:
    """Return the first text of every unit."""
    found = [""] * count
    for ids, text in texts:
        for unit in np.unique(of_id[ids]):
            found[unit] = found[unit] or text
    return tuple(found)
