"""Trains with rounding on one and on two logical CPU devices, in a process of its own; prints a line of JSON."""

import keras
import numpy as np
import tensorflow as tf

import kopt
from kopt.train.distribution.devices import logical_cpus

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(96, 8, 8, 2)).astype("float32"), RNG.integers(0, 4, 96)


def trained(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        i = keras.Input((8, 8, 2))
        x = keras.layers.Conv2D(6, 3, activation="relu", name="conv")(i)
        x = keras.layers.Dense(4, name="logits")(keras.layers.GlobalAveragePooling2D(name="mean")(x))
        model, _ = kopt.quantize.aware(keras.Model(i, x), momentum=0.5)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(X, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    kernels = [model.get_layer(name).layer.kernel.numpy() for name in ("conv", "logits_2")]
    return kernels, model.get_layer("conv_relu_range"), model


def main():
    """Return the differences to one device, and what was seen."""
    logical_cpus(2)
    one, range_of_one, _ = trained(tf.distribute.get_strategy())
    two, range_of_two, model = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    return {
        "difference": max(float(np.abs(a - b).max()) for a, b in zip(one, two, strict=True)),
        "seen": [int(range_of_one.seen.numpy()[0]), int(range_of_two.seen.numpy()[0])],
        "high": [range_of_one.grid.high, range_of_two.grid.high],
        "prediction": float(np.abs(model.predict(X[:32], verbose=0)).max()),
    }
