"""Claims: `accelerate` at least doubles the speed of `fit` on small networks and is the slower way on none."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from claims import Claim, publish
from training_networks import BATCH, cnn, compiled, images, lstm, mlp, resnet8, transformer

import kopt

# Many short rounds: what a busy machine does to one way of a round counts little then.
ROUNDS = 12
EPOCHS = 3
# Training that is long enough for the decision to compile to be measured; it is stopped after `EPOCHS`.
EPOCHS_AHEAD = 1000
STEPS = {"MLP": 500, "CNN": 150, "ResNet8": 12, "transformer": 30, "LSTM": 80}
NETWORKS = {"MLP": mlp, "CNN": cnn, "ResNet8": resnet8, "transformer": transformer, "LSTM": lstm}


class FewEpochs(keras.callbacks.Callback):
    """Stops after `EPOCHS`."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop."""
        self.model.stop_training = epoch + 1 == EPOCHS


def loop_by_hand(model: Any, x: Any, y: Any) -> Callable[[], None]:
    """Return a training whose epoch is a loop in one graph, as an expert writes it."""
    loss_fn, accuracy = keras.losses.SparseCategoricalCrossentropy(), keras.metrics.SparseCategoricalAccuracy()
    mean, optimizer, weights = keras.metrics.Mean(), model.optimizer, model.trainable_variables
    optimizer.build(weights)

    @tf.function
    def epoch(dataset: tf.data.Dataset) -> None:
        for inputs, labels in dataset:
            with tf.GradientTape() as tape:
                answers = model(inputs, training=True)
                loss = loss_fn(labels, answers)
            optimizer.apply(tape.gradient(loss, weights), weights)
            mean.update_state(loss)
            accuracy.update_state(labels, answers)

    def train() -> None:
        data = kopt.data.from_arrays(x, y, batch_size=BATCH, shuffle=True, seed=0, drop_remainder=True)
        for _ in range(EPOCHS):
            epoch(data)

    return train


def sides(name: str, x: Any, y: Any) -> dict[str, Callable[[], Any]]:
    """Return the ways to train from arrays, warm."""
    make = NETWORKS[name]
    settings = {"batch_size": BATCH, "verbose": 0}
    plain, jit, ours = compiled(make), compiled(make, jit_compile=True), compiled(make)
    fast = kopt.train.accelerate(ours)
    ways = {
        "fit": lambda: plain.fit(x, y, epochs=EPOCHS, **settings),
        "fit, jit": lambda: jit.fit(x, y, epochs=EPOCHS, **settings),
        "accelerate": lambda: fast.fit(x, y, epochs=EPOCHS_AHEAD, callbacks=[FewEpochs()], **settings),
        "by hand": loop_by_hand(compiled(make), x, y),
    }
    for way in ways.values():
        way()
        way()
    return ways


def measure(name: str) -> dict[str, list[float]]:
    """Return milliseconds of a step by way, in rounds whose order changes."""
    steps = STEPS[name]
    x, y = images(steps * BATCH)
    ways = sides(name, x, y)
    times: dict[str, list[float]] = {way: [] for way in ways}
    orders = itertools.cycle(itertools.permutations(ways))
    for order in itertools.islice(orders, ROUNDS):
        for way in order:
            start = time.perf_counter()
            ways[way]()
            times[way].append(1e3 * (time.perf_counter() - start) / (EPOCHS * steps))
    gc.collect()
    return times


def ratio(one: list[float], other: list[float]) -> float:
    """Return the median over rounds of how many times longer `one` took."""
    return statistics.median([a / b for a, b in zip(one, other, strict=True)])


def main() -> int:
    """Measure every network."""
    numbers: dict[str, object] = {}
    claims = []
    for name in NETWORKS:
        step_ms = measure(name)
        keras.backend.clear_session()
        numbers.update({f"{name}, {way}, ms a step": round(statistics.median(v), 4) for way, v in step_ms.items()})
        ours = step_ms["accelerate"]
        if name in ("MLP", "CNN"):
            claims.append(Claim(f"{name}: fit over accelerate", ratio(step_ms["fit"], ours), 2.0, above=True))
            claims.append(Claim(f"{name}: accelerate over by hand", ratio(ours, step_ms["by hand"]), 1.1))
        else:
            better = min(step_ms["fit"], step_ms["fit, jit"], key=statistics.median)
            claims.append(Claim(f"{name}: accelerate over the better fit", ratio(ours, better), 1.03))
    return publish(
        "training_speed",
        f"{EPOCHS} epochs of 12 to 500 batches of {BATCH} Fashion-MNIST images from arrays with Adam and accuracy: "
        f"model.fit(x, y), the same with jit_compile=True, kopt.train.accelerate(model).fit(x, y), and a loop over a "
        f"tf.data pipeline in one tf.function; warm, in turns of changing order, median ratios of {ROUNDS} rounds.",
        numbers,
        claims,
    )


if __name__ == "__main__":
    raise SystemExit(main())
