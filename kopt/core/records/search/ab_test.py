"""The comparison of two models on the same examples: frozen, serialisable."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record

AB_VERDICTS = ("better", "worse", "equivalent", "not worse", "undecided")


@dataclasses.dataclass(frozen=True)
class ABTest(Record):
    """Whether `b` is better than `a`, from paired values.

    Attributes:
        a, b: names; `a` is the reference.
        metric: what was compared, e.g. `"accuracy"`.
        value_a, value_b: means over the pairs; of `"latency"` medians in milliseconds.
        difference: `value_b - value_a`; of `"latency"` the median over rounds of `b / a`, less 1.
        low, high: interval of `difference`.
        level: share of such intervals that contain the true difference.
        p_value: two-sided, of no difference at all.
        method: how interval and p-value were worked out.
        pairs: number of paired values.
        larger_is_better: direction of the metric.
        margin: a loss of the metric that does not matter, in the unit of `difference`; 0 asks for better or worse.
        verdict: of `b`: `"better"` or `"worse"` (the interval is on one side of zero, and the test agrees),
            `"equivalent"` (inside the margin), `"not worse"` (by more than the margin) or `"undecided"`.
        only_a, only_b: examples that only one of the two gets right; `None` for other metrics.
        pairs_needed: to answer the question with a probability of `power` if the true difference is the one seen: to
            show a difference, or, with a margin, that `b` is not worse by more than it. `None` if no number will do.
        detectable: smallest difference that so many pairs show with a probability of `power`; `None` if the two agree
            on every pair of scores, which says nothing of their spread.
        power: see there.
        unit: what a pair is: `"examples"`, `"rounds"` of timing or `"pairs"`.
        notes: what to know before believing it.
    """

    a: str
    b: str
    metric: str
    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    level: float
    p_value: float
    method: str
    pairs: int
    larger_is_better: bool
    margin: float
    verdict: str
    only_a: int | None
    only_b: int | None
    pairs_needed: int | None
    detectable: float | None
    power: float = 0.8
    unit: str = "pairs"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in AB_VERDICTS:
            raise ConfigError(f"`verdict` must be one of {', '.join(AB_VERDICTS)}. Received: {self.verdict!r}.")

    @property
    def gain(self) -> float:
        """How much better `b` is, in the unit of `difference`; negative if it is worse."""
        return self.difference if self.larger_is_better else -self.difference

    @property
    def gain_interval(self) -> tuple[float, float]:
        """The interval of `gain`."""
        return (self.low, self.high) if self.larger_is_better else (-self.high, -self.low)
