"""Architectures that tests tune: they are imported by name in other processes."""

import keras
import keras_tuner


def build(hp):
    """A small network for 8 x 8 digits."""
    width = hp.Choice("width", [4, 8])
    deep = hp.Boolean("deep")
    layers = [keras.layers.Conv2D(width, 3, 2, activation="relu")]
    with hp.conditional_scope("deep", [True]):
        second = hp.Int("second", 4, 8, step=4)
    if deep:
        layers.append(keras.layers.Conv2D(second, 3, activation="relu"))
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


class Shapes(keras_tuner.HyperModel):
    """The same as a class."""

    def build(self, hp):
        return build(hp)


shapes = Shapes()
