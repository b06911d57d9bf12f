"""Steps of `fit` of several models, timed in turns."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
import tf_keras
from training_networks import BATCH, images

import kopt


def times_in_turns(ways: Mapping[str, Callable[[], Any]], *, sets: int, rounds: int, steps: int) -> dict[str, Any]:
    """Return milliseconds a step by way: one median for each set.

    A set is made of one new model a way, in another order each time, because where a model lies in memory and what was
    made before it change its speed; within a set the ways take turns, in changing order, too.
    """
    x, y = images(steps * BATCH)
    data = kopt.data.from_arrays(x, y, batch_size=BATCH, drop_remainder=True)
    times: dict[str, list[float]] = {way: [] for way in ways}
    orders = list(itertools.permutations(ways))
    apart = max(1, len(orders) // sets)
    for number in range(sets):
        epochs = {way: _epoch_of(ways[way](), data, steps) for way in orders[number * apart % len(orders)]}
        for epoch in epochs.values():
            epoch()
        seen: dict[str, list[float]] = {way: [] for way in ways}
        for order in itertools.islice(itertools.cycle(orders[:: max(1, len(orders) // 5)]), rounds):
            for way in order:
                start = time.perf_counter()
                epochs[way]()
                seen[way].append(1e3 * (time.perf_counter() - start) / steps)
        for way, values in seen.items():
            times[way].append(statistics.median(values))
        keras.backend.clear_session()
        tf_keras.backend.clear_session()
    return times


def ratios(times: Mapping[str, list[float]], one: str, other: str) -> list[float]:
    """Return the time of one way over that of another, one a set."""
    return [round(a / b, 3) for a, b in zip(times[one], times[other], strict=True)]


def medians(times: Mapping[str, list[float]]) -> dict[str, object]:
    """Return the median over the sets, by way."""
    return {f"{way}, ms a step": round(statistics.median(values), 3) for way, values in times.items()}


def _epoch_of(model: Any, data: tf.data.Dataset, steps: int) -> Callable[[], None]:
    """Return an epoch of the steps that `fit` takes, one a call of the graph."""
    function = model.make_train_function(force=True) or model.train_function

    def epoch() -> None:
        iterator = iter(data)
        for _ in range(steps):
            function(iterator)

    return epoch
