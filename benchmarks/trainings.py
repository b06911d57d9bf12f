"""How the tables of accuracy train their networks, and judge what ships."""

from typing import Any

import keras
from image_sets import ImageSet
from resumable import trained_once
from training_networks import resnet8

import kopt

LOSS = "sparse_categorical_crossentropy"
TEACHER = 32  # channels of the first stage
# Of the teacher; half the time where a processor computes in it.
PRECISION = {"fashion_mnist": "float32", "cifar10": "mixed_bfloat16"}


def trained(
    model: Any,
    images: ImageSet,
    epochs: int,
    rate: float,
    seed: int,
    library: Any = keras,
    loss: Any = LOSS,
    batches: Any = None,
) -> Any:
    """Return the model after some epochs of Adam with a cosine schedule, of the images or of batches made of them."""
    decay = library.optimizers.schedules.CosineDecay(rate, epochs * images.steps)
    model.compile(library.optimizers.Adam(decay), loss, metrics=["accuracy"])
    data = (images.batches(seed) if batches is None else batches).repeat()
    model.fit(data, steps_per_epoch=images.steps, epochs=epochs, shuffle=False, verbose=0)
    return model


def teacher(images: ImageSet) -> Any:
    """Return the large network, trained in an earlier run or now."""

    def make() -> Any:
        keras.utils.set_random_seed(100)
        model, _ = kopt.train.to_precision(resnet8(images.shape, TEACHER), PRECISION[images.name])
        return trained(model, images, images.epochs[0], 4e-3, 100)

    return trained_once(f"resnet8_{TEACHER}_{images.name}", make)


def points(model: Any, images: ImageSet) -> float:
    """Return the accuracy of a model or a file, in its own runtime, on the test images in percent."""
    return round(100 * kopt.measure.evaluate(model, images.test, batch_size=256).metrics["accuracy"], 2)
