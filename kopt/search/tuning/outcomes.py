"""What came of each trial, on disk: `trials/<number>.json`, written by whoever ran it, read by who adds up."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from kopt.core.errors import ConfigError
from kopt.core.files import atomic_write
from kopt.core.records.search.recipes import Recipe
from kopt.core.serialization import Record

OK, UNCHANGED, FAILED = STATUSES = ("ok", "unchanged", "failed")


@dataclasses.dataclass(frozen=True)
class Outcome(Record):
    """One trial.

    Attributes:
        number: of the trial.
        recipe: that was proposed.
        status: `"ok"`; `"unchanged"`, a step found nothing to do, so that there is no file; or `"failed"`.
        reason: why there is no file.
        metrics: what the tuner was told: the score, and of a file its drop and the ratios of its costs.
        worker: name of the process that ran it.
        seconds: that the trial took there.
        ended: why no more trials should begin, e.g. because the target is reached; empty as long as they should.
    """

    number: int
    recipe: Recipe
    status: str
    reason: str
    metrics: dict[str, float]
    worker: str
    seconds: float = 0.0
    ended: str = ""


def write(place: Path, outcome: Outcome) -> None:
    """Write what came of a trial."""
    atomic_write(place / f"{outcome.number}.json", outcome.to_json() + "\n", overwrite=True)


def read(place: Path) -> tuple[Outcome, ...]:
    """Return what came of all trials so far, in the order of their numbers."""
    return tuple(sorted(_all(place), key=lambda one: one.number))


def _all(place: Path) -> Iterator[Outcome]:
    for path in place.glob("*.json"):
        try:
            yield Outcome.from_json(path.read_text())
        except ConfigError:  # of another version: the trial is run again where it is asked for
            continue
