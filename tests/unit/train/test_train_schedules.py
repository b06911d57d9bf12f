import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.train import schedules as s


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_one_cycle_rises_along_a_cosine_and_falls():
    schedule = s.OneCycle(1.0, 10, warmup_fraction=0.4, start_divisor=10, end_divisor=100)
    expected = []
    for t in range(12):
        if t < 4:
            expected.append(1.0 + (0.1 - 1.0) * (1 + math.cos(math.pi * t / 4)) / 2)
        else:
            expected.append(0.01 + (1.0 - 0.01) * (1 + math.cos(math.pi * min((t - 4) / 6, 1))) / 2)
    np.testing.assert_allclose(values(schedule, range(12)), expected, rtol=1e-5)
    assert expected[0] == pytest.approx(0.1)
    assert expected[4] == 1.0
    assert expected[10] == expected[11] == pytest.approx(0.01)


def test_linear_one_cycle():
    schedule = s.OneCycle(1.0, 10, warmup_fraction=0.5, start_divisor=5, end_divisor=10, shape="linear")
    np.testing.assert_allclose(values(schedule, [0, 1, 5, 6, 10]), [0.2, 0.36, 1.0, 0.82, 0.1], rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_one_cycle_without_one_of_its_halves(fraction):
    schedule = s.OneCycle(1.0, 4, warmup_fraction=fraction, start_divisor=4, end_divisor=4, shape="linear")
    found = values(schedule, range(5))
    falling = [1.0, 0.8125, 0.625, 0.4375, 0.25]
    np.testing.assert_allclose(found, falling if fraction == 0 else [0.25, 0.4375, 0.625, 0.8125, 1.0], rtol=1e-6)


def test_the_momentum_goes_the_other_way():
    schedule = s.OneCycleMomentum(10, low=0.8, high=0.9, warmup_fraction=0.5, shape="linear")
    np.testing.assert_allclose(values(schedule, [0, 5, 6, 10, 20]), [0.9, 0.8, 0.82, 0.9, 0.9], rtol=1e-6)


def sgdr(step, rate, first, multiplier, decay, minimum):
    cycle, length = 0, first
    while step >= length:
        step -= length
        cycle += 1
        length = round(first * multiplier**cycle)
    peak = max(rate * decay**cycle, minimum)
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * step / length)) / 2


@pytest.mark.parametrize(("multiplier", "decay", "minimum"), [(2.0, 0.5, 0.1), (1.0, 1.0, 0.0), (1.5, 0.9, 0.6)])
def test_cosine_restarts(multiplier, decay, minimum):
    schedule = s.CosineRestarts(1.0, 5, cycle_multiplier=multiplier, decay=decay, minimum=minimum)
    steps = range(40)
    expected = [sgdr(step, 1.0, 5, multiplier, decay, minimum) for step in steps]
    np.testing.assert_allclose(values(schedule, steps), expected, rtol=1e-5, atol=1e-7)


def test_restarts_are_exact_far_out():
    # Cycle i of 1, 2, 4, ... updates begins at 2^i - 1; a float32 logarithm is wrong there.
    schedule = s.CosineRestarts(1.0, 1)
    for i in (10, 20, 30, 39):
        assert float(schedule(2**i - 1)) == 1.0
        assert float(schedule(2**i - 2)) < 1e-4


def test_warm_up_in_front_of_a_schedule():
    decay = keras.optimizers.schedules.PolynomialDecay(0.8, 10, end_learning_rate=0.0)
    schedule = s.Warmup(decay, 4, start_factor=0.5)
    np.testing.assert_allclose(values(schedule, [0, 1, 3, 4, 5, 14]), [0.4, 0.5, 0.7, 0.8, 0.72, 0.0], rtol=1e-6)


