"""Small models and data that the tests of training share."""

import keras
import numpy as np

CLASSES = 4


def examples(count=40, seed=0):
    """Return float32 inputs of shape (count, 6, 6, 1) whose class shows in their mean, and int64 labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    x = random.normal(size=(count, 6, 6, 1)) + labels[:, None, None, None]
    return x.astype(np.float32), labels.astype(np.int64)


def network(
    *, compiled=True, optimizer=None, dropout=0.3, batch_norm=True, regularizer="l2", loss=None, seed=0, **settings
):
    """Return a small convolutional network with the layers that make training stateful."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((6, 6, 1)), keras.layers.Conv2D(3, 3, kernel_regularizer=regularizer, name="conv")]
    layers += [keras.layers.BatchNormalization(name="norm")] if batch_norm else []
    layers += [keras.layers.ReLU(), keras.layers.Flatten()]
    layers += [keras.layers.Dropout(dropout)] if dropout else []
    layers += [keras.layers.Dense(CLASSES, activation="softmax", name="dense")]
    model = keras.Sequential(layers)
    if compiled:
        compile_network(model, optimizer, loss=loss, **settings)
    return model


def compile_network(model, optimizer=None, *, loss=None, **settings):
    """Compile a network of `network`, or a wrapper of it."""
    settings.setdefault("metrics", ["accuracy"])
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss or "sparse_categorical_crossentropy", **settings)


def largest_difference(one, other):
    """Return the largest difference between the variables of two models."""
    pairs = zip(one.variables, other.variables, strict=True)
    return max(float(np.abs(np.subtract(a.numpy(), b.numpy(), dtype=np.float64)).max()) for a, b in pairs)
