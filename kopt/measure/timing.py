"""Latency from repeated single calls."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kopt.core.environment import machine
from kopt.core.errors import ConfigError
from kopt.core.records.measurements import Latency, Measurement
from kopt.core.settings import number
from kopt.measure.feeding import Arrays, match, random_inputs, take
from kopt.measure.loading import load
from kopt.measure.runner import Runner, check_positive

_WINDOW = 5
_TOLERANCE = 0.1
_MOST_WARMUP_RUNS = 200
_TURN_MS = 10.0
_MOST_RUNS_A_TURN = 100
_LEAST_ROUNDS = 20
# Before so many calls the slowest hundredth is a matter of chance, however well the median is known.
_LEAST_RUNS = 100
# How well a time must be known that is not to be told from another, as a fraction of it.
_APART = 0.1


def latency(
    targets: Any,
    data: Arrays | None = None,
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    min_runs: int = 30,
    max_seconds: float = 2.0,
    precision: float = 0.0,
    seed: int = 0,
) -> Measurement | list[Measurement]:
    """Time single calls of one or several models or files.

    Several targets take turns of a few milliseconds (a b c a b c ...), so that whatever else the machine does hits
    all of them alike; compare targets of one call, not of two. Every target is first called until its times are
    steady, and the first call of a turn is not counted: it would pay for the caches that the target before it filled.
    What is timed is `Runner.run`: the inputs are already in the file's own types. Outliers are kept.

    Args:
        targets: a runner, model or path, or a list of them.
        data: inputs to take examples from, as `Runner.predict` takes them; made up from the signature if not given.
        batch_sizes: examples a call; each is measured on its own.
        threads: for targets that are loaded here; see `kopt.measure.load`.
        min_runs: timed calls of every target at least, whatever they take.
        max_seconds: go on until this much time has been spent on every target on average.
        precision: end before that, after 20 turns and 100 calls of each at least, when the median of every target is
            known to this fraction of it, or to a tenth of it and apart from those of all others. Known is what the 95 %
            interval of the medians of turns says, by order statistics. By default all the time is used.
        seed: of the made-up inputs.

    Returns:
        A measurement for one target, a list in the same order for a list.

    Example:
        >>> a, b = kopt.measure.latency([model, "model.tflite"], batch_sizes=(1, 8), max_seconds=0.2)
        >>> [latency.batch_size for latency in b.latencies], a.latency_ms > b.latency_ms
        ([1, 8], True)
    """
    if isinstance(batch_sizes, int):
        raise ConfigError(f"`batch_sizes` is a list of them, e.g. ({batch_sizes},). Received: {batch_sizes!r}.")
    for name, value in (("min_runs", min_runs), *(("batch_sizes", size) for size in batch_sizes)):
        check_positive(name, value)
    if not batch_sizes or not max_seconds > 0:
        raise ConfigError(
            f"Latency needs a batch size and time. Received: batch_sizes={batch_sizes!r}, max_seconds={max_seconds!r}."
        )
    number("precision", precision, least=0.0, most=1.0)
    several = isinstance(targets, (list, tuple))
    if several and not targets:
        raise ConfigError("Latency needs at least one runner, model or path. Received an empty list.")
    runners = [load(target, threads=threads) for target in (targets if several else [targets])]
    measured: list[list[Latency]] = [[] for _ in runners]
    for batch_size in batch_sizes:
        feeds = [batch(runner, data, batch_size, seed) for runner in runners]
        timed = _time(runners, feeds, batch_size, min_runs, max_seconds, precision)
        for entries, entry in zip(measured, timed, strict=True):
            entries.append(entry)
    measurements = [
        Measurement(runner.name, runner.runtime, runner.threads, tuple(entries), machine())
        for runner, entries in zip(runners, measured, strict=True)
    ]
    return measurements if several else measurements[0]


def batch(runner: Runner, data: Arrays | None, batch_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the feeds of one call of `batch_size` examples, from `data` or made up.

    Raises:
        ConfigError: the file runs another batch size only.
    """
    if runner.fixed_batch not in (None, batch_size):
        raise ConfigError(
            f"{runner.name} runs batches of exactly {runner.fixed_batch}. Received: batch size {batch_size}."
        )
    if data is None:
        return runner.feeds(random_inputs(runner.inputs, batch_size, seed))
    return runner.feeds(take(runner.inputs, match(runner.inputs, data), batch_size))


def paired_rounds(a: Runner, b: Runner, data: Arrays | None, *, batch_size: int, seconds: float) -> np.ndarray:
    """Return the median milliseconds of a call of each in rounds, shape (rounds, 2), at least 20 rounds.

    A round is a turn of each; which one comes first alternates.

    Args:
        a: warmed up here, as `b` is.
        b: timed against it.
        data: inputs to take examples from; made up from the signature if `None`.
        batch_size: examples a call.
        seconds: of timing in all; more if 20 rounds take longer.
    """
    sides = [(runner, batch(runner, data, batch_size)) for runner in (a, b)]
    for runner, feeds in sides:
        _warm_up(runner, feeds, seconds)
    rounds: list[list[float]] = []
    deadline = time.perf_counter() + seconds
    while len(rounds) < _LEAST_ROUNDS or time.perf_counter() < deadline:
        order = (0, 1) if len(rounds) % 2 == 0 else (1, 0)
        taken = {side: float(np.median(_turn(*sides[side], alone=False))) for side in order}
        rounds.append([taken[0], taken[1]])
    return np.array(rounds)


