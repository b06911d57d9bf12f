"""Claim: training with the rounding of an int8 file costs at most 1.3 of a float step."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from claims import Claim, publish
from training_networks import BATCH, compiled, images, resnet8

import kopt

# Two equal models differ in speed by where their memory lies: several sets, made in changing order.
SETS, ROUNDS, STEPS = 4, 7, 40


def plain() -> Any:
    """Return the network as it is."""
    return compiled(resnet8)


def rounded() -> Any:
    """Return it with rounded weights and activations."""
    model, _ = kopt.quantize.aware(plain())
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


WAYS: dict[str, Callable[[], Any]] = {"float": plain, "rounded": rounded}


def epoch_of(model: Any, data: tf.data.Dataset) -> Callable[[], None]:
    """Return an epoch of the steps that `fit` takes, one a call of the graph."""
    function = model.make_train_function(force=True) or model.train_function

    def epoch() -> None:
        iterator = iter(data)
        for _ in range(STEPS):
            function(iterator)

    return epoch


def main() -> int:
    """Time both in turns."""
    x, y = images(STEPS * BATCH)
    data = kopt.data.from_arrays(x, y, batch_size=BATCH, drop_remainder=True)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    orders = list(itertools.permutations(WAYS))
    for made in itertools.islice(itertools.cycle(orders), SETS):
        epochs = {way: epoch_of(WAYS[way](), data) for way in made}
        for epoch in epochs.values():
            epoch()
        seen: dict[str, list[float]] = {way: [] for way in WAYS}
        for order in itertools.islice(itertools.cycle(orders), ROUNDS):
            for way in order:
                start = time.perf_counter()
                epochs[way]()
                seen[way].append(1e3 * (time.perf_counter() - start) / STEPS)
        for way, values in seen.items():
            times[way].append(statistics.median(values))
        keras.backend.clear_session()
    ratios = [one / other for one, other in zip(times["rounded"], times["float"], strict=True)]
    numbers: dict[str, object] = {
        f"{way}, ms a step": round(statistics.median(values), 3) for way, values in times.items()
    }
    numbers["rounded over float"] = [round(one, 3) for one in ratios]
    return publish(
        "quantization_overhead",
        f"ResNet8 on batches of {BATCH} Fashion-MNIST images with Adam, in float and quantization-aware; {SETS} sets "
        f"made in changing order, medians of {ROUNDS}.",
        numbers,
        [Claim("ResNet8: quantization-aware steps over float ones", statistics.median(ratios), 1.3)],
    )


if __name__ == "__main__":
    raise SystemExit(main())
