"""What a quantization-aware model computes, against TFLite's integer arithmetic in NumPy: equal integers."""

import integer_arithmetic as tflite
import keras
import numpy as np
import pytest

import kopt
from kopt.quantize.weights import QuantizedWeights

L = keras.layers


def values(shape, seed=0, low=-1.0):
    return np.random.default_rng(seed).uniform(low, 1.0, shape).astype(np.float32)


def aware(layers, shape, x):
    """Return the model of some layers, its quantization-aware copy with the ranges of `x`, and the grids in order."""
    keras.utils.set_random_seed(0)
    i = keras.Input(shape, name="x")
    model = keras.Model(i, layers(i))
    for variable in model.trainable_variables:
        if variable.name == "bias":
            variable.assign(values(variable.shape, 7))
    copy, _ = kopt.quantize.aware(model, calibration=x, samples=len(x))
    quantizers = [layer for layer in copy.layers if hasattr(layer, "grid")]
    return model, copy, [layer.grid for layer in quantizers]


@pytest.mark.parametrize("activation", [None, "relu"])
def test_dense(activation):
    x = values((64, 12))
    model, copy, (taken, given) = aware(L.Dense(9, activation=activation, name="dense"), (12,), x)
    layer = model.get_layer("dense")
    expected = tflite.dense(
        tflite.quantized(x, taken), layer.kernel.numpy(), layer.bias.numpy(), taken, given, relu=activation == "relu"
    )
    assert np.array_equal(tflite.quantized(copy(x), given), expected)
    assert len(np.unique(expected)) > 60  # the range is used


def test_depthwise_convolution():
    x = values((20, 6, 6, 5))
    model, copy, (taken, given) = aware(L.DepthwiseConv2D(3, name="depthwise"), (6, 6, 5), x)
    layer = model.get_layer("depthwise")
    y = tflite.quantized(copy(x), given)
    for image, found in zip(tflite.quantized(x, taken), y, strict=True):
        expected = tflite.depthwise(image, layer.kernel.numpy(), layer.bias.numpy(), taken, given)
        assert np.array_equal(found, expected)


def test_addition():
    x = values((20, 30))
    keras.utils.set_random_seed(0)
    i = keras.Input((30,), name="x")
    dense = L.Dense(30, name="dense")(i)
    copy, _ = kopt.quantize.aware(keras.Model(i, L.Add(name="sum")([i, dense])), calibration=x)
    grid = {layer.name: layer.grid for layer in copy.layers if hasattr(layer, "grid")}
    inner = keras.Model(copy.input, copy.get_layer("dense_range").output[0])
    a, b = tflite.quantized(x, grid["x_range"]), tflite.quantized(inner(x), grid["dense_range"])
    given = next(value for name, value in grid.items() if name.startswith("sum"))
    expected = tflite.add(a, b, grid["x_range"], grid["dense_range"], given)
    assert np.array_equal(tflite.quantized(copy(x), given), expected)


def test_average_pooling_keeps_the_range_of_its_input():
    x = values((20, 6, 6, 3))
    i = keras.Input((6, 6, 3), name="x")
    o = L.Dense(2)(L.Flatten()(L.AveragePooling2D(2, name="pool")(i)))
    copy, _ = kopt.quantize.aware(keras.Model(i, o), calibration=x)
    quantizer = copy.get_layer("x_range")
    taken = keras.Model(copy.input, quantizer._inbound_nodes[0].outputs[0])(x)
    pooled = keras.Model(copy.input, quantizer._inbound_nodes[1].outputs[0])(x)
    for image, found in zip(
        tflite.quantized(taken, quantizer.grid), tflite.quantized(pooled, quantizer.grid), strict=True
    ):
        assert np.array_equal(found, tflite.average(image))


def test_a_folded_normalization_computes_what_the_batch_path_computes():
    """Per channel, rounding and multiplying by `gamma / sqrt(variance)` commute, see `QuantizedWeights`."""
    x = values((32, 8, 8, 3))
    layer = QuantizedWeights(L.Conv2D(6, 3, use_bias=False), L.BatchNormalization(momentum=0.0, epsilon=1e-3))
    layer.build(x.shape)
    layer.norm.gamma.assign([0.5, -2.0, 1.0, 1e-2, 3.0, 1.0])
    layer.norm.beta.assign(values(6, 3))
    in_batch = np.asarray(layer(x, training=True))  # a momentum of 0 makes the moving statistics those of the batch
    folded = np.asarray(layer(x, training=False))
    np.testing.assert_allclose(folded, in_batch, rtol=1e-5, atol=1e-5)
