"""How a file was judged against the model it came from: frozen, serialisable."""

import dataclasses

from kopt.core.serialization import Record
from kopt.core.settings import choice

VERDICTS = ("inside", "outside", "undecided")
Ends = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ClassChange(Record):
    """What became of one class.

    Attributes:
        label: its number, as text.
        examples: of that class.
        before, after: fraction of them answered right, by the model as given and by the file.
        low, high: interval of `drop`.
    """

    label: str
    examples: int
    before: float
    after: float
    low: float
    high: float

    @property
    def drop(self) -> float:
        """What was lost, as a fraction; negative where the file is better."""
        return self.before - self.after


@dataclasses.dataclass(frozen=True)
class Judgement(Record):
    """A file against the model as given, on the same examples.

    Attributes:
        metric: what was compared.
        examples: how many.
        before, after: values of the model as given and of the file.
        before_interval, after_interval: of each of them alone; `None` where there are too few examples for one.
        low, high: interval of `drop`, paired by example; `None` likewise.
        level: share of such intervals that contain the true value.
        method: how the interval was worked out.
        verdict: `"inside"` (the whole interval is within what may be lost), `"outside"` (none of it) or `"undecided"`:
            so many examples cannot tell.
        examples_needed: about how many would show that the drop is inside, if it is as estimated; `None` where no
            number would, or it is not known.
        classes: change of every class; empty where there are none.
        worst_class: verdict on the class that lost most against what a class may lose; empty without such a floor.
    """

    metric: str
    examples: int
    before: float
    after: float
    before_interval: Ends | None
    after_interval: Ends | None
    low: float | None
    high: float | None
    level: float
    method: str
    verdict: str
    examples_needed: int | None = None
    classes: tuple[ClassChange, ...] = ()
    worst_class: str = ""

    def __post_init__(self) -> None:
        choice("verdict", self.verdict, VERDICTS)

    @property
    def drop(self) -> float:
        """What was lost; negative where the file is better."""
        return self.before - self.after

    @property
    def interval(self) -> Ends | None:
        """The interval of `drop`."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def most_changed(self) -> ClassChange | None:
        """The class that lost most."""
        return max(self.classes, key=lambda change: change.drop, default=None)


@dataclasses.dataclass(frozen=True)
class Shortfall(Record):
    """A demand that a candidate does not meet.

    Attributes:
        demand: in words or as a constraint, e.g. `"size_bytes<=200000"`.
        asked: the bound.
        got: the value; `None` if it is not known.
        excess: by what share of the bound it is missed.
    """

    demand: str
    asked: float
    got: float | None
    excess: float
