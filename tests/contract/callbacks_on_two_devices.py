"""Trains with all of `test_training_callbacks` on two logical CPU devices and on one; for a process of its own."""

import keras
import numpy as np
import tensorflow as tf

from kopt.train.distribution.devices import logical_cpus


def weights(rows, strategy, scaled):
    make_optimizer, make_callbacks = rows.ROWS["all wrappers"]
    with strategy.scope():
        keras.utils.set_random_seed(0)
        # Without batch normalization, whose statistics are those of each replica.
        net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="norm")])
        optimizer = make_optimizer()
        net.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse")
    callbacks = [one for one in make_callbacks() if not isinstance(one, rows.callbacks.AdaptBatchNormMomentum)]
    net.fit(rows.DATA, epochs=2, shuffle=False, verbose=0, validation_data=rows.DATA, callbacks=callbacks)
    return net.get_weights()


def main():
    """Return how far the weights of two replicas are from those of one device, without and with scaled losses."""
    logical_cpus(2)
    import test_training_callbacks as rows  # makes a data set, for which devices must be there

    apart = []
    for scaled in (False, True):
        one = weights(rows, tf.distribute.get_strategy(), scaled)
        two = weights(rows, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), scaled)
        apart.append(max(float(np.abs(a - b).max()) for a, b in zip(one, two, strict=True)))
    return apart
