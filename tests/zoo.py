"""The models that contract tests run over: one builder each, small, seeded, with weights that are not all alike."""

import keras
import numpy as np

L = keras.layers
Model = keras.Model


@keras.saving.register_keras_serializable("kopt_tests")
class Scale(L.Layer):
    """A registered custom layer: multiplies by a learned number per channel."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


@keras.saving.register_keras_serializable("kopt_tests")
class Subclassed(Model):
    """A model whose `call` is Python code, so that it has no graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = L.Dense(16, activation="relu")
        self.head = L.Dense(4, activation="softmax")

    def call(self, inputs):
        return self.head(self.hidden(inputs))


def cnn():
    x = i = keras.Input((12, 12, 3), name="image")
    for n, filters in enumerate((8, 16)):
        x = L.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{n}")(x)
        x = L.BatchNormalization(name=f"norm{n}")(x)
        x = L.ReLU(name=f"relu{n}")(x)
        x = L.MaxPooling2D(name=f"pool{n}")(x)
    x = L.GlobalAveragePooling2D(name="gap")(x)
    return Model(i, L.Dense(5, activation="softmax", name="classes")(x), name="cnn")


def mlp():
    return keras.Sequential(
        [keras.Input((20,), name="features"), L.Dense(32, activation="relu"), L.Dropout(0.3), L.Dense(4, name="out")],
        name="mlp",
    )


def mobilenet_v2():
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)


def efficientnet_b0():
    return keras.applications.EfficientNetB0(input_shape=(32, 32, 3), weights=None, classes=10)


def resnet50():
    return keras.applications.ResNet50(input_shape=(32, 32, 3), weights=None, classes=10)


def lstm():
    i = keras.Input((10, 6), name="sequence")
    return Model(i, L.Dense(3, activation="softmax", name="classes")(L.LSTM(12)(i)), name="lstm")


def gru():
    i = keras.Input((10, 6), name="sequence")
    x = L.GRU(8, return_sequences=True)(i)
    return Model(i, L.Dense(3, name="classes")(L.GRU(8)(x)), name="gru")


def transformer():
    tokens = keras.Input((8,), dtype="int32", name="tokens")
    x = L.Embedding(40, 16, name="embedding")(tokens)
    y = L.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = L.LayerNormalization(name="norm1")(L.Add()([x, y]))
    y = L.Dense(16, name="back")(L.Dense(32, activation="gelu", name="hidden")(x))
    x = L.LayerNormalization(name="norm2")(L.Add()([x, y]))
    return Model(
        tokens, L.Dense(3, activation="softmax", name="classes")(L.GlobalAveragePooling1D()(x)), name="encoder"
    )


def conv1d():
    i = keras.Input((24, 4), name="signal")
    x = L.Conv1D(8, 5, padding="causal", activation="relu")(i)
    x = L.MaxPooling1D()(L.SeparableConv1D(12, 3, padding="same", activation="elu")(x))
    return Model(i, L.Dense(3, name="classes")(L.GlobalMaxPooling1D()(x)), name="conv1d")


def conv3d():
    i = keras.Input((6, 8, 8, 2), name="volume")
    x = L.Conv3D(6, 3, padding="same", activation="relu")(i)
    x = L.Conv3D(8, 3, strides=2, activation="relu")(x)
    return Model(i, L.Dense(3, name="classes")(L.GlobalAveragePooling3D()(x)), name="conv3d")


def unet():
    i = keras.Input((16, 16, 3), name="image")
    a = L.Conv2D(8, 3, padding="same", activation="relu", name="down1")(i)
    b = L.Conv2D(16, 3, padding="same", activation="relu", name="down2")(L.MaxPooling2D()(a))
    x = L.Conv2DTranspose(8, 2, strides=2, name="up")(b)
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="merge")(L.Concatenate()([x, a]))
    x = L.Concatenate()([L.UpSampling2D()(b), x])
    return Model(i, L.Conv2D(2, 1, activation="sigmoid", name="mask")(x), name="unet")


