"""Claim: watching a training costs at most 3 % of a step at the default rate."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from claims import Claim, publish
from training_networks import BATCH, cnn, compiled, images, mlp

import kopt

# Two equal models differ in speed by where their memory lies: several pairs, in which either is made first.
PAIRS = 6
ROUNDS = {"MLP": 15, "CNN": 9}
STEPS = {"MLP": 200, "CNN": 60}
NETWORKS = {"MLP": mlp, "CNN": cnn}


def in_fit(model: Any, data: tf.data.Dataset, callbacks: keras.callbacks.CallbackList) -> Callable[[], None]:
    """Return an epoch of the steps of `fit`, one a call of the graph; its logs are left out."""
    model.make_train_function(force=True)

    def epoch() -> None:
        callbacks.on_epoch_begin(0)
        iterator = iter(data)
        for batch in range(len(data)):
            callbacks.on_train_batch_begin(batch)
            model.train_function(iterator)
            callbacks.on_train_batch_end(batch)

    return epoch


def in_accelerate(model: Any, data: tf.data.Dataset, callbacks: keras.callbacks.CallbackList) -> Callable[[], None]:
    """Return an epoch of accelerated steps, many in a call of the graph."""
    step = kopt.train.make_train_step(model, model.optimizer, model.loss, metrics=["accuracy"], jit_compile=False)
    return lambda: step.run(data) and None


def measure(
    name: str, make_epoch: Callable[..., Callable[[], None]], made: tuple[str, ...]
) -> tuple[dict[str, list[float]], float]:
    """Return milliseconds of a step, plain and watched, in rounds of changing order, and seconds to end an epoch.

    Args:
        name: of the network.
        make_epoch: what runs an epoch.
        made: the order in which the two models are made.
    """
    x, y = images(STEPS[name] * BATCH)
    data = kopt.data.from_arrays(x, y, batch_size=BATCH, drop_remainder=True)
    epochs, watch = {}, kopt.profile.TrainingProfile()
    for way in made:
        model = compiled(NETWORKS[name])
        if way == "watched":
            watch.set_model(model)
            watch.on_train_begin()
        callbacks = keras.callbacks.CallbackList([watch] if way == "watched" else [])
        epochs[way] = make_epoch(model, data, callbacks)
        for _ in range(2):
            epochs[way]()
    times: dict[str, list[float]] = {way: [] for way in epochs}
    orders = itertools.cycle(itertools.permutations(epochs))
    for order in itertools.islice(orders, ROUNDS[name]):
        for way in order:
            start = time.perf_counter()
            epochs[way]()
            times[way].append(1e3 * (time.perf_counter() - start) / STEPS[name])
    start = time.perf_counter()
    watch.on_epoch_end(0, {"loss": 1.0})
    ending = time.perf_counter() - start
    watch.on_train_end()
    return times, ending


def main() -> int:
    """Compare plain and watched steps on every network, in `fit` and accelerated."""
    numbers: dict[str, object] = {}
    claims = []
    for name, (how, make_epoch) in itertools.product(NETWORKS, (("fit", in_fit), ("accelerate", in_accelerate))):
        times: dict[str, list[float]] = {"plain": [], "watched": []}
        endings = []
        for made in itertools.islice(itertools.cycle(itertools.permutations(times)), PAIRS):
            one_pair, ending = measure(name, make_epoch, made)
            endings.append(ending)
            for way, values in one_pair.items():
                times[way].append(statistics.median(values))
            keras.backend.clear_session()
        for way, values in times.items():
            numbers[f"{name}, {how}, {way}, ms a step"] = round(statistics.median(values), 4)
        numbers[f"{name}, {how}, end of an epoch, ms"] = round(1e3 * statistics.median(endings), 2)
        ratios = [watched / plain for watched, plain in zip(times["watched"], times["plain"], strict=True)]
        numbers[f"{name}, {how}, ratio of each pair"] = [round(ratio, 3) for ratio in ratios]
        claims.append(Claim(f"{name}, {how}: watched over plain steps", statistics.median(ratios), 1.03))
    return publish(
        "training_profile_overhead",
        f"epochs of batches of {BATCH} Fashion-MNIST images with Adam and accuracy, with a TrainingProfile() that "
        f"looks at every 50th step, and without; {PAIRS} pairs of models, in each the medians of 9 or 15 rounds in "
        f"changing order; median ratio of the pairs. The end of an epoch is measured by itself.",
        numbers,
        claims,
    )


if __name__ == "__main__":
    raise SystemExit(main())
