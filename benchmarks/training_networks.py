"""Networks and data that the benchmarks of training share."""

from typing import Any

import keras
import numpy as np

import kopt

BATCH = 32


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of Fashion-MNIST, float32 in [0, 1], and their labels."""
    train = kopt.data.load("fashion_mnist").train
    return train.x[:count], train.y[:count]


def mlp() -> Any:
    """Return a network of one hidden layer: small operations, most of them overhead."""
    layers = keras.layers
    hidden = [layers.Flatten(), layers.Dense(128, activation="relu")]
    return keras.Sequential([keras.Input((28, 28, 1)), *hidden, layers.Dense(10, activation="softmax")])


def cnn() -> Any:
    """Return two convolutions and two dense layers."""
    layers = keras.layers
    stages = [layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D()]
    stages += [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten()]
    head = [layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), *stages, *head])


def resnet8(shape: tuple[int, ...] = (28, 28, 1), width: int = 16) -> Any:
    """Return the residual network of MLPerf Tiny; `width` is the channels of its first stage."""
    layers = keras.layers

    def convolve(x: Any, filters: int, stride: int = 1, size: int = 3, activate: bool = True) -> Any:
        x = layers.BatchNormalization()(layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x))
        return layers.ReLU()(x) if activate else x

    inputs = keras.Input(shape)
    x = convolve(inputs, width)
    for filters, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        inner = convolve(convolve(x, filters, stride), filters, activate=False)
        shortcut = x if stride == 1 else convolve(x, filters, stride, 1, activate=False)
        x = layers.ReLU()(layers.Add()([shortcut, inner]))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def narrow_mobile(shape: tuple[int, ...] = (28, 28, 1)) -> Any:
    """Return a network of depthwise and pointwise convolutions without a plain one but the first."""
    layers = keras.layers

    def normalized(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input(shape)
    x = layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(inputs)
    for filters, stride in ((32, 1), (64, 2), (64, 1), (128, 2)):
        x = normalized(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(normalized(x)))
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
    x = layers.GlobalAveragePooling2D()(normalized(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def mobilenet_v2(shape: tuple[int, ...] = (28, 28, 1), width: int = 32) -> Any:
    """Return inverted residuals as in MobileNetV2, for small images; `width` is the channels of the first stage."""
    layers = keras.layers

    def normalized(x: Any, activate: bool = True) -> Any:
        x = layers.BatchNormalization()(x)
        return layers.ReLU(6.0)(x) if activate else x

    def inverted(x: Any, filters: int, stride: int) -> Any:
        inner = normalized(layers.Conv2D(4 * x.shape[-1], 1, use_bias=False)(x))
        inner = normalized(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(inner))
        inner = normalized(layers.Conv2D(filters, 1, use_bias=False)(inner), activate=False)
        return layers.Add()([x, inner]) if stride == 1 and x.shape[-1] == filters else inner

    inputs = keras.Input(shape)
    x = normalized(layers.Conv2D(width, 3, padding="same", use_bias=False)(inputs))
    for filters, stride in ((width, 1), (2 * width, 2), (2 * width, 1), (3 * width, 2), (3 * width, 1)):
        x = inverted(x, filters, stride)
    x = normalized(layers.Conv2D(8 * width, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def transformer() -> Any:
    """Return an encoder of two blocks that reads an image row by row."""
    layers = keras.layers
    inputs = keras.Input((28, 28, 1))
    x = layers.Dense(64)(layers.Reshape((28, 28))(inputs))
    for _ in range(2):
        attended = layers.MultiHeadAttention(4, 16)(x, x)
        x = layers.LayerNormalization()(x + attended)
        x = layers.LayerNormalization()(x + layers.Dense(64)(layers.Dense(128, activation="gelu")(x)))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def lstm() -> Any:
    """Return a recurrent network that reads an image row by row."""
    layers = keras.layers
    stages = [layers.Reshape((28, 28)), layers.LSTM(64), layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), *stages])


def compiled(make: Any, **settings: Any) -> Any:
    """Return a network with the same weights in every call, compiled as most people do."""
    keras.utils.set_random_seed(0)
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
    return model
