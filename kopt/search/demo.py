"""The model that `kopt demo` optimizes: a small CNN, trained on the spot on real data."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kopt.core.files import atomic_path
from kopt.data import DataSplits, from_arrays
from kopt.graph import load_model

EPOCHS = {"digits": 30, "fashion_mnist": 4}


def build(image_shape: tuple[int, ...], num_classes: int, *, width: int = 16) -> Any:
    """Return a small residual depthwise CNN with seeded weights.

    Args:
        image_shape: height, width, channels.
        num_classes: width of the softmax output.
        width: channels of the first stage; the second has twice as many.
    """
    layers = keras.layers
    seeds = itertools.count()
    inputs = keras.Input(image_shape, name="image")
    x = inputs
    for name, filters, strides in (("stem", width, 1), ("down", 2 * width, 2)):
        x = layers.Conv2D(filters, 3, strides, "same", use_bias=False, kernel_initializer=_he(seeds), name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    for name in ("block_1", "block_2"):
        y = layers.DepthwiseConv2D(
            3, padding="same", use_bias=False, depthwise_initializer=_he(seeds), name=f"{name}_depthwise"
        )(x)
        y = layers.BatchNormalization(name=f"{name}_depthwise_norm")(y)
        y = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(y)
        y = layers.Conv2D(2 * width, 1, use_bias=False, kernel_initializer=_he(seeds), name=f"{name}_pointwise")(y)
        y = layers.BatchNormalization(name=f"{name}_pointwise_norm")(y)
        x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, seed=next(seeds), name="dropout")(x)
    outputs = layers.Dense(num_classes, activation="softmax", kernel_initializer=_he(seeds), name="classes")(x)
    return keras.Model(inputs, outputs, name="demo_cnn")


def train_or_load(splits: DataSplits, path: str | os.PathLike[str], *, callbacks: list[Any] | None = None) -> Any:
    """Return the trained demo model; it is trained once and kept at `path`.

    Raises:
        OutputError: `path` cannot be written.
    """
    path = Path(path)
    if path.exists():
        return load_model(path)
    model = build(splits.train.x.shape[1:], splits.num_classes or 1)
    batches = from_arrays(splits.train.x, splits.train.y, batch_size=64, shuffle=True, seed=0)
    epochs = EPOCHS.get(splits.name, 10)
    steps = epochs * len(batches)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=8,
    )
    model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks or [])
    with atomic_path(path) as staged:
        model.save(staged)
    return model


def _he(seeds: Iterator[int]) -> Any:
    return keras.initializers.HeNormal(seed=next(seeds))
