"""Table: what a training step takes in float32, mixed_bfloat16 and mixed_float16. No bound: the processor decides."""

import math
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from claims import Claim, publish

import kopt

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
BATCH, STEPS, ROUNDS = 64, 20, 5
L = keras.layers


def cnn() -> keras.Model:
    """Return two convolutions on 28x28 images."""
    x = y = keras.Input((28, 28, 1))
    for filters in (32, 64):
        y = L.MaxPooling2D()(L.Conv2D(filters, 3, padding="same", activation="relu")(y))
    return keras.Model(x, L.Dense(10, "softmax")(L.Flatten()(y)))


def mlp() -> keras.Model:
    """Return two layers of 1024 units."""
    x = keras.Input((28, 28, 1))
    y = L.Dense(1024, "relu")(L.Dense(1024, "relu")(L.Flatten()(x)))
    return keras.Model(x, L.Dense(10, "softmax")(y))


def transformer() -> keras.Model:
    """Return two encoder blocks of width 128 on 28 tokens."""
    x = keras.Input((28, 28, 1))
    y = L.Dense(128)(L.Reshape((28, 28))(x))
    for _ in range(2):
        y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(4, 32)(y, y)]))
        y = L.LayerNormalization()(L.Add()([y, L.Dense(128)(L.Dense(512, "gelu")(y))]))
    return keras.Model(x, L.Dense(10, "softmax")(L.GlobalAveragePooling1D()(y)))


def step_ms(model: keras.Model, dataset: tf.data.Dataset) -> float:
    """Return milliseconds a step of one epoch of `fit`."""
    start = time.perf_counter()
    model.fit(dataset, verbose=0, shuffle=False)
    return (time.perf_counter() - start) / STEPS * 1e3


def medians(build: object, dataset: tf.data.Dataset) -> dict[str, float]:
    """Return the median step time of a network by policy, the policies in turn."""
    models = {}
    for policy in POLICIES:
        keras.utils.set_random_seed(0)
        plain = build()
        models[policy] = plain if policy == "float32" else kopt.train.to_precision(plain, policy)[0]
        models[policy].compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        step_ms(models[policy], dataset)
    samples: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for _ in range(ROUNDS):
        for policy, model in models.items():
            samples[policy].append(step_ms(model, dataset))
    return {policy: statistics.median(values) for policy, values in samples.items()}


def main() -> int:
    """Measure three networks in three policies."""
    random = np.random.default_rng(0)
    images = random.random((BATCH * STEPS, 28, 28, 1), np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((images, random.integers(0, 10, len(images)))).batch(BATCH).cache()
    table = {build.__name__: medians(build, dataset.prefetch(2)) for build in (cnn, mlp, transformer)}
    return publish(
        "precision",
        f"Steps of `fit`, batch {BATCH}, no XLA, the three policies in turn, {ROUNDS} epochs of {STEPS} steps each, "
        f"medians. There is no bound. `kopt.train.choose_precision` says: {kopt.train.choose_precision()}.",
        {f"{net}, {policy}, ms a step": round(ms, 3) for net, row in table.items() for policy, ms in row.items()},
        [
            Claim(f"{net}: {policy} over float32", row[policy] / row["float32"], math.inf)
            for net, row in table.items()
            for policy in POLICIES[1:]
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