def summarize(samples_ms: Sequence[float], batch_size: int, warmup_runs: int) -> Latency:
    """Turn the milliseconds of single calls into percentiles (linear between samples) and throughput.

    Example:
        >>> found = kopt.measure.summarize([1.0, 2.0, 3.0, 10.0], batch_size=8, warmup_runs=2)
        >>> found.p50_ms, found.mean_ms, found.throughput_per_s  # 8 examples in 2.5 ms
        (2.5, 4.0, 3200.0)
    """
    p50, p90, p99 = (float(value) for value in np.percentile(samples_ms, (50, 90, 99)))
    return Latency(
        batch_size=batch_size,
        runs=len(samples_ms),
        warmup_runs=warmup_runs,
        mean_ms=float(np.mean(samples_ms)),
        min_ms=float(np.min(samples_ms)),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        throughput_per_s=batch_size / (p50 / 1e3),
    )


def is_steady(samples_ms: Sequence[float]) -> bool:
    """Return whether the median of the last 5 samples is within 10 % of the median of the 5 before."""
    if len(samples_ms) < 2 * _WINDOW:
        return False
    before, last = np.median(samples_ms[-2 * _WINDOW : -_WINDOW]), np.median(samples_ms[-_WINDOW:])
    return bool(abs(last - before) <= _TOLERANCE * before)


def _time(
    runners: list[Runner],
    feeds: list[dict[str, np.ndarray]],
    batch_size: int,
    min_runs: int,
    max_seconds: float,
    precision: float,
) -> list[Latency]:
    warmups = [_warm_up(runner, feed, max_seconds) for runner, feed in zip(runners, feeds, strict=True)]
    samples: list[list[float]] = [[] for _ in runners]
    turns: list[list[float]] = [[] for _ in runners]
    deadline = time.perf_counter() + max_seconds * len(runners)
    while min(map(len, samples)) < min_runs or time.perf_counter() < deadline:
        for runner, feed, taken, medians in zip(runners, feeds, samples, turns, strict=True):
            turn = _turn(runner, feed, alone=len(runners) == 1)
            taken.extend(turn)
            medians.append(float(np.median(turn)))
        enough = min(map(len, samples)) >= max(min_runs, _LEAST_RUNS) and len(turns[0]) % _LEAST_ROUNDS == 0
        if precision and enough and are_known([median_interval(medians) for medians in turns], precision):
            break
    return [summarize(taken, batch_size, warmup) for taken, warmup in zip(samples, warmups, strict=True)]


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median; no form of distribution is assumed.

    Args:
        samples: independent of each other; of fewer than 6, the interval is from the least to the largest.

    Source: the number of samples below the median is binomial; W. J. Conover, "Practical Nonparametric Statistics".
    """
    ordered = np.sort(samples)
    below = max(0, int(np.floor(len(ordered) / 2 - 0.98 * np.sqrt(len(ordered)) - 0.5)))
    return float(ordered[below]), float(ordered[-1 - below])


def are_known(intervals: Sequence[tuple[float, float]], precision: float) -> bool:
    """Return whether each interval is that narrow, half of its width to its middle, or narrow and apart from others."""

    def is_within(interval: tuple[float, float], fraction: float) -> bool:
        low, high = interval
        return high - low <= fraction * (low + high)

    ordered = sorted(intervals)
    for place, one in enumerate(ordered):
        is_apart = all(other[1] < one[0] for other in ordered[:place]) and all(
            one[1] < other[0] for other in ordered[place + 1 :]
        )
        if not is_within(one, max(precision, _APART) if is_apart and len(ordered) > 1 else precision):
            return False
    return True


def _turn(runner: Runner, feeds: Mapping[str, np.ndarray], *, alone: bool) -> list[float]:
    """Return the milliseconds of the calls of one turn: at least one, about 10 ms of them."""
    if not alone:
        _call_ms(runner, feeds)
    taken: list[float] = []
    while not taken or (sum(taken) < _TURN_MS and len(taken) < _MOST_RUNS_A_TURN):
        taken.append(_call_ms(runner, feeds))
    return taken


def _warm_up(runner: Runner, feeds: Mapping[str, np.ndarray], max_seconds: float) -> int:
    # The first call traces and allocates, for seconds with some runtimes; it does not count against the time.
    samples = [_call_ms(runner, feeds)]
    deadline = time.perf_counter() + max_seconds
    while not is_steady(samples) and len(samples) < _MOST_WARMUP_RUNS and time.perf_counter() < deadline:
        samples.append(_call_ms(runner, feeds))
    return len(samples)


def _call_ms(runner: Runner, feeds: Mapping[str, np.ndarray]) -> float:
    start = time.perf_counter_ns()
    runner.run(feeds)
    return (time.perf_counter_ns() - start) / 1e6
