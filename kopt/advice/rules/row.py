"""A rule as data: what it is called, what it reads, and the function that finds something."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kopt.core.records.search.advice import AREAS, EFFORTS, TARGETS, AdviceItem, ExpectedGain
from kopt.core.settings import choice

_SHOWN_PLACES = 3


@dataclasses.dataclass(frozen=True)
class Found:
    """What a rule found.

    Attributes:
        where: see `AdviceItem`.
        evidence: numbers, with what they were held against.
        share: of the target that is won; `None` where no number is known.
        how: the number is from; with a share only.
        source: of `share`: `"measured"`, `"estimated"` or `"published"`.
        remedy, code: in the place of those of the rule, where what was found says more.
    """

    where: str
    evidence: str
    share: float | None = None
    how: str = ""
    source: str = "estimated"
    remedy: str = ""
    code: str = ""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        id: heading on the troubleshooting page.
        area: one of `AREAS`.
        symptoms: words in which users search for it, the plainest first.
        needs: fields of `Facts`; `check` gets them in this order, then those of `uses`.
        check: yields what is wrong; nothing of what is healthy.
        looks_for: what `check` does, in words with its thresholds.
        remedy: what helps, in words.
        code: that does it.
        target: of the gain, one of `TARGETS`.
        gain: where the number of the gain comes from, in words.
        effort: one of `EFFORTS`.
        uses: more fields of `Facts`, which may be `None`.
    """

    id: str
    area: str
    symptoms: tuple[str, ...]
    needs: tuple[str, ...]
    check: Callable[..., Iterator[Found]]
    looks_for: str
    remedy: str
    code: str
    target: str
    gain: str
    effort: str
    uses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choice("area", self.area, AREAS)
        choice("effort", self.effort, EFFORTS)
        choice("target", self.target, TARGETS)

    def missing(self, facts: Any) -> tuple[str, ...]:
        """Return what `facts` lack for this rule."""
        return tuple(name for name in self.needs if getattr(facts, name) is None)

    def items(self, facts: Any) -> tuple[AdviceItem, ...]:
        """Return advice on `facts`, which must have all that the rule needs."""
        return tuple(map(self._item, self.check(*(getattr(facts, name) for name in (*self.needs, *self.uses)))))

    def _item(self, found: Found) -> AdviceItem:
        share = None if found.share is None else min(max(found.share, 0.0), 1.0)
        source = "unknown" if share is None else found.source
        gain = ExpectedGain(self.target, share, source, found.how or self.gain)
        return AdviceItem(
            rule=self.id,
            area=self.area,
            symptom=self.symptoms[0],
            where=found.where,
            evidence=found.evidence,
            remedy=found.remedy or self.remedy,
            code=found.code or self.code,
            gain=gain,
            effort=self.effort,
        )


def places(names: Sequence[str]) -> str:
    """Return a few names and how many more there are."""
    more = len(names) - _SHOWN_PLACES
    return ", ".join(names[:_SHOWN_PLACES]) + (f" and {more} more" if more > 0 else "")
