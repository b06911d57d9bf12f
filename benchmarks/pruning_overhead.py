"""Claim: masks cost at most 5 % of a training step, and less than tfmot's on the tf_keras twin."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tf_keras
from claims import Claim, publish
from training_networks import BATCH, compiled, images, resnet8

import kopt
from kopt.graph import to_tf_keras
from kopt.graph.tfmot import load_tfmot

# Two equal models differ in speed by where their memory lies: several sets, made in changing order.
SETS, ROUNDS, STEPS = 4, 7, 40
LOSS = "sparse_categorical_crossentropy"


def dense() -> Any:
    """Return the network as it is."""
    return compiled(resnet8)


def masked() -> Any:
    """Return it under masks that are computed at every tenth step."""
    schedule = kopt.prune.schedules.Polynomial(0.8, begin=1, end=10**6, frequency=10)
    pruned, _ = kopt.prune.magnitude(dense(), schedule)
    pruned.compile("adam", LOSS, metrics=["accuracy"])
    return pruned


def twin() -> Any:
    """Return the tf_keras twin."""
    model = to_tf_keras(dense())
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def twin_by_tfmot() -> Any:
    """Return the twin under tfmot's masks, of the same schedule."""
    sparsity = load_tfmot().sparsity.keras
    schedule = sparsity.PolynomialDecay(0.0, 0.8, begin_step=1, end_step=10**6, frequency=10)
    model = sparsity.prune_low_magnitude(to_tf_keras(dense()), pruning_schedule=schedule)
    model.compile("adam", LOSS, metrics=["accuracy"])
    step = sparsity.UpdatePruningStep()
    step.set_model(model)
    step.on_train_begin()
    return model


WAYS: dict[str, Callable[[], Any]] = {"dense": dense, "masks": masked, "twin": twin, "tfmot": twin_by_tfmot}


def epoch_of(model: Any, data: tf.data.Dataset) -> Callable[[], None]:
    """Return an epoch of the steps that `fit` takes, one a call of the graph."""
    function = model.make_train_function(force=True) or model.train_function

    def epoch() -> None:
        iterator = iter(data)
        for _ in range(STEPS):
            function(iterator)

    return epoch


def main() -> int:
    """Time all four in turns."""
    x, y = images(STEPS * BATCH)
    data = kopt.data.from_arrays(x, y, batch_size=BATCH, drop_remainder=True)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    orders = list(itertools.permutations(WAYS))
    for made in orders[:: len(orders) // SETS][:SETS]:
        epochs = {way: epoch_of(WAYS[way](), data) for way in made}
        for epoch in epochs.values():
            epoch()
        seen: dict[str, list[float]] = {way: [] for way in WAYS}
        for order in itertools.islice(itertools.cycle(orders[::5]), ROUNDS):
            for way in order:
                start = time.perf_counter()
                epochs[way]()
                seen[way].append(1e3 * (time.perf_counter() - start) / STEPS)
        for way, values in seen.items():
            times[way].append(statistics.median(values))
        keras.backend.clear_session()
        tf_keras.backend.clear_session()
    ours = [masks / plain for masks, plain in zip(times["masks"], times["dense"], strict=True)]
    theirs = [pruned / plain for pruned, plain in zip(times["tfmot"], times["twin"], strict=True)]
    numbers: dict[str, object] = {
        f"{way}, ms a step": round(statistics.median(values), 3) for way, values in times.items()
    }
    numbers |= {
        "masks over dense": [round(one, 3) for one in ours],
        "tfmot over twin": [round(one, 3) for one in theirs],
    }
    return publish(
        "pruning_overhead",
        f"ResNet8 on batches of {BATCH} Fashion-MNIST images with Adam, masks computed anew at every tenth step; the "
        f"same network in tf_keras, plain and under tfmot; {SETS} sets made in changing order, medians of {ROUNDS}.",
        numbers,
        [
            Claim("ResNet8: steps with masks over dense ones", statistics.median(ours), 1.05),
            Claim("overhead of masks over that of tfmot", statistics.median(ours) / statistics.median(theirs), 1.0),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
