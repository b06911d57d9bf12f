"""Trains with checkpoints, and ends its own process where it is asked to."""

import os
import random
import signal

import keras
import numpy as np
import tensorflow as tf
from training_cases import examples, network

import kopt

X, Y = examples(90)


def die_at(call):
    """Return a callback that ends the process as `kill -9` does; its count is no attribute that would be resumed."""
    calls = iter(range(1, 10**6))

    class Die(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)

        on_epoch_begin = on_train_batch_end

    return Die()


class Draw(keras.callbacks.Callback):
    """Draws from the global generators, as augmentation in Python would."""

    def __init__(self):
        super().__init__()
        self.total = 0.0

    def on_epoch_end(self, epoch, logs=None):
        self.total += random.random() + np.random.rand()


def data(kind):
    """Return what `fit` gets: arrays, a saved pipeline, or one that TensorFlow cannot save."""
    if kind == "arrays":
        return (X, Y), {"batch_size": 16}
    if kind == "dataset":
        return (kopt.data.from_arrays(X, Y, batch_size=16, shuffle=True, seed=5), None), {}
    if kind == "shuffled":
        return (tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(90, seed=5).batch(16), None), {}
    if kind == "repeated":
        dataset = kopt.data.from_arrays(X, Y, batch_size=16, shuffle=True, seed=5).repeat()
        return (dataset, None), {"steps_per_epoch": 4}

    def generate():
        yield from zip(X, Y, strict=True)

    signature = (tf.TensorSpec((6, 6, 1)), tf.TensorSpec((), tf.int64))
    return (tf.data.Dataset.from_generator(generate, output_signature=signature).batch(16), None), {}


def train(kind, out, checkpoint=None, die_at_call=0):
    """Train, and write weights, optimizer state and history; die in a hook after a batch or before an epoch."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = network()
    (x, y), settings = data(kind)
    if checkpoint:
        checkpoint = kopt.train.Checkpointing(checkpoint, every_steps=1)
    fast = kopt.train.accelerate(model, accumulate_steps=2, jit_compile=False, checkpoint=checkpoint)
    random.seed(1)
    np.random.seed(1)
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, min_delta=0.5, cooldown=0)
    draw = Draw()
    callbacks = [plateau, draw, die_at(die_at_call)]
    history = fast.fit(x, y, epochs=4, verbose=0, callbacks=callbacks, **settings).history
    state = [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]
    np.savez(out, *state, loss=history["loss"], accuracy=history["accuracy"], drawn=draw.total)
