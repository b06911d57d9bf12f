"""Small students, teachers and helpers that the tests of distillation share."""

import keras
import numpy as np
import tensorflow as tf

L = keras.layers
CLASSES = 4


def examples(count=24, seed=0):
    """Return float32 images of shape (count, 8, 8, 1) whose class shows in their mean, and int64 labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    x = random.normal(size=(count, 8, 8, 1)) + labels[:, None, None, None]
    return x.astype("float32"), labels.astype("int64")


def network(width=3, *, name="student", seed=0, last="softmax", norm=True, regularizer=None, dtype=None):
    """Return two convolutions and a head: maps of 8x8 from `one`, of 4x4 from `two`."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(width, 3, padding="same", name="one", kernel_regularizer=regularizer, dtype=dtype)(inputs)
    x = L.BatchNormalization(name="norm", dtype=dtype)(x) if norm else x
    x = L.ReLU(name="relu", dtype=dtype)(x)
    x = L.Conv2D(2 * width, 3, 2, padding="same", activation="relu", name="two", dtype=dtype)(x)
    x = L.GlobalAveragePooling2D(name="pooled", dtype=dtype)(x)
    return keras.Model(inputs, L.Dense(CLASSES, activation=last, name="head", dtype="float32")(x), name=name)


def teacher(width=8, **settings):
    """Return a wider network of the same kind, with other weights and batch statistics that are not 0 and 1."""
    model = network(width, name="teacher", seed=1, **settings)
    random = np.random.default_rng(1)
    norm = model.get_layer("norm")
    norm.moving_mean.assign(random.normal(0, 0.3, width))
    norm.moving_variance.assign(random.uniform(0.5, 2.0, width))
    return model


def bits(model):
    """Return the variables of a model, byte by byte."""
    return [np.asarray(variable).tobytes() for variable in model.variables]


def gradient_error(function, at, step=1e-6):
    """Return the largest difference of the gradient of the sum of `function` from central differences, in float64.

    As a part of the largest entry of the gradient.
    """
    point = tf.constant(at, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(point)
        total = tf.reduce_sum(function(point))
    gradient = tape.gradient(total, point).numpy()
    differences = np.zeros_like(at, dtype=np.float64)
    for index in np.ndindex(*at.shape):
        moved = [np.array(at, np.float64) for _ in range(2)]
        moved[0][index] += step
        moved[1][index] -= step
        up, down = (float(tf.reduce_sum(function(tf.constant(one)))) for one in moved)
        differences[index] = (up - down) / (2 * step)
    return float(np.abs(gradient - differences).max() / np.abs(gradient).max())
