"""The images that tables of accuracy are made with."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

import kopt

CIFAR10 = Path(os.environ.get("KOPT_CIFAR10", Path.home() / ".cache" / "kopt" / "cifar10.npz"))
BATCH = 128


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Labelled images to train and to test with.

    Attributes:
        train, test: `(x, y)`, images float32 of shape `(n, height, width, channels)`.
        held: likewise, of the training images those that nothing is trained with.
        epochs: that a dense network is trained for, and one that was pruned.
        augmentation: of the images to train with.
    """

    name: str
    train: tuple[Any, Any]
    test: tuple[Any, Any]
    held: tuple[Any, Any]
    epochs: tuple[int, int]
    augmentation: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image."""
        return tuple(self.train[0].shape[1:])

    def batches(self, seed: int) -> Any:
        """Return shuffled, augmented batches."""
        return kopt.data.from_arrays(
            *self.train, batch_size=BATCH, shuffle=True, augment=self.augmentation, seed=seed, drop_remainder=True
        )

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.train[0]) // BATCH


def image_sets() -> list[ImageSet]:
    """Return Fashion-MNIST, and CIFAR-10 where `KOPT_CIFAR10` names an `.npz` of it."""
    fashion = kopt.data.load("fashion_mnist")
    sets = [
        ImageSet(
            "fashion_mnist",
            (fashion.train.x[:24_000], fashion.train.y[:24_000]),
            (fashion.test.x, fashion.test.y),
            (fashion.train.x[24_000:], fashion.train.y[24_000:]),
            (10, 8),
        )
    ]
    if CIFAR10.is_file():
        arrays = np.load(CIFAR10)
        train, test = (
            (_scaled(arrays[f"x_{part}"]), arrays[f"y_{part}"].astype(np.int64)) for part in ("train", "test")
        )
        moved = kopt.data.Augmentation(flip="horizontal", crop=2)
        first, rest = ((train[0][part], train[1][part]) for part in (slice(25_000), slice(25_000, None)))
        sets.append(ImageSet("cifar10", first, test, rest, (16, 8), moved))
    return sets


def described(sets: list[ImageSet]) -> str:
    """Return how long networks were trained on each set, in words."""
    return "; ".join(
        f"{images.name}: {len(images.train[0]):,} images, {images.epochs[0]} epochs, then {images.epochs[1]}"
        for images in sets
    )


def _scaled(pixels: Any) -> Any:
    return ((pixels / 255.0 - 0.473) / 0.251).astype(np.float32)
