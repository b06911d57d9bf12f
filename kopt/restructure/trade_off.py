"""Ranks for many layers at once: the least error for the arithmetic that is saved. Functions of numbers."""

import dataclasses
import functools
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Options:
    """What a layer can become.

    Attributes:
        ranks: `(n, 1)` or `(n, 2)`, one row an option.
        costs: of each, e.g. multiply-accumulates.
        lost: squared relative error of each, in [0, 1].
        unchanged: cost of the layer as it is, which loses nothing.
    """

    ranks: np.ndarray
    costs: np.ndarray
    lost: np.ndarray
    unchanged: int

    @functools.cached_property
    def errors(self) -> np.ndarray:
        """`-log(kept)`, so that the sum over layers is small where the product of what they keep is large."""
        return -np.log(np.maximum(1.0 - self.lost, np.finfo(float).tiny))


def cheapest(options: Options, lost: float) -> tuple[int, ...]:
    """Return the ranks of least cost that lose at most `lost`; of equal costs, those that lose least."""
    # Sums of energies round: what keeps everything must be found.
    allowed = np.flatnonzero(options.lost <= lost + 1e-12)
    best = allowed[np.lexsort((options.lost[allowed], options.costs[allowed]))[0]]
    return tuple(map(int, options.ranks[best]))


def least_cost(layers: list[Options]) -> int:
    """Return the sum of costs that cannot be gone below."""
    return sum(min(layer.unchanged, int(layer.costs.min())) for layer in layers)


def spend(layers: list[Options], target: int) -> list[tuple[int, ...] | None]:
    """Return ranks for each layer, `None` where it stays, so that the costs add up to at most `target`.

    Greedy: the change of least added error per cost saved comes first, again and again; at the last one the least error
    that meets the target is taken. On the lower convex hull of every layer's options this is the best there is for the
    product over the layers of the energies that they keep, but for the last step. A sum would give up a layer whole.

    Source: Zhang, Zou, He, Sun, "Accelerating Very Deep Convolutional Networks", 2016, section 3.4.

    Args:
        layers: what each can become.
        target: at least `least_cost(layers)`.
    """
    chosen: list[int | None] = [None] * len(layers)
    total = sum(layer.unchanged for layer in layers)
    steps = sorted(
        itertools.chain.from_iterable(_steps(number, layer) for number, layer in enumerate(layers)),
        key=lambda step: step.slope,
    )
    for step in steps:
        if total <= target:
            break
        total -= step.saved
        chosen[step.layer] = step.option
    _give_back(layers, chosen, target - total)
    return [
        None if option is None else tuple(map(int, layer.ranks[option]))
        for layer, option in zip(layers, chosen, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class _Step:
    """From one point of a layer's hull to the next cheaper one."""

    slope: float
    layer: int
    option: int
    saved: int


def _steps(number: int, layer: Options) -> list[_Step]:
    """Return the steps along the lower convex hull, from the layer as it is to the cheapest; their slopes rise."""
    hull: list[tuple[float, float, int]] = [(float(layer.unchanged), 0.0, -1)]
    order = np.lexsort((layer.errors, -layer.costs))
    for option in order[layer.costs[order] < layer.unchanged]:
        point = (float(layer.costs[option]), float(layer.errors[option]), int(option))
        if point[0] == hull[-1][0]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [
        _Step(_slope(one, other), number, other[2], int(one[0] - other[0])) for one, other in itertools.pairwise(hull)
    ]


def _slope(dearer: tuple[float, float, int], cheaper: tuple[float, float, int]) -> float:
    return (cheaper[1] - dearer[1]) / (dearer[0] - cheaper[0])


def _give_back(layers: list[Options], chosen: list[int | None], room: int) -> None:
    """Spend what the last step saved too much on the layer where it lowers the error most."""
    best: tuple[float, int, int | None] | None = None
    for number, (layer, option) in enumerate(zip(layers, chosen, strict=True)):
        if option is None:
            continue
        limit = int(layer.costs[option]) + room
        place: int | None
        if layer.unchanged <= limit:
            place, gained = None, -float(layer.errors[option])
        else:
            allowed = np.flatnonzero(layer.costs <= limit)
            place = int(allowed[np.argmin(layer.errors[allowed])])
            gained = float(layer.errors[place] - layer.errors[option])
        if gained < 0 and (best is None or gained < best[0]):
            best = (gained, number, place)
    if best is not None:
        chosen[best[1]] = best[2]
