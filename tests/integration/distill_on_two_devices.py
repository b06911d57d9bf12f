"""Distils on one and on two logical CPU devices, in a process of its own; prints a line of JSON."""

import keras
import numpy as np
import tensorflow as tf

import kopt
from kopt.train.distribution.devices import logical_cpus

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(96, 12)).astype("float32"), RNG.integers(0, 4, 96)


def network(units, name):
    layers = [keras.layers.Dense(units, activation="tanh", name="hidden"), keras.layers.Dense(4, name="logits")]
    return keras.Sequential([keras.Input((12,)), *layers], name=name)


def trained(strategy, fast):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = kopt.DistillationModel(network(4, "small"), network(16, "large"), features=["hidden"])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    target = kopt.train.accelerate(model, accumulate_steps=2) if fast else model
    history = target.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0).history
    return model.get_weights(), history


def main():
    """Return the differences to one device."""
    logical_cpus(2)
    found = {}
    for fast in (False, True):
        one, ours = trained(tf.distribute.get_strategy(), fast)
        two, theirs = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), fast)
        found["fast" if fast else "plain"] = {
            "weights": max(float(np.abs(a - b).max()) for a, b in zip(one, two, strict=True)),
            "logs": max(float(np.abs(np.subtract(ours[key], theirs[key])).max()) for key in ours),
        }
    return found
