"""What should be changed about a model, its training or its data, with the evidence: frozen, serialisable."""

import dataclasses

from kopt.core.records.measurements import Machine
from kopt.core.serialization import Record
from kopt.core.settings import choice, number

DEPTHS = ("quick", "full")
# Of people who search for what went wrong.
AREAS = (
    "out of memory", "slow training", "convergence", "over-fitting", "numerics", "data and labels", "slow inference",
    "model size", "accuracy of the file", "distribution", "versions",
)  # fmt: skip
# A setting or a call, minutes; a training, hours; another architecture or another way to train, days.
EFFORTS = ("basic", "intermediate", "advanced")
GAIN_SOURCES = ("measured", "estimated", "published", "unknown")
TARGETS = ("correctness", "quality", "training time", "inference time", "memory", "size")


@dataclasses.dataclass(frozen=True)
class ExpectedGain(Record):
    """What a change is expected to bring.

    Attributes:
        target: one of `TARGETS`.
        share: of it that is won, in [0, 1], e.g. 0.4 of the training time; `None` where no number is known.
        source: `"measured"` (here), `"estimated"`, `"published"`, or `"unknown"` without a share.
        how: what was measured, the formula, or where it was published.
    """

    target: str
    share: float | None
    source: str
    how: str

    def __post_init__(self) -> None:
        choice("target", self.target, TARGETS)
        choice("source", self.source, GAIN_SOURCES)
        if self.share is not None:
            number("share", self.share, least=0.0, most=1.0)


@dataclasses.dataclass(frozen=True)
class AdviceItem(Record):
    """Something to change, with its reason.

    Attributes:
        rule: id of the rule that found it; a heading of the troubleshooting page.
        area: one of `AREAS`.
        symptom: in the words in which it is searched for.
        where: layer, input, stage, file or setting that it is about; empty for the whole.
        evidence: what was seen, with the numbers and what they were held against.
        remedy: what to do, in words.
        code: the call or setting that does it.
        gain: expected.
        effort: one of `EFFORTS`.
    """

    rule: str
    area: str
    symptom: str
    where: str
    evidence: str
    remedy: str
    code: str
    gain: ExpectedGain
    effort: str

    def __post_init__(self) -> None:
        choice("area", self.area, AREAS)
        choice("effort", self.effort, EFFORTS)


@dataclasses.dataclass(frozen=True)
class LookTaken(Record):
    """One thing that was looked at, or why it was not.

    Attributes:
        name: as rules call it.
        subject: what it looks at, in words.
        seconds: that it took; `None` if it was not taken.
        reason: why it was not taken; empty if it was.
    """

    name: str
    subject: str
    seconds: float | None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ModelAdvice(Record):
    """Everything that should be changed, and what nobody looked at.

    Attributes:
        model: name.
        depth: one of `DEPTHS`.
        items: most gain for its effort first.
        looks: in the order in which they were taken.
        checked: ids of the rules that had all they need.
        unchecked: reason, by id, of the rules that had not.
        notes: what else was remarked on the way.
        machine: where times were measured.
        seconds: that everything took.
    """

    model: str
    depth: str
    items: tuple[AdviceItem, ...]
    looks: tuple[LookTaken, ...]
    checked: tuple[str, ...]
    unchecked: dict[str, str]
    notes: tuple[str, ...]
    machine: Machine
    seconds: float

    def __post_init__(self) -> None:
        choice("depth", self.depth, DEPTHS)

    def of(self, rule: str) -> tuple[AdviceItem, ...]:
        """Return what one rule found."""
        return tuple(item for item in self.items if item.rule == rule)
