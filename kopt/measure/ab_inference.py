"""What follows from paired values: interval, p-value, the number of pairs needed, and a verdict."""

import dataclasses
import math

import numpy as np

from kopt.core.errors import ConfigError
from kopt.core.settings import number, whole
from kopt.measure import paired, paired_power

_LEAST_IN_A_TAIL = 10
# Two loads of one small `.tflite` file differed in latency by up to 1.6 % (20 times with one pair of loads, on 2 cores)
# and 1.1 % (10 pairs), and every one of the 20 intervals left out 0: more rounds do not average this away.
_LOADS_DIFFER = 0.02


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked of the statistics; see `kopt.measure.ab_test`."""

    margin: float
    level: float
    power: float
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        number("margin", self.margin, least=0.0)
        for name, value in (("level", self.level), ("power", self.power)):
            if not 0.5 <= number(name, value, least=0.0, most=1.0) < 1.0:
                raise ConfigError(f"`{name}` is a probability from 0.5, below 1. Received: {value!r}.")
        whole("resamples", self.resamples, least=1000)
        whole("seed", self.seed, least=0)
        if self.resamples * (1 - self.level) / 2 < _LEAST_IN_A_TAIL - 1e-6:
            raise ConfigError(
                f"An interval of {self.level} needs at least {math.ceil(2 * _LEAST_IN_A_TAIL / (1 - self.level)):,} "
                f"resamples. Received: resamples={self.resamples}."
            )


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was worked out of the differences."""

    difference: float
    interval: paired.Interval
    p_value: float
    method: str
    pairs_needed: int | None
    detectable: float | None
    only_a: int | None = None
    only_b: int | None = None


def of_answers(differences: np.ndarray, larger_is_better: bool, settings: Settings) -> Finding:
    """Work out right and wrong answers."""
    count, level, power = len(differences), settings.level, settings.power
    up, down = int((differences > 0).sum()), int((differences < 0).sum())
    if up + down < paired.FEW_DISCORDANT:
        interval = paired.fractions_interval(down, up, count, level)
        how = f"Interval of Bonett and Price, since fewer than {paired.FEW_DISCORDANT} answers differ"
    else:
        interval = paired.bca_interval(differences, level, settings.resamples, settings.seed)
        how = _bootstrap(settings)
    disagreement, mean = (up + down) / count, float(differences.mean())
    gain = mean if larger_is_better else -mean
    return Finding(
        difference=mean,
        interval=interval,
        p_value=paired.mcnemar_p(down, up),
        method=f"{how}; McNemar's test (mid-p)",
        pairs_needed=paired_power.fractions_needed(gain, disagreement, level, power, settings.margin),
        detectable=paired_power.fractions_detectable(count, disagreement, level, power),
        only_a=down if larger_is_better else up,
        only_b=up if larger_is_better else down,
    )


def of_scores(differences: np.ndarray, larger_is_better: bool, settings: Settings) -> Finding:
    """Work out scores of any size."""
    count, level, power = len(differences), settings.level, settings.power
    if count < paired.FEW:
        interval, p_value = paired.t_interval(differences, level), paired.sign_flip_p(differences)
        method = (
            f"Interval by Student's t; exact sign-flip test, as fewer than {paired.FEW} pairs are too few to resample"
        )
    elif not np.ptp(differences):
        interval, p_value = paired.Interval(differences[0], differences[0]), paired.sign_test_p(differences)
        method = "No interval, since all differences are equal; sign test"
    else:
        interval = paired.bca_interval(differences, level, settings.resamples, settings.seed)
        p_value, method = paired.t_test_p(differences), f"{_bootstrap(settings)}; paired t test"
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    gain = mean if larger_is_better else -mean
    return Finding(
        difference=mean,
        interval=interval,
        p_value=p_value,
        method=method,
        pairs_needed=paired_power.means_needed(gain, deviation, level, power, settings.margin),
        detectable=paired_power.means_detectable(count, deviation, level, power) if deviation else None,
    )


def of_rounds(times: np.ndarray, batch_size: int, settings: Settings) -> Finding:
    """Work out milliseconds of two models in rounds, shape (rounds, 2)."""
    ratios = times[:, 1] / times[:, 0] - 1
    inner, difference = paired.median_interval(ratios, settings.level), float(np.median(ratios))
    # The median's spread in so many rounds, as that of a mean would be that has this interval.
    deviation = paired.error_of(inner, settings.level) * math.sqrt(len(ratios))
    clear = -difference - _LOADS_DIFFER if settings.margin else max(0.0, abs(difference) - _LOADS_DIFFER)
    seen = paired_power.means_detectable(len(ratios), deviation, settings.level, settings.power)
    return Finding(
        difference=difference,
        interval=paired.Interval(inner.low - _LOADS_DIFFER, inner.high + _LOADS_DIFFER),
        p_value=paired.sign_test_p(ratios),
        method=f"Median over rounds of b / a - 1, batch {batch_size}, in turns; interval between order statistics, "
        f"wider by {_LOADS_DIFFER:.0%} at both ends, as two loads of one file differ by that; sign test",
        pairs_needed=paired_power.means_needed(clear, deviation, settings.level, settings.power, settings.margin),
        detectable=None if seen is None else seen + _LOADS_DIFFER,
    )


def verdict(interval: paired.Interval, margin: float, larger_is_better: bool, *, differs: bool = True) -> str:
    """Return what an interval of `b - a` says of `b`; see `ABTest.verdict`.

    Args:
        interval: of the difference.
        margin: a loss that does not matter.
        larger_is_better: direction of the metric.
        differs: the test found a difference too.
    """
    low, high = interval if larger_is_better else (-interval.high, -interval.low)
    if low > 0 and differs:
        return "better"
    if margin > 0 and low > -margin:
        return "equivalent" if high < margin else "not worse"
    return "worse" if high < 0 and differs else "undecided"


def doubts(found: Finding, pairs: int, unit: str, enough: bool, differs: bool, level: float) -> tuple[str, ...]:
    """Return what keeps a finding from being claimed, in sentences."""
    limit = f"{1 - level:.3g}"
    if not enough:
        least = paired_power.least_pairs(level)
        return (f"Nothing is claimed: {pairs} {unit} cannot bring p below {limit}, {least} can.",)
    leaves_out_zero = not found.interval.low <= 0 <= found.interval.high
    if leaves_out_zero and not differs:
        return (f"The interval leaves out 0, but p is not below {limit}: not taken as a difference.",)
    if differs and not leaves_out_zero:
        return (f"p is below {limit}, but the interval reaches 0: not taken as a difference.",)
    return ()


def _bootstrap(settings: Settings) -> str:
    return f"Paired bootstrap interval (BCa, {settings.resamples:,} resamples)"
