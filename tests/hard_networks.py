"""Networks that are hard to quantize on purpose, and just as good as others in float."""

import keras
import numpy as np

L = keras.layers


def chain(channels: int = 16) -> keras.Model:
    """Return three depthwise-separable blocks `dw0`, `pw0` ... between a `stem` and a dense layer `out`."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((16, 16, 3), name="image")
    x = L.ReLU(name="stem_relu")(L.Conv2D(8, 3, strides=2, padding="same", name="stem")(x))
    for block in range(3):
        x = L.DepthwiseConv2D(3, padding="same", name=f"dw{block}")(x)
        x = L.ReLU(name=f"dw{block}_relu")(x)
        x = L.ReLU(name=f"pw{block}_relu")(L.Conv2D(channels, 1, name=f"pw{block}")(x))
    x = L.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, L.Dense(5, name="out")(x), name="chain")


def spread(model: keras.Model, block: int, most: float = 1000.0) -> keras.Model:
    """Multiply the channels that a depthwise convolution gives by 1 to `most`, and undo it in the layer behind.

    A ReLU lets positive factors through, so that outputs stay what they are.
    """
    depthwise, pointwise = model.get_layer(f"dw{block}"), model.get_layer(f"pw{block}")
    kernel, bias = depthwise.get_weights()
    factors = np.geomspace(1.0, most, bias.size).astype("float32")
    factors = np.random.default_rng(1).permutation(factors)
    depthwise.set_weights([kernel * factors[:, None], bias * factors])
    kernel, bias = pointwise.get_weights()
    pointwise.set_weights([kernel / factors[:, None], bias])
    return model


def images(count: int = 100) -> np.ndarray:
    """Return random images for `chain`."""
    return np.random.default_rng(0).random((count, 16, 16, 3), np.float32)
