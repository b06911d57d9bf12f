"""What the search and its child processes say to each other: frozen, serialisable."""

import dataclasses
from collections.abc import Collection

from kopt.core.records.search.techniques import Step
from kopt.core.serialization import Record

RECORD, FAILURE, RECIPE, LOG = "made.json", "failure.txt", "recipe.json", "log.txt"
# How a child process ends that could not write: no model that is tried later can do better.
NO_ROOM = 75


@dataclasses.dataclass(frozen=True)
class Job(Record):
    """Models to make, each by one step from the one before.

    Attributes:
        supplies: directory.
        steps: all, from the original on.
        source: file to begin from, that the steps before the targets made; empty for the original.
        targets: directories of the models to make, of the last steps.
        remark: how they are made, if not as usual.
        known: fingerprints; where a step before the last makes one of these models, the rest is not made.
    """

    supplies: str
    steps: tuple[Step, ...]
    source: str
    targets: tuple[str, ...]
    remark: str = ""
    known: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MadeModel(Record):
    """A model that steps made.

    Attributes:
        steps: from the original on.
        summary: what the last one did, in a sentence.
        changed: false where the last one found nothing to do.
        seconds: that the last one took.
        sha256: of the file.
        fingerprint: of what the model computes; equal for equal models.
        remark: how it was made, if not as usual.
        in_float: layers that stay in float when it becomes an integer file.
    """

    steps: tuple[Step, ...]
    summary: str
    changed: bool
    seconds: float
    sha256: str
    fingerprint: str
    remark: str = ""
    in_float: tuple[str, ...] = ()

    def ends(self, known: Collection[str]) -> str:
        """Return why nothing is made of this model, with the fingerprints of those that are there; empty if it is."""
        if not self.changed:
            return self.summary
        return "the same model as another one, because widths are rounded" if self.fingerprint in known else ""

    @staticmethod
    def file_name() -> str:
        """Name of the file beside the record."""
        return "model.keras"