def siamese():
    shared = L.Dense(8, activation="tanh", name="shared")
    a, b = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    return Model([a, b], L.Dense(1, name="distance")(L.Subtract()([shared(a), shared(b)])), name="siamese")


def two_in_two_out():
    a, b = keras.Input((6, 6, 1), name="image"), keras.Input((3,), name="meta")
    x = L.Flatten()(L.Conv2D(4, 3, activation="relu")(a))
    x = L.Concatenate()([x, L.Dense(4, activation="relu")(b)])
    outputs = {"label": L.Dense(3, activation="softmax", name="label")(x), "score": L.Dense(1, name="score")(x)}
    return Model({"image": a, "meta": b}, outputs, name="two_in_two_out")


def nested():
    i = keras.Input((8, 8, 2), name="inner_image")
    inner = Model(i, L.GlobalAveragePooling2D()(L.Conv2D(6, 3, activation="relu")(i)), name="backbone")
    o = keras.Input((8, 8, 2), name="image")
    return Model(o, L.Dense(3, name="classes")(inner(o)), name="nested")


def ops():
    i = keras.Input((5, 4), name="x")
    x = keras.ops.reshape(i, (-1, 20))
    x = keras.ops.relu(x * 2.0 - 0.5)
    return Model(i, keras.ops.softmax(L.Dense(3, name="dense")(x)), name="ops")


def preprocessing():
    i = keras.Input((10, 10, 3), name="image")
    x = L.Rescaling(1 / 0.5, offset=-1.0)(i)
    x = L.RandomFlip("horizontal", seed=0)(x)
    x = L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])(x)
    x = L.Conv2D(4, 3, activation="relu")(L.CenterCrop(8, 8)(x))
    return Model(i, L.Dense(2, name="classes")(L.Flatten()(x)), name="preprocessing")


def custom():
    i = keras.Input((6,), name="x")
    return Model(i, L.Dense(2, name="out")(Scale(name="scale")(L.Dense(5, activation="relu")(i))), name="custom")


def subclassed():
    model = Subclassed(name="subclassed")
    model(np.zeros((1, 7), "float32"))
    return model


BUILDERS = {
    builder.__name__: builder
    for builder in (
        cnn, mlp, mobilenet_v2, efficientnet_b0, resnet50, lstm, gru, transformer, conv1d, conv3d, unet, siamese,
        two_in_two_out, nested, ops, preprocessing, custom, subclassed,
    )
}  # fmt: skip


def build(name: str, seed: int = 0) -> Model:
    """Return the model with seeded weights: activations stay near one, and no weight is exactly 0 or 1."""
    model = BUILDERS[name]()
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed" in variable.path or not str(variable.dtype).startswith("float"):
            continue
        shape, kind = tuple(variable.shape), variable.name
        if kind == "gamma" and "_3_bn" in variable.path:
            value = generator.uniform(0.1, 0.3, shape)  # ResNet's branches: a sum of sixteen of them stays near one
        elif kind in ("gamma", "scale", "moving_variance", "variance"):
            value = generator.uniform(0.8, 1.2, shape)
        elif len(shape) < 2:
            value = generator.uniform(-0.1, 0.1, shape)
        else:
            fan_in = shape[0] * shape[1] if kind == "depthwise_kernel" else np.prod(shape[:-1])
            value = generator.normal(0, np.sqrt(1.5 / fan_in), shape)
        if kind == "mean" or ("normalization" in variable.path and kind in ("variance", "count")):
            continue
        variable.assign(value.astype("float32"))
    return model


def inputs(model: Model, count: int, seed: int = 1):
    """Return seeded inputs as a dict of arrays by input name, or one array for one input."""
    generator = np.random.default_rng(seed)
    specs = getattr(model, "inputs", None)
    if not specs:
        return generator.random((count, 7), np.float32)
    arrays = {
        spec.name: generator.integers(0, 40, (count, *spec.shape[1:])).astype("int32")
        if spec.dtype == "int32"
        else generator.random((count, *spec.shape[1:]), np.float32)
        for spec in specs
    }
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))
