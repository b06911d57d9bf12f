"""Where to write the names of points so that they can be read."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Box:
    """An upright rectangle, in any unit."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Return the area shared with `other`."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        """Area of the rectangle."""
        return (self.right - self.left) * (self.top - self.bottom)


def place_labels(
    points: Sequence[tuple[float, float]],
    radii: Sequence[float],
    sizes: Sequence[tuple[float, float]],
    bounds: Box,
    *,
    gap: float = 4.0,
) -> list[Box]:
    """Choose a place for a label beside each point, away from the other points, the other labels and the border.

    Greedy in the order given: the label of the first point has the free choice.

    Args:
        points: centers of the points.
        radii: their radii.
        sizes: width and height of each label.
        bounds: where labels may lie.
        gap: distance between a point and its label.

    Returns:
        One box a point.
    """
    marks = [Box(x - r, y - r, x + r, y + r) for (x, y), r in zip(points, radii, strict=True)]
    placed: list[Box] = []
    for (x, y), radius, (width, height) in zip(points, radii, sizes, strict=True):
        choices = list(_choices(x, y, radius + gap, width, height))
        placed.append(min(choices, key=lambda box: _cost(box, marks, placed, bounds)))
    return placed


def _choices(x: float, y: float, reach: float, width: float, height: float) -> list[Box]:
    boxes: list[Box] = []
    for distance in (reach, reach + 1.3 * height, reach + 2.6 * height, reach + 4.0 * height):
        diagonal = distance * 0.75
        corners = (
            (x + distance, y - height / 2),
            (x - distance - width, y - height / 2),
            (x - width / 2, y + distance),
            (x - width / 2, y - distance - height),
            (x + diagonal, y + diagonal),
            (x + diagonal, y - diagonal - height),
            (x - diagonal - width, y + diagonal),
            (x - diagonal - width, y - diagonal - height),
        )
        boxes.extend(Box(left, bottom, left + width, bottom + height) for left, bottom in corners)
    return boxes


def _cost(box: Box, marks: Sequence[Box], placed: Sequence[Box], bounds: Box) -> float:
    outside = box.area - box.overlap(bounds)
    return 4 * outside + 2 * sum(map(box.overlap, placed)) + sum(map(box.overlap, marks))
