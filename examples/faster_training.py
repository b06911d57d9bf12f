"""ResNet50 trained faster: input pipeline, precision, compiled steps, accumulation."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import outcome
import tensorflow as tf

import kopt

LOSS = "sparse_categorical_crossentropy"
SIZE, CLASSES = 64, 10


def folder_of_images(folder: Path, count: int) -> None:
    """Write images of Fashion-MNIST as JPEG files of 256 pixels, in a folder a class."""
    train = kopt.data.load("fashion_mnist").train
    for number in range(count):
        pixels = tf.image.resize(255 * np.repeat(train.x[number], 3, axis=-1), (256, 256), "bicubic")
        place = folder / str(train.y[number])
        place.mkdir(parents=True, exist_ok=True)
        tf.io.write_file(str(place / f"{number}.jpg"), tf.io.encode_jpeg(tf.saturate_cast(pixels, tf.uint8)))


def network() -> keras.Model:
    """Return ResNet50 for images of 64 pixels, with seeded weights."""
    keras.utils.set_random_seed(0)
    return keras.applications.ResNet50(weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES)


def by_keras(folder: Path, batch_size: int) -> Any:
    """Return the pipeline that Keras makes of a folder."""
    images = keras.utils.image_dataset_from_directory(
        folder, image_size=(SIZE, SIZE), batch_size=batch_size, seed=0, verbose=False
    )
    return images.map(lambda x, y: (x / 255.0, y))


def by_kopt(folder: Path, batch_size: int) -> Any:
    """Return kopt's pipeline of the same folder."""
    return kopt.data.from_images(folder, image_size=(SIZE, SIZE), batch_size=batch_size, shuffle=True, seed=0)


def compiled(model: Any, **settings: Any) -> Any:
    """Return the model, ready to train."""
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), LOSS, metrics=["accuracy"], **settings)
    return model


def ways(folder: Path, batch: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return a model and its data for each row."""
    policy = kopt.train.choose_precision().policy
    rows: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "fit, as Keras has it": (lambda: compiled(network()), lambda: by_keras(folder, batch)),
        "kopt's pipeline": (lambda: compiled(network()), lambda: by_kopt(folder, batch)),
        "kopt's pipeline, steps compiled where it pays": (
            lambda: kopt.train.accelerate(compiled(network())),
            lambda: by_kopt(folder, batch),
        ),
        f"batches of {batch // 4}, gradients of 4 accumulated": (
            lambda: kopt.train.accelerate(compiled(network()), accumulate_steps=4),
            lambda: by_kopt(folder, batch // 4),
        ),
    }
    if policy != "float32":
        rows[f"kopt's pipeline, compiled, {policy}"] = (
            lambda: kopt.train.accelerate(compiled(kopt.train.to_precision(network(), policy)[0])),
            lambda: by_kopt(folder, batch),
        )
    return rows


def main() -> None:
    """Train each way in turns and compare what an epoch takes."""
    options = outcome.arguments(__doc__)
    count, batch, rounds = (32, 16, 1) if options.quick else (512, 32, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder_of_images(folder, count)
        found = ways(folder, batch)
        if options.quick:
            plain, *_, last = list(found.items())[1:]
            found = dict((plain, last))
        sides = {way: (model(), data()) for way, (model, data) in found.items()}
        seconds: dict[str, list[float]] = {way: [] for way in sides}
        for turn in range(rounds + 1):
            for way, (model, images) in sides.items():
                started = time.perf_counter()
                model.fit(images, epochs=1, shuffle=False, verbose=0)
                if turn:  # the first one traces and compiles
                    seconds[way].append(time.perf_counter() - started)
    memory = [kopt.train.estimate_memory(network(), batch_size=size).total_bytes for size in (batch, batch // 4)]
    medians = {way: float(np.median(times)) for way, times in seconds.items()}
    first = next(iter(medians.values()))
    rows = [
        {
            "training": way,
            "images a second": f"{count / median:.1f}",
            "times as fast": f"{first / median:.2f}",
            "fastest to slowest round": f"{min(seconds[way]):.1f} to {max(seconds[way]):.1f} s",
        }
        for way, median in medians.items()
    ]
    outcome.publish(
        "faster_training",
        "ResNet50 trained faster",
        [
            (
                f"ResNet50 on {count:,} JPEG files of 256 pixels, cut to {SIZE}; batches of {batch}, an epoch of "
                f"each way in turns, median of {rounds} after one that is not counted. Training takes "
                f"{memory[0] / 1e9:.2f} GB by `kopt.train.estimate_memory`, with a quarter of the batch and "
                f"accumulation {memory[1] / 1e9:.2f} GB.",
                rows,
            )
        ],
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
