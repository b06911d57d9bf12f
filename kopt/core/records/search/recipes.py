"""A whole way from a model to a file: frozen, serialisable."""

import dataclasses

from kopt.core.records.candidates import Candidate, ExportConfig
from kopt.core.records.search.techniques import Step
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class Recipe(Record):
    """Steps on a model, and the way to ship what they make.

    Attributes:
        steps: in the order in which they are applied; none ships the model as it is.
        export: how the result becomes a file.
    """

    steps: tuple[Step, ...] = ()
    export: ExportConfig = dataclasses.field(default_factory=ExportConfig)

    @classmethod
    def of(cls, candidate: Candidate) -> "Recipe":
        """Return the recipe that made a candidate."""
        return cls(candidate.steps, candidate.config)

    @property
    def name(self) -> str:
        """E.g. `"channels-0.5+recover-3+tflite-int8"`; the way to ship alone where there are no steps."""
        return "+".join((*(step.label for step in self.steps), ship_name(self.export)))


def ship_name(export: ExportConfig) -> str:
    """Return what the catalog calls a way to ship, e.g. `"tflite-int8"`, with settings beyond format and scheme."""
    is_plain = export.format != "tflite" and export.scheme == "float32"
    base = export.format if is_plain else f"{export.format}-{export.scheme}"
    extra = [f"io={export.io_dtype}"] if export.io_dtype else []
    extra += [f"fallback={'.'.join(export.fallback)}"] if export.fallback else []
    return "-".join((base, *extra))


def steps_name(steps: tuple[Step, ...]) -> str:
    """Return the names of steps, e.g. `"channels-0.5+recover-3"`."""
    return "+".join(step.label for step in steps)
