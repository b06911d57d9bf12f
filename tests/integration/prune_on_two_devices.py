"""Prunes on one and on two logical CPU devices, in a process of its own; prints a line of JSON."""

import keras
import numpy as np
import tensorflow as tf

from kopt.prune import finalize, magnitude, schedules
from kopt.train.distribution.devices import logical_cpus

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(96, 12)).astype("float32"), RNG.integers(0, 4, 96)


def trained(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(16, activation="tanh", name="hidden"), keras.layers.Dense(4, name="logits")]
        model = keras.Sequential([keras.Input((12,)), *layers], name="net")
        pruned, _ = magnitude(model, schedules.Polynomial(0.75, begin=1, end=9, frequency=2))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        pruned.compile(keras.optimizers.SGD(0.1), loss)
    pruned.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return finalize(pruned)[0].get_weights()


def main():
    """Return the differences to one device, and how sparse it became."""
    logical_cpus(2)
    one = trained(tf.distribute.get_strategy())
    two = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    return {
        "difference": max(float(np.abs(a - b).max()) for a, b in zip(one, two, strict=True)),
        "same zeros": all(np.array_equal(a == 0, b == 0) for a, b in zip(one, two, strict=True)),
        "sparsity": [float(np.mean(kernel == 0)) for kernel in two if kernel.ndim > 1],
    }
