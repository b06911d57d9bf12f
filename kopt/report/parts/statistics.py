"""How sure a metric is that was counted on so many examples."""

import math

from kopt.core.errors import ConfigError

Z_95 = 1.959963984540054
Interval = tuple[float, float]


def wilson_interval(successes_fraction: float, n: int, *, z: float = Z_95) -> Interval:
    """Return the Wilson score interval of a fraction that was counted on `n` examples.

    Unlike the textbook interval it stays inside [0, 1] and does not shrink to nothing at 0 and 1.

    Args:
        successes_fraction: counted fraction, in [0, 1].
        n: number of examples, at least 1.
        z: half width in standard deviations; the default gives 95 %.

    Returns:
        Lower and upper end.

    Raises:
        ConfigError: the fraction is outside [0, 1] or there are no examples.

    Example:
        >>> low, high = kopt.report.wilson_interval(0.95, 100)
        >>> round(low, 3), round(high, 3)
        (0.888, 0.978)

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not 0.0 <= successes_fraction <= 1.0:
        raise ConfigError(f"`successes_fraction` must be in [0, 1]. Received: {successes_fraction!r}.")
    if n < 1:
        raise ConfigError(f"`n` must be at least 1 example. Received: {n!r}.")
    center = (successes_fraction + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(successes_fraction * (1 - successes_fraction) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # At 0 and 1 the interval ends there; rounding must not leave 1e-18 of a gap.
    return (
        0.0 if successes_fraction == 0.0 else max(0.0, center - half),
        1.0 if successes_fraction == 1.0 else min(1.0, center + half),
    )


def unpaired_interval(a: float, n_a: int, b: float, n_b: int, *, z: float = Z_95) -> Interval:
    """Return the interval of `a - b`, two fractions counted on unrelated examples.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine
    17 (1998), method 10.
    """
    low_a, high_a = wilson_interval(a, n_a, z=z)
    low_b, high_b = wilson_interval(b, n_b, z=z)
    return a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)


def paired_interval(difference: float, disagreement: float, n: int, *, z: float = Z_95) -> Interval:
    """Return the interval of the difference of two fractions counted on the same `n` examples.

    Two models that agree on most examples can only differ on the rest, so this is much narrower than the interval
    for unrelated examples.

    Args:
        difference: the first fraction minus the second.
        disagreement: fraction of the examples on which the two answers differ. Examples on which both are wrong in
            different ways widen the interval; it errs on the safe side.
        n: number of examples, at least 1.
        z: half width in standard deviations; the default gives 95 %.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", J. Educational and Behavioral Statistics 37 (2012).
    """
    if n < 1:
        raise ConfigError(f"`n` must be at least 1 example. Received: {n!r}.")
    center = difference * n / (n + 2)
    discordant = (max(disagreement, abs(difference)) * n + 2) / (n + 2)
    half = z * math.sqrt((discordant - center**2) / (n + 2))
    return center - half, center + half
