import time

import numpy as np
import pytest

from kopt.core.environment import machine
from kopt.core.errors import ConfigError, DataError
from kopt.measure import latency, summarize
from kopt.measure.timing import are_known, is_steady, median_interval


def test_summary_by_arithmetic():
    found = summarize([4.0, 1.0, 2.0, 3.0, 10.0], batch_size=8, warmup_runs=7)
    # Sorted 1 2 3 4 10; percentile p lies at index 4p/100: p90 at 3.6 = 4 + 0.6 * 6, p99 at 3.96 = 4 + 0.96 * 6.
    assert (found.batch_size, found.runs, found.warmup_runs) == (8, 5, 7)
    assert (found.mean_ms, found.min_ms, found.p50_ms) == (4.0, 1.0, 3.0)
    assert found.p90_ms == pytest.approx(7.6)
    assert found.p99_ms == pytest.approx(9.76)
    assert found.throughput_per_s == pytest.approx(8 / 0.003)


@pytest.mark.parametrize(
    ("samples", "steady"),
    [
        ([1.0] * 9, False),
        ([1.0] * 10, True),
        ([9.0] * 5 + [1.0] * 5, False),
        ([100.0] + [1.0] * 10, True),
        ([1.0] * 5 + [1.09] * 5, True),
        ([1.0] * 5 + [1.12] * 5, False),
    ],
)
def test_steady_when_two_medians_are_within_a_tenth(samples, steady):
    assert is_steady(samples) is steady


class Clock:
    """Goes on by what a call is said to take: the machine's own goes on as well while other processes run."""

    def __init__(self):
        self._ns = 0

    def take(self, us):
        self._ns += int(1000 * us)

    def perf_counter_ns(self):
        return self._ns

    def perf_counter(self):
        return self._ns / 1e9


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("kopt.measure.timing.time", clock)
    return clock


def test_measures_the_time_of_a_call(function_runner):
    def slow(x):
        time.sleep(0.004)
        return x

    found = latency(function_runner(slow, 3), min_runs=10, max_seconds=0.01)
    (entry,) = found.latencies
    assert 4.0 <= entry.min_ms <= entry.p50_ms < 20.0
    assert found.latency_ms == entry.p50_ms
    assert (found.target, found.runtime, found.threads, found.machine) == ("function", "NumPy", None, machine())


def test_turns_of_ten_milliseconds_reach_the_number_of_runs(function_runner, clock):
    runner = function_runner(lambda x: clock.take(4000) or x, 3)
    (entry,) = latency(runner, min_runs=10, max_seconds=0.01).latencies
    assert entry.min_ms == entry.p50_ms == 4.0
    assert entry.runs == 12  # turns of 10 ms hold three calls of 4 ms, and four turns reach ten


def test_targets_take_turns_and_stay_apart(function_runner, clock):
    order = []

    def mark(letter):
        return function_runner(lambda x: order.append(letter) or clock.take(1) or x, 3, name=letter)

    measured = latency([mark("a"), mark("b"), mark("c")], min_runs=150, max_seconds=1e-6)
    assert [entry.target for entry in measured] == ["a", "b", "c"]
    warmups = sum(entry.latencies[0].warmup_runs for entry in measured)
    # Calls of a microsecond: two turns of one uncounted and a hundred counted calls each.
    assert "".join(order)[warmups:] == ("a" * 101 + "b" * 101 + "c" * 101) * 2
    assert [entry.latencies[0].runs for entry in measured] == [200, 200, 200]


def test_goes_on_until_the_time_is_spent(function_runner):
    start = time.perf_counter()
    found = latency(function_runner(lambda x: x, 3), min_runs=1, max_seconds=0.1)
    assert 0.1 <= time.perf_counter() - start < 1.0
    assert found.latencies[0].runs > 100


@pytest.mark.parametrize(
    ("spread_us", "precision", "turns"), [(0, 0.01, 20), (100, 0.01, 20), (2000, 0.01, 200), (0, 0.0, 200)]
)
def test_ends_when_the_median_is_known_well_enough(function_runner, clock, spread_us, precision, turns):
    generator = np.random.default_rng(0)

    def run(x):
        clock.take(2000 + spread_us * (generator.random() - 0.5))
        return x

    (entry,) = latency(function_runner(run, 3), max_seconds=2.0, precision=precision).latencies
    assert entry.runs == pytest.approx(5 * turns, rel=0.1)  # five calls of 2 ms a turn
    assert entry.p50_ms == pytest.approx(2.0, rel=0.05)


def test_the_interval_of_a_median_holds_it():
    # Of 100 tosses at most 39 are heads with a probability of 1.8 %, at most 40 of 2.8 %.
    assert median_interval(list(range(1, 101))) == (40, 61)
    assert median_interval([5.0] * 30) == (5.0, 5.0)
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    intervals = np.array([median_interval(row) for row in np.random.default_rng(0).lognormal(size=(2000, 41))])
    covered = (intervals[:, 0] <= 1) & (intervals[:, 1] >= 1)  # the median of the distribution
    assert 0.95 < covered.mean() < 0.985


@pytest.mark.parametrize(
    ("intervals", "known"),
    [
        ([(0.99, 1.01)], True),
        ([(0.95, 1.05)], False),
        ([(0.95, 1.05), (1.06, 1.08)], True),  # wide, but apart
        ([(0.95, 1.05), (1.04, 1.06)], False),
        ([(0.99, 1.01), (0.99, 1.01)], True),  # equal, and known to be
        ([(0.8, 1.2), (5.0, 5.1)], False),  # apart, but so wide that no ratio can be told
        ([(5.0, 5.1), (0.95, 1.05), (3.0, 3.3)], True),
        ([(0.95, 1.30), (1.0, 1.01), (1.2, 1.21)], False),  # one spans others
    ],
)
def test_what_is_apart_need_not_be_known_so_well(intervals, known):
    assert are_known(intervals, 0.02) == known


def test_every_batch_size_from_the_given_data(function_runner):
    seen = []
    runner = function_runner(lambda x: seen.append(x.copy()) or x, 2)
    data = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    found = latency(runner, data, batch_sizes=(1, 4), min_runs=2, max_seconds=1e-6)
    assert [entry.batch_size for entry in found.latencies] == [1, 4]
    assert seen[0].tolist() == [[1, 2]]
    assert seen[-1].tolist() == [[1, 2], [3, 4], [5, 6], [1, 2]]


def test_real_files(models):
    measured = latency(
        [models / "dense.tflite", models / "dense.onnx"], threads=1, batch_sizes=(1, 8), min_runs=5, max_seconds=0.01
    )
    assert [entry.threads for entry in measured] == [1, 1]
    for entry in measured:
        for timed in entry.latencies:
            assert 0.0 < timed.min_ms <= timed.p50_ms <= timed.p90_ms <= timed.p99_ms < 1000.0


def test_wrong_settings(function_runner, models):
    runner = function_runner(lambda x: x, 2)
    for settings in (
        {"batch_sizes": ()},
        {"batch_sizes": (0,)},
        {"min_runs": 0},
        {"max_seconds": 0},
        {"precision": -1},
    ):
        with pytest.raises(ConfigError):
            latency(runner, **settings)
    with pytest.raises(ConfigError, match=r"batches of exactly 4. Received: batch size 1"):
        latency(models / "dense_batch4.tflite")
    with pytest.raises(DataError, match=r"shape \(5, 3\)"):
        latency(runner, np.zeros((5, 3)))
