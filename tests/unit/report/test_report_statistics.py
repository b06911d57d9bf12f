import math

import pytest

from kopt.core.errors import ConfigError
from kopt.report.parts.statistics import paired_interval, unpaired_interval, wilson_interval


def test_wilson_of_half_by_arithmetic():
    # p = 1/2, n = 100, z = 2: center = (0.5 + 4/200) / (1 + 4/100) = 0.5,
    # half = 2 sqrt(0.25/100 + 4/40000) / 1.04 = 2 sqrt(0.0026) / 1.04.
    low, high = wilson_interval(0.5, 100, z=2.0)
    assert low == pytest.approx(0.5 - 2 * math.sqrt(0.0026) / 1.04)
    assert high == pytest.approx(0.5 + 2 * math.sqrt(0.0026) / 1.04)


def test_wilson_solves_its_defining_equation():
    # The ends are the fractions q whose own normal interval just reaches p: (p - q)^2 = z^2 q (1 - q) / n.
    for fraction, n in ((0.98, 2000), (0.1, 7), (0.999, 50)):
        for end in wilson_interval(fraction, n, z=1.96):
            assert (fraction - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n)


def test_wilson_of_all_right_does_not_shrink_to_a_point():
    low, high = wilson_interval(1.0, 10, z=2.0)
    assert high == 1.0
    assert low == pytest.approx(10 / 14)  # n / (n + z^2)
    assert wilson_interval(0.0, 10, z=2.0) == (0.0, pytest.approx(4 / 14))


@pytest.mark.parametrize(("fraction", "n"), [(1.01, 10), (-0.1, 10), (0.5, 0), (float("nan"), 10)])
def test_wilson_refuses_impossible_counts(fraction, n):
    with pytest.raises(ConfigError, match="Received"):
        wilson_interval(fraction, n)


def test_unpaired_interval_of_equal_halves_by_arithmetic():
    # Both halves have the Wilson half width h of the test above, so the difference has sqrt(2) h.
    half = math.sqrt(2) * 2 * math.sqrt(0.0026) / 1.04
    assert unpaired_interval(0.5, 100, 0.5, 100, z=2.0) == (pytest.approx(-half), pytest.approx(half))


def test_paired_interval_by_arithmetic():
    # 98 examples, 5 changed to wrong, 1 to right, z = 2. With one added to each: 6 and 2 of 100;
    # difference 0.04, half width 2 sqrt((0.08 - 0.04^2) / 100).
    half = 2 * math.sqrt((0.08 - 0.0016) / 100)
    low, high = paired_interval(4 / 98, 6 / 98, 98, z=2.0)
    assert low == pytest.approx(0.04 - half)
    assert high == pytest.approx(0.04 + half)


def test_pairing_sees_a_drop_that_unrelated_examples_would_hide():
    # 10 of 1,000 answers changed, all of them to wrong: no accident (2^-10), though 95.0 and 94.0 % look alike.
    assert paired_interval(0.01, 0.01, 1000)[0] > 0
    assert unpaired_interval(0.95, 1000, 0.94, 1000)[0] < 0
