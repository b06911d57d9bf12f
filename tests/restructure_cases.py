"""Small nets and helpers of the restructure tests."""

import keras
import numpy as np

L = keras.layers


def randomize(model, seed=0):
    """Draw every batch statistic, and every bias, at random."""
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            shape = layer.moving_mean.shape
            if layer.gamma is not None:
                layer.gamma.assign(random.uniform(0.5, 1.5, shape))
            if layer.beta is not None:
                layer.beta.assign(random.normal(0, 0.3, shape))
            layer.moving_mean.assign(random.normal(0, 0.3, shape))
            layer.moving_variance.assign(random.uniform(0.5, 2.0, shape))
        elif getattr(layer, "bias", None) is not None and not isinstance(layer, L.RNN):
            layer.bias.assign(random.normal(0, 0.3, layer.bias.shape))
    return model


def noise(model, batch=2, seed=1):
    random = np.random.default_rng(seed)
    return [random.normal(size=(batch, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]


def outputs(model, arrays):
    results = model(arrays if len(arrays) > 1 else arrays[0], training=False)
    return [np.asarray(result) for result in keras.tree.flatten(results)]


def distance(first, second, arrays=None):
    """Largest difference of the outputs, as a fraction of the largest output."""
    arrays = noise(first) if arrays is None else arrays
    pairs = zip(outputs(first, arrays), outputs(second, arrays), strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1.0)) for a, b in pairs)


def bits(model):
    return [np.asarray(variable).tobytes() for variable in model.variables]


def layer_types(model):
    return [type(layer).__name__ for layer in model._flatten_layers()]


def saves_and_loads(model, path):
    model.save(path)
    assert distance(model, keras.saving.load_model(path)) == 0.0


def fits_one_step(model):
    arrays = noise(model)
    model.compile("sgd", "mse")
    targets = [np.zeros_like(result) for result in outputs(model, arrays)]
    history = model.fit(arrays if len(arrays) > 1 else arrays[0], targets, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def residual():
    inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization(name="norm0")(L.Conv2D(8, 3, padding="same", use_bias=False, name="conv0")(inputs))
    x = L.ReLU(name="relu0")(x)
    y = L.BatchNormalization(name="norm1")(L.Conv2D(8, 3, padding="same", name="conv1")(x))
    y = L.ReLU(name="relu1")(y)
    y = L.BatchNormalization(name="norm2", scale=False)(L.Conv2D(8, 3, padding="same", name="conv2")(y))
    x = L.ReLU(name="relu2")(L.Add(name="add")([x, y]))
    return keras.Model(inputs, L.Dense(5, name="classes")(L.GlobalAveragePooling2D(name="gap")(x)), name="residual")


def inverted_residual():
    """A block as MobileNetV2 has it, with a stride that pads before a "valid" depthwise convolution."""
    inputs = keras.Input((9, 9, 4))
    x = L.Conv2D(8, 1, use_bias=False, name="expand")(inputs)
    x = L.ReLU(6.0, name="relu0")(L.BatchNormalization(name="expand_norm", epsilon=1e-3)(x))
    x = L.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    x = L.DepthwiseConv2D(3, strides=2, padding="valid", use_bias=False, depth_multiplier=2, name="depthwise")(x)
    x = L.ReLU(6.0, name="relu1")(L.BatchNormalization(name="depthwise_norm")(x))
    x = L.BatchNormalization(name="project_norm", center=False)(L.Conv2D(4, 1, use_bias=False, name="project")(x))
    return keras.Model(inputs, x, name="inverted")
