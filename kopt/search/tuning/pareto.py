"""Which points no other beats, and how children of two points are made. Pure, but for the generator that is given.

Source: K. Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.
"""

from collections.abc import Sequence

import numpy as np

_Points = Sequence[Sequence[float]]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether `a` is nowhere more than `b`, and somewhere less."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def fronts(points: _Points) -> list[list[int]]:
    """Return the numbers of the points that no other dominates, then of those that only these dominate, and so on."""
    left, found = list(range(len(points))), []
    while left:
        front = [one for one in left if not any(dominates(points[other], points[one]) for other in left)]
        found.append(front)
        left = [one for one in left if one not in front]
    return found


def crowding(points: _Points) -> list[float]:
    """Return how far each point of a front is from its neighbours: the sum over the axes of the distance between them.

    Axes are scaled to [0, 1]; the ends of each axis are infinitely far, so that the front keeps its reach.
    """
    found = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda one: points[one][axis])
        reach = points[order[-1]][axis] - points[order[0]][axis]
        found[order[0]] = found[order[-1]] = np.inf
        for before, one, after in zip(order, order[1:], order[2:], strict=False):
            found[one] += (points[after][axis] - points[before][axis]) / reach if reach else 0.0
    return found


def best_first(points: _Points, excess: Sequence[float]) -> list[int]:
    """Return the numbers of points, the best first.

    Points within the limits come first, by front and there by distance from their neighbours; the others follow, those
    that miss the limits by least first.

    Args:
        points: less is better on every axis.
        excess: by how much each misses the limits; 0 within.
    """
    within = [one for one, missed in enumerate(excess) if missed <= 0]
    found: list[int] = []
    for front in fronts([points[one] for one in within]):
        numbers = [within[one] for one in front]
        distances = dict(zip(numbers, crowding([points[one] for one in numbers]), strict=True))
        found += sorted(numbers, key=lambda one: -distances[one])
    outside = [one for one, missed in enumerate(excess) if missed > 0]
    return found + sorted(outside, key=lambda one: excess[one])


def tournament(count: int, generator: np.random.Generator) -> int:
    """Return a number below `count`, the lesser of two drawn, so that the first are drawn most."""
    return int(generator.integers(count, size=2).min())