def test_polynomial_warm_up_to_a_constant():
    schedule = s.Warmup(2.0, 4, start_factor=0.0, power=2.0)
    np.testing.assert_allclose(values(schedule, range(6)), [0, 0.125, 0.5, 1.125, 2.0, 2.0], rtol=1e-6)


def test_inverse_square_root_is_the_formula_of_the_paper():
    width, warmup = 64, 5
    schedule = s.InverseSquareRoot(width**-0.5 * warmup**-0.5, warmup_steps=warmup)
    paper = [width**-0.5 * min(n**-0.5, n * warmup**-1.5) for n in range(1, 20)]
    np.testing.assert_allclose(values(schedule, range(19)), paper, rtol=1e-6)


ALL = [
    s.OneCycle(0.5, 20, warmup_fraction=0.2, start_divisor=3, end_divisor=7, shape="linear"),
    s.OneCycleMomentum(20, low=0.7, high=0.8, warmup_fraction=0.2, shape="linear"),
    s.CosineRestarts(0.5, 3, cycle_multiplier=1.5, decay=0.9, minimum=0.1),
    s.Warmup(s.CosineRestarts(0.5, 3), 5, start_factor=0.2, power=2.0),
    s.Warmup(0.25, 5),
    s.InverseSquareRoot(0.5, warmup_steps=7),
]


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)
def test_config_round_trip_and_graph(schedule):
    stored = keras.saving.serialize_keras_object(schedule)
    assert stored["registered_name"] == f"kopt>{type(schedule).__name__}"
    twin = keras.saving.deserialize_keras_object(stored)
    assert twin.get_config() == schedule.get_config()
    compiled = tf.function(twin, jit_compile=True)
    for step in (0, 2, 9, 30):
        np.testing.assert_allclose(compiled(tf.constant(step, tf.int64)), schedule(step), rtol=1e-5)
    assert schedule(tf.constant(3, tf.int64)).dtype == tf.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: s.OneCycle(0.0, 10), r"`max_learning_rate` must be a finite number in \(0, inf\]. Received: 0.0"),
        (lambda: s.OneCycle("0.1", 10), r"Received: '0.1' \(str\)"),
        (lambda: s.OneCycle(0.1, 0), "`total_steps` must be a whole number of at least 1. Received: 0"),
        (lambda: s.OneCycle(0.1, 10.0), r"Received: 10.0 \(float\)"),
        (lambda: s.OneCycle(0.1, 10, warmup_fraction=1.5), r"in \[0, 1\]. Received: 1.5"),
        (lambda: s.OneCycle(0.1, 10, shape="cosin"), r"Unknown `shape` 'cosin'. Did you mean 'cosine'\?"),
        (lambda: s.OneCycleMomentum(10, low=0.95, high=0.9), "`low` must not be above `high`"),
        (lambda: s.CosineRestarts(0.1, 10, cycle_multiplier=0.5), r"in \[1, inf\]"),
        (lambda: s.CosineRestarts(0.1, 10, cycle_multiplier=1.001), "1 or at least 1.01"),
        (lambda: s.CosineRestarts(0.1, 10, minimum=0.2), r"`minimum` must be a finite number in \[0, 0.1\]"),
        (lambda: s.Warmup("cosine", 10), "`schedule` must be"),
        (lambda: s.Warmup(0.1, True), r"Received: True \(bool\)"),
        (lambda: s.InverseSquareRoot(float("nan")), "Received: nan"),
        (lambda: s.table(ALL[0], 0), "`steps` must be"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_table_and_plot(tmp_path):
    assert s.table(s.Warmup(2.0, 2, start_factor=0.5), 3) == [(0, 1.0), (1, 1.5), (2, 2.0)]
    long = s.table(lambda step: step, 1001)
    assert (len(long), long[0][0], long[-1][0]) == (400, 0, 1000)
    path = s.plot(ALL[2], 30, tmp_path / "schedule.svg")
    assert path.read_text().startswith("<svg")
    assert "CosineRestarts over 30 updates" in path.read_text()
