"""The model that `kopt demo` optimizes: a small CNN, trained on the spot on real data."""

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kopt.core.files import atomic_path, check_output
from kopt.core.progress import Progress, Silent
from kopt.core.randomness import preserved_random_state
from kopt.data import DataSplits, from_arrays
from kopt.graph import load_model

EPOCHS = {"digits": 30, "fashion_mnist": 3}
_COARSEST = 4


def build(image_shape: tuple[int, ...], num_classes: int, *, width: int = 20) -> Any:
    """Return a small residual depthwise CNN with seeded weights.

    The image is halved until at most 4 pixels are left on its shorter side, the channels doubled each time.

    Args:
        image_shape: height, width, channels.
        num_classes: width of the softmax output.
        width: channels of the first stage.
    """
    layers = keras.layers
    seeds = itertools.count()
    inputs = keras.Input(image_shape, name="image")
    x = inputs
    halvings = max(1, math.ceil(math.log2(min(image_shape[:2]) / _COARSEST)))
    filters = width * 2**halvings
    for stage in range(halvings + 1):
        name = f"down_{stage}" if stage else "stem"
        x = layers.Conv2D(
            width * 2**stage,
            3,
            2 if stage else 1,
            "same",
            use_bias=False,
            kernel_initializer=_he(seeds),
            name=name,
        )(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    for name in ("block_1", "block_2"):
        y = layers.DepthwiseConv2D(
            3, padding="same", use_bias=False, depthwise_initializer=_he(seeds), name=f"{name}_depthwise"
        )(x)
        y = layers.BatchNormalization(name=f"{name}_depthwise_norm")(y)
        y = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(y)
        y = layers.Conv2D(filters, 1, use_bias=False, kernel_initializer=_he(seeds), name=f"{name}_pointwise")(y)
        y = layers.BatchNormalization(name=f"{name}_pointwise_norm")(y)
        x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, seed=next(seeds), name="dropout")(x)
    outputs = layers.Dense(num_classes, activation="softmax", kernel_initializer=_he(seeds), name="classes")(x)
    return keras.Model(inputs, outputs, name="demo_cnn")


@preserved_random_state()
def train_or_load(splits: DataSplits, path: str | os.PathLike[str], *, progress: Progress | None = None) -> Any:
    """Return the trained demo model; it is trained once and kept at `path`.

    Raises:
        OutputError: `path` cannot be written.
    """
    path = Path(path)
    if path.exists():
        return load_model(path)
    check_output(path)
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
    progress = progress or Silent()
    progress.start(epochs)
    shown = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: progress.step(f"train, epoch {epoch + 1}")
    )
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[shown])  # `batches` shuffle
    progress.finish()
    with atomic_path(path) as staged:
        model.save(staged)
    return model


def _he(seeds: Iterator[int]) -> Any:
    return keras.initializers.HeNormal(seed=next(seeds))
