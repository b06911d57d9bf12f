"""Which techniques may take part in one recipe, as conditions that a search space states. Pure.

Whether two techniques go together follows from the rules of recipes alone (`why_illegal`). A technique is asked about
only where its way to ship pays and where none that it does not go with takes part already, so that nothing illegal
can be proposed. The most general are asked about first: a condition on one that is not asked about itself never holds.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from kopt.core.records.search.recipes import Recipe
from kopt.core.records.search.techniques import Step
from kopt.search.techniques import stages
from kopt.search.techniques.catalog import CATALOG, Technique
from kopt.search.techniques.recipes import why_illegal

SCHEME = "scheme"


@dataclasses.dataclass(frozen=True)
class Participant:
    """When a technique is asked about.

    Attributes:
        row: of the catalog.
        ways: names of the ways to ship in which it pays.
        without: names of techniques that may not take part beside it, of those asked about before.
    """

    row: Technique
    ways: tuple[str, ...]
    without: tuple[str, ...]


def participants(rows: Iterable[Technique], ways: Sequence[Technique]) -> tuple[Participant, ...]:
    """Return when each technique is asked about, in the order of asking; those that pay in no way are left out."""
    paying = [(row, tuple(way for way in ways if _goes((row,), way))) for row in rows]
    asked = sorted((pair for pair in paying if pair[1]), key=lambda pair: -len(pair[1]))
    found = []
    for place, (row, own) in enumerate(asked):
        before = [(other, [way for way in theirs if way in own]) for other, theirs in asked[:place]]
        excluded = tuple(
            other.name for other, both in before if both and not any(_goes(ordered((row, other)), way) for way in both)
        )
        found.append(Participant(row, tuple(way.name for way in own), excluded))
    return tuple(found)


def ordered(rows: Iterable[Technique]) -> tuple[Technique, ...]:
    """Return techniques in the order of the work; those of one stage stay as they are in the catalog."""
    places = {name: place for place, name in enumerate(CATALOG)}
    return tuple(sorted(rows, key=lambda row: (stages.STAGES.index(row.stage), places.get(row.name, 0))))


def step_of(row: Technique, way: Technique, **values: Any) -> Step:
    """Return a step of a technique, for the numeric scheme of the way in which it ships."""
    if hasattr(row.config, SCHEME):
        values[SCHEME] = way.export.scheme
    return row.step(**values)


def _goes(rows: Sequence[Technique], way: Technique) -> bool:
    if any(way.name not in row.pays_on for row in rows):
        return False
    return not why_illegal(Recipe(tuple(step_of(row, way) for row in rows), way.export))
