"""What a run may do, found before it begins."""

import dataclasses
from collections.abc import Mapping, Sequence

from kopt.core.records.search.budget import Budget
from kopt.search.proposing.facts import Facts
from kopt.search.techniques.catalog import CALIBRATION, TRAINING, Technique, select, transforms, ways
from kopt.search.training import Training

INT8, FLOAT32 = "tflite-int8", "tflite-float32"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run may do.

    Attributes:
        ways: to ship.
        changes: techniques that may change the model, by name.
        facts: of the model.
        objective: what is to become small.
        training: how models are trained; `None`: they are not.
        notes: what will not be tried, and why.
    """

    ways: tuple[Technique, ...]
    changes: Mapping[str, Technique]
    facts: Facts
    objective: str
    training: Training | None
    notes: tuple[str, ...] = ()

    @property
    def main_ways(self) -> tuple[Technique, ...]:
        """Ways to ship for changed models: LiteRT in float32 and int8; those that may be used where neither may."""
        return tuple(way for way in self.ways if way.name in (FLOAT32, INT8)) or self.ways

    @property
    def way_names(self) -> tuple[str, ...]:
        """Names of the ways to ship."""
        return tuple(way.name for way in self.ways)


def plan_of(
    facts: Facts,
    techniques: Sequence[str] | None,
    budget: Budget,
    training: Training | None,
    more: Sequence[Technique] = (),
) -> Plan:
    """Return the plan for a model.

    Args:
        facts: of the model.
        techniques: names of rows that may be used; all if `None`.
        budget: says what is to become small.
        training: the request; `None` without.
        more: rows that are not of the catalog.

    Raises:
        ConfigError: an unknown name.
    """
    rows = (*select(techniques), *more)
    changes, notes = dict(transforms(rows)), []
    if changes and facts.unreadable:
        notes.append(f"Only ways to ship were tried: {facts.unreadable}")
        changes = {}
    needing = sorted(name for name, row in changes.items() if TRAINING in row.needs or row.recovers)
    if needing and training is None:
        notes.append(
            f"Techniques that need training were not tried, because `training` was not given: {', '.join(needing)}. "
            f"Pass `training=kopt.Training()`, `--train-epochs 4` on the command line."
        )
        changes = {name: row for name, row in changes.items() if name not in needing}
    if training is not None and not needing:
        notes.append("`training` was given, and nothing that may be tried needs it.")
        training = None
    return Plan(ways(rows), changes, facts, budget.objectives[0], training, tuple(notes))


def is_calibrated(row: Technique) -> bool:
    """Return whether a technique needs calibration examples and no training."""
    return CALIBRATION in row.needs and TRAINING not in row.needs
