"""The networks of `keras.applications`, small, with random weights under which signals stay of order one."""

import keras
import numpy as np
from channel_cases import randomized

import kopt

# They do not take less than 71 or 75 pixels.
_LARGER = {"InceptionV3": 96, "InceptionResNetV2": 96, "Xception": 96}
# They scale their input down from 255.
_OF_BYTES = ("ConvNeXt", "EfficientNet", "MobileNetV3")
_ESTIMATED_ON = 16


def names() -> list[str]:
    """Return the constructors of `keras.applications`."""
    return [
        name for name in dir(keras.applications) if name[0].isupper() and callable(getattr(keras.applications, name))
    ]


def pixels(name: str) -> int:
    return _LARGER.get(name, 64)


def images(name: str, count: int = 2, seed: int = 0, size: int | None = None) -> np.ndarray:
    """Return random images in the range that the network takes."""
    side = size or pixels(name)
    values = np.random.default_rng(seed).normal(size=(count, side, side, 3))
    return (values * (200.0 if name.startswith(_OF_BYTES) else 1.0)).astype("float32")


def untrained(name: str, size: int | None = None) -> keras.Model:
    """Return a network of ten logits with the weights that Keras draws."""
    keras.utils.set_random_seed(0)
    side = size or pixels(name)
    return getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classes=10, classifier_activation=None
    )


def build(name: str) -> keras.Model:
    """Return a network whose weights tell channels apart, and whose normalizations fit what reaches them.

    By He's formula alone, signals of EfficientNetB3 and deeper ones leave the range of float32; statistics of a batch
    keep every one of them at about one, as training does.
    """
    return with_fitting_norms(randomized(untrained(name)), images(name, _ESTIMATED_ON, seed=1))


def with_fitting_norms(model: keras.Model, x) -> keras.Model:
    """Return the model with the statistics of `x` in its batch normalizations, if it has some."""
    if not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers):
        return model
    return kopt.train.reestimate_batch_norm(model, x)[0]
