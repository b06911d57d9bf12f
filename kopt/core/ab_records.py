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
        pairs: examples, rounds of timing, or runs.
        larger_is_better: direction of the metric.
        margin: a loss of the metric that does not matter, in the unit of `difference`; 0 asks for better or worse.
        verdict: of `b`: `"better"` or `"worse"` (the interval is on one side of zero), `"equivalent"` (inside the
            margin), `"not worse"` (by more than the margin) or `"undecided"`.
        only_a, only_b: examples that only one of the two gets right; `None` for other metrics.
        pairs_needed: to see a difference of this size with a probability of `power`; `None` if it is exactly 0.
        detectable: smallest difference that so many pairs show with a probability of `power`.
        power: see there.
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
    detectable: float
    power: float = 0.8
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in AB_VERDICTS:
            raise ConfigError(f"`verdict` must be one of {', '.join(AB_VERDICTS)}. Received: {self.verdict!r}.")
