"""How many pairs a question needs, and what a number of pairs can show: pure functions of numbers.

`level` is that of a two-sided interval, `power` the probability with which the question is answered.
"""

import math

import scipy  # loads its parts when they are first used

_HALVINGS = 60


def least_pairs(level: float) -> int:
    """Return the number of pairs below which nothing can be shown, however clear they are: 6 at 95 %.

    If `a` and `b` are alike, n pairs all favor the same one with a probability of `2 * 2^-n`.
    """
    return math.ceil(math.log2(2 / (1 - level)) - 1e-9)


def fractions_needed(gain: float, disagreement: float, level: float, power: float, margin: float = 0.0) -> int | None:
    """Return how many examples show that a fraction of right answers gains more than `-margin`.

    Formula: `n = ((z_level sqrt(q - m^2) + z_power sqrt(q - g^2)) / (g + m))^2` for a gain `g`, a margin `m` and a
    share `q` of examples that only one of the two gets right.

    Args:
        gain: the true one, e.g. 0.01 for a point. With no margin, a loss counts as a gain of the other.
        disagreement: fraction of the examples that only one of the two gets right, at least `abs(gain)`.
        level: of the interval.
        power: in [0.5, 1).
        margin: a loss that does not matter.

    Returns:
        The number; `None` if the gain is not above `-margin`, so that no number of examples will do.

    Source: R. J. Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987), for `margin=0`; with it the variance is taken at the margin.
    """
    distance = gain + margin if margin else abs(gain)
    if distance <= 0:
        return None
    z_level, z_power = _deviations(level, power)
    # A gain or a margin of a point is possible only if a point of the answers differs.
    at_margin, at_gain = max(disagreement, margin, abs(gain)), max(disagreement, abs(gain))
    spread = z_level * math.sqrt(at_margin - margin**2) + z_power * math.sqrt(at_gain - gain**2)
    return max(least_pairs(level), math.ceil((spread / distance) ** 2))


def means_needed(gain: float, deviation: float, level: float, power: float, margin: float = 0.0) -> int | None:
    """Return how many pairs show that a mean gains more than `-margin`.

    Formula: `n = ((z_level + z_power) s / (g + m))^2 + z_level^2 / 2`.

    Args:
        gain: the true mean difference. With no margin, a loss counts as a gain of the other.
        deviation: standard deviation of the differences.
        level: of the interval.
        power: in [0.5, 1).
        margin: a loss that does not matter.

    Returns:
        The number; `None` if no number will do.

    Source: W. C. Guenther, "Sample size formulas for normal theory t tests", The American Statistician 35 (1981).
    """
    distance = gain + margin if margin else abs(gain)
    if distance <= 0:
        return None
    z_level, z_power = _deviations(level, power)
    return max(least_pairs(level), math.ceil(((z_level + z_power) * deviation / distance) ** 2 + z_level**2 / 2))


def fractions_detectable(pairs: int, disagreement: float, level: float, power: float) -> float | None:
    """Return the smallest difference of two fractions that `pairs` examples show, or `None` if they are too few.

    Where the two disagree on fewer examples than such a difference takes, it is reckoned with as many as it takes.
    """

    def enough(difference: float) -> bool:
        needed = fractions_needed(difference, max(disagreement, difference), level, power)
        return needed is not None and needed <= pairs

    low, high = 0.0, 1.0
    if not enough(high):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def means_detectable(pairs: int, deviation: float, level: float, power: float) -> float | None:
    """Return the smallest mean difference that so many pairs show, or `None` if they are too few."""
    z_level, z_power = _deviations(level, power)
    effective = pairs - z_level**2 / 2
    return (z_level + z_power) * deviation / math.sqrt(effective) if pairs >= least_pairs(level) else None


def _deviations(level: float, power: float) -> tuple[float, float]:
    return float(scipy.special.ndtri((1 + level) / 2)), float(scipy.special.ndtri(power))
