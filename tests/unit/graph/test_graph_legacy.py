"""Files written by tf_keras, some edited into what older releases of Keras wrote, against the outputs of tf_keras."""

import json

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import kopt
from kopt.core.errors import LoadError, UnsafeModelError, UnsupportedModelError
from kopt.graph import GraphView, load_model
from kopt.graph.legacy import example_inputs
from kopt.graph.legacy_layers import hard_sigmoid, translate_layer
from kopt.graph.legacy_ops import get_operation
from kopt.graph.tfmot import load_tfmot

K = tf_keras.layers
Input, Model, Sequential = tf_keras.Input, tf_keras.Model, tf_keras.Sequential

# Keras 3.15 reads its variables with `np.array(variable)` while it saves, which NumPy 2 deprecates.


def mlp():
    return Sequential([Input((4,)), K.Dense(3, "relu"), K.Dropout(0.2), K.Dense(2, "softmax")])


def cnn():
    x = Input((8, 8, 3))
    y = K.ReLU(6.0)(K.BatchNormalization()(K.Conv2D(4, 3, padding="same", use_bias=False)(x)))
    y = K.LeakyReLU(0.1)(K.DepthwiseConv2D(3)(y))
    y = K.Concatenate()([y, K.Add()([y, K.SeparableConv2D(4, 3, padding="same")(y)])])
    y = K.ZeroPadding2D()(K.UpSampling2D()(K.Conv2DTranspose(3, 2, strides=2)(y)))
    return Model(x, K.Dense(2)(K.GlobalAveragePooling2D()(K.MaxPooling2D()(y))))


def unusual_activations():
    return Sequential([Input((4, 4, 3)), K.ThresholdedReLU(0.3), K.PReLU(), K.ELU(0.5), K.Softmax()])


def named_activations():
    x = Input((4,))
    names = (
        "relu elu selu softplus softsign tanh sigmoid exponential linear gelu mish hard_sigmoid swish leaky_relu relu6"
    )
    return Model(x, [K.Activation(name)(x) for name in names.split()])


def recurrent():
    x = Input((5, 3))
    y = K.Bidirectional(K.LSTM(4, return_sequences=True))(x)
    y = K.Bidirectional(K.GRU(3, return_sequences=True), merge_mode="sum")(y)
    return Model(x, K.SimpleRNN(2)(y))


def embedding():
    tokens = K.Embedding(10, 4, input_length=6, mask_zero=True)
    return Sequential([tokens, K.LSTM(4, recurrent_activation="hard_sigmoid"), K.Dense(1, activation="hard_sigmoid")])


def passed_states():
    x = Input((5, 4))
    sequence, *states = K.LSTM(3, return_sequences=True, return_state=True)(x)
    return Model(x, K.LSTM(3)(sequence, initial_state=states))


def cells():
    return Sequential([Input((5, 3)), K.RNN([K.LSTMCell(3), K.GRUCell(4)])])


def time_distributed():
    inner = Sequential([Input((8, 3)), K.Conv1D(2, 3), K.Flatten()])
    return Sequential([Input((5, 8, 3)), K.TimeDistributed(inner), K.TimeDistributed(K.Dense(2))])


def nested_and_shared():
    a = Input((4,))
    inner = Model(a, [K.Dense(3)(a), K.BatchNormalization()(a)], name="inner")
    x, y = Input((4,)), Input((4,))
    (p, q), (r, _) = inner(x), inner(y)
    return Model([x, y], [K.Concatenate()([p, q, r]), q])


def frozen_inside():
    inner = Sequential([Input((4,)), K.Dense(3), K.BatchNormalization(), K.Dense(3)])
    inner.trainable = False
    return Sequential([Input((4,)), inner, K.Dense(2)])


def two_dicts():
    a, b = Input((4,), name="a"), Input((3,), name="b")
    return Model({"a": a, "b": b}, {"p": K.Dense(2)(a), "q": K.Concatenate()([a, b])})


def operations():
    x = Input((4,))
    y = tf.concat([tf.nn.relu(2 - (x * 2 + 1)), x], -1)
    y = tf.reshape(y, (-1, 2, 4))[:, 0]
    y = tf.reduce_mean(tf.cast(y, "float32"), axis=-1, keepdims=True) + K.Dense(3)(x) / 2.0
    return Model(x, tf.matmul(y, y, transpose_b=True))


def transformer():
    x = Input((6,))
    y = K.Embedding(10, 8)(x)
    y = K.LayerNormalization()(y + K.MultiHeadAttention(2, 4)(y, y))
    return Model(x, K.Dense(2)(K.GlobalAveragePooling1D()(y)))


def slashes():
    x = Input((8, 8, 3))
    return Model(x, K.BatchNormalization(name="c1/bn")(K.Conv2D(4, 3, name="c1/conv")(x)))


def preprocessing():
    normalization = K.Normalization()
    normalization.adapt(np.arange(30.0).reshape(10, 3))
    return Sequential([Input((3,)), normalization, K.Rescaling(0.5), K.Dense(2, kernel_regularizer="l2")])


def deferred():
    model = Sequential([K.Dense(3), K.Dense(2)])
    model.build((None, 4))
    return model


def mobilenet():
    return tf_keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=10)


MODELS = [
    *(mlp, cnn, unusual_activations, named_activations, recurrent, embedding, passed_states, cells, time_distributed),
    *(nested_and_shared, frozen_inside, two_dicts, operations, transformer, slashes, preprocessing, deferred),
    pytest.param(mobilenet, marks=pytest.mark.slow),
]


def write(model, path, edit=None, version=None):
    """Save `model` with random weights as HDF5 and let `edit` change the stored config."""
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) * 0.3)
    for variable in model.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(rng.uniform(0.5, 1, size=variable.shape))
    with pytest.warns(UserWarning, match="HDF5"):
        model.save(path)
    with h5py.File(path, "r+") as file:
        if edit:
            config = json.loads(file.attrs["model_config"])
            file.attrs["model_config"] = json.dumps(edit(config) or config)
        if version:
            file.attrs["keras_version"] = version
    return path


def outputs(model, arrays):
    if isinstance(model, keras.Model):
        structure = GraphView.of(model).input_structure
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(structure, arrays), training=False))
    return tf.nest.flatten(model(arrays if len(arrays) > 1 else arrays[0], training=False))


def assert_equal_outputs(model, reference):
    arrays = example_inputs(model, seed=7)
    for a, b in zip(outputs(model, arrays), outputs(reference, arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_a_file_of_tf_keras_computes_the_same(build, tmp_path):
    reference = build()
    model = load_model(write(reference, tmp_path / "m.h5"), verify=False)
    assert_equal_outputs(model, reference)


@pytest.mark.parametrize("build", [embedding, unusual_activations, operations], ids=lambda build: build.__name__)
def test_the_opened_model_saves_as_keras_3(build, tmp_path):
    model = load_model(write(build(), tmp_path / "m.h5"))
    model.save(tmp_path / "m.keras")
    assert_equal_outputs(load_model(tmp_path / "m.keras"), model)


@pytest.mark.parametrize("build", [mlp, cnn, embedding], ids=lambda build: build.__name__)
def test_a_keras_archive_of_tf_keras_computes_the_same(build, tmp_path):
    reference = build()
    reference.save(tmp_path / "m.keras")
    assert_equal_outputs(load_model(tmp_path / "m.keras"), reference)


def layers_of(config):
    return config["config"] if isinstance(config["config"], list) else config["config"]["layers"]


def as_list_without_input(config):
    """Up to Keras 2.2.2: a Sequential is a list, and its first layer holds the input shape."""
    _, first, *others = layers_of(config)
    first["config"]["batch_input_shape"] = [None, 4]
    first["config"]["input_dim"] = 4
    return {"class_name": "Sequential", "config": [first, *others]}


def without_reset_after(config):
    for layer in layers_of(config):
        layer["config"].pop("reset_after", None)
        layer["config"]["implementation"] = 1


def with_depthwise_leftovers(config):
    for layer in layers_of(config):
        if layer["class_name"] == "DepthwiseConv2D":
            layer["config"].update(groups=1, kernel_initializer="glorot_uniform", kernel_regularizer=None)


def with_arrays_for_scalars(config):
    for layer in layers_of(config):
        if layer["class_name"] == "LeakyReLU":
            layer["config"]["alpha"] = {"type": "ndarray", "value": 0.3}


def without_call_arguments(config):
    """Up to Keras 2.1 a call was stored as `[layer, node, tensor]`."""
    for layer in layers_of(config):
        layer["inbound_nodes"] = [[reference[:3] for reference in node] for node in layer["inbound_nodes"]]
    config["class_name"] = "Model"


def with_relu6_of_keras_applications(config):
    for layer in layers_of(config):
        if layer["class_name"] == "ReLU":
            layer.update(class_name="Activation", config={"name": layer["config"]["name"], "activation": "relu6"})


def gru():
    return Sequential([Input((5, 3)), K.GRU(4, reset_after=False)])


def leaky_relu():
    return Sequential([Input((3,)), K.LeakyReLU(0.3)])


@pytest.mark.parametrize(
    ("build", "edit", "version"),
    [
        (mlp, as_list_without_input, "2.1.2"),
        (gru, without_reset_after, "2.0.8"),
        (cnn, with_depthwise_leftovers, "2.2.4-tf"),
        (leaky_relu, with_arrays_for_scalars, "2.2.4"),
        (cnn, without_call_arguments, "2.0.6"),
        (cnn, with_relu6_of_keras_applications, "2.1.6"),
    ],
    ids=["list", "gru", "depthwise", "arrays", "calls", "relu6"],
)
def test_configs_of_older_releases(build, edit, version, tmp_path):
    reference = build()
    model = load_model(write(reference, tmp_path / "m.h5", edit, version), verify=False)
    assert_equal_outputs(model, reference)


@pytest.mark.parametrize(("name", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_cudnn_layouts_are_converted(name, gates, tmp_path):
    """CuDNN keeps each gate transposed in memory, the recurrent kernels transposed, and two biases."""
    reference = Sequential([Input((5, 3)), getattr(K, name)(2, name="rnn")])

    def edit(config):
        layer = layers_of(config)[1]
        kept = ("name", "trainable", "dtype", "units", "return_sequences", "return_state", "go_backwards", "stateful")
        layer.update(class_name=f"CuDNN{name}", config={key: layer["config"][key] for key in kept})

    path = write(reference, tmp_path / "m.h5", edit)
    kernel, recurrent, bias = reference.get_weights()
    found = []
    with h5py.File(path, "r+") as file:
        file["model_weights"].visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        stored = {dataset.name.rpartition("/")[2]: dataset for dataset in found}
        stored["kernel:0"][...] = np.hstack([gate.T.reshape(3, 2) for gate in np.hsplit(kernel, gates)])
        stored["recurrent_kernel:0"][...] = np.hstack([gate.T for gate in np.hsplit(recurrent, gates)])
        parent = stored["bias:0"].parent
        del parent["bias:0"]
        parent["bias:0"] = np.concatenate([bias * 0.25, bias * 0.75]) if name == "LSTM" else bias.reshape(-1)
    assert_equal_outputs(load_model(path), reference)


def test_the_two_hard_sigmoids_differ_and_ours_is_that_of_keras_2():
    x = np.linspace(-4, 4, 17).astype("float32")
    np.testing.assert_allclose(hard_sigmoid(x), np.clip(0.2 * x + 0.5, 0, 1), atol=1e-7)
    np.testing.assert_allclose(hard_sigmoid(x), tf_keras.activations.hard_sigmoid(tf.constant(x)), atol=1e-7)
    assert np.max(np.abs(hard_sigmoid(x) - keras.activations.hard_sigmoid(x))) > 0.03


def test_a_translation_that_computes_something_else_is_caught(tmp_path, monkeypatch):
    path = write(embedding(), tmp_path / "m.h5")
    monkeypatch.setattr("kopt.graph.legacy_layers.hard_sigmoid", keras.activations.hard_sigmoid)
    with pytest.raises(LoadError, match="does not compute in Keras 3 what it computes in Keras 2: output 0 differs by"):
        load_model(path)
    assert load_model(path, verify=False).output_shape == (None, 1)


@pytest.mark.parametrize(
    ("class_name", "reason"),
    [
        ("Merge", "merge layers became Add"),
        ("LocallyConnected2D", "rebuild this part"),
        ("NoSuchLayer", "custom_objects"),
    ],
)
def test_layers_without_counterpart_are_named(class_name, reason, tmp_path):
    def edit(config):
        layers_of(config)[1].update(class_name=class_name)

    with pytest.raises(LoadError, match=rf"'.*dense.*' is .*{class_name}.*{reason}"):
        load_model(write(mlp(), tmp_path / "m.h5", edit))


def test_a_tensorflow_function_that_is_not_translated_is_named(tmp_path):
    x = Input((4,))
    with pytest.raises(LoadError, match=r"calls `tf\.math\.cumsum`"):
        load_model(write(Model(x, tf.cumsum(x)), tmp_path / "m.h5"))


def test_batch_renormalization_is_refused():
    with pytest.raises(LoadError, match=r"'bn' \(BatchNormalization\) sets `renorm`"):
        translate_layer("BatchNormalization", {"name": "bn", "renorm": True})


def test_a_lambda_is_refused_and_opens_on_request(tmp_path):
    reference = Sequential([Input((4,)), K.Lambda(lambda x: x * 2, name="twice")])
    path = write(reference, tmp_path / "m.h5")
    with pytest.raises(UnsafeModelError, match="layer 'twice'"):
        load_model(path)
    assert_equal_outputs(load_model(path, safe_mode=False), reference)


def test_a_model_without_input_shape_is_refused(tmp_path):
    def edit(config):
        return {"class_name": "Sequential", "config": layers_of(config)[1:]}

    with pytest.raises(LoadError, match="does not say which input shape"):
        load_model(write(mlp(), tmp_path / "m.h5", edit))


def test_keras_1_is_refused(tmp_path):
    with pytest.raises(LoadError, match=r"written by Keras 1\.2\.2"):
        load_model(write(mlp(), tmp_path / "m.h5", version="1.2.2"))


def test_a_layer_of_ones_own_keeps_its_settings(tmp_path):
    class Power(K.Layer):
        def __init__(self, implementation, **kwargs):
            super().__init__(**kwargs)
            self.implementation = implementation

        def call(self, inputs):
            return inputs**self.implementation

        def get_config(self):
            return {**super().get_config(), "implementation": self.implementation}

    class Keras3Power(keras.layers.Layer):
        def __init__(self, implementation, **kwargs):
            super().__init__(**kwargs)
            self.implementation = implementation

        def call(self, inputs):
            return inputs**self.implementation

    reference = Sequential([Input((4,)), K.Dense(3), Power(3)])
    path = write(reference, tmp_path / "m.h5")
    with pytest.raises(LoadError, match=r"custom_objects=\{'Power': Power\}"):
        load_model(path)
    assert_equal_outputs(load_model(path, custom_objects={"Power": Keras3Power}), reference)


def test_a_missing_weight_is_named(tmp_path):
    path = write(mlp(), tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        name = next(name for name in file["model_weights"] if name.startswith("dense"))
        file["model_weights"][name].attrs["weight_names"] = []
    with pytest.raises(LoadError, match=rf"holds 0 weight\(s\) for layer '{name}' \(Dense\); the layer has 2"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("math.subtract", {"x": 5.0, "y": 2.0}, 3.0),
        ("math.divide", {"x": 5.0, "y": 2.0}, 2.5),
        ("math.pow", {"x": 5.0, "y": 2.0}, 25.0),
        ("clip_by_value", {"t": 5.0, "clip_value_min": 0.0, "clip_value_max": 2.0}, 2.0),
    ],
)
def test_functions_take_the_names_of_tensorflow(name, arguments, expected):
    arguments = {key: np.float32(value) for key, value in arguments.items()}
    assert float(get_operation(name, "layer")(**arguments)) == expected


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_layers_that_augment_or_drop_while_training_do_nothing_else(tmp_path, suffix):
    x = Input((8, 8, 3))
    y = K.RandomZoom(0.1)(K.RandomRotation(0.1)(K.RandomFlip("horizontal")(x)))
    y = K.GlobalAveragePooling2D()(K.SpatialDropout2D(0.2)(K.Conv2D(4, 3)(y)))
    old = Model(x, K.Dense(2)(y))
    path = tmp_path / f"old{suffix}"
    old.save(path)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    new = load_model(path)
    np.testing.assert_allclose(new(images, training=False), old(images, training=False), atol=1e-6)


class QuantizeWrapperV2(K.Wrapper):
    """By its name the layer that tfmot puts round others."""

    def call(self, inputs):
        return self.layer(inputs)


QUANTIZED = r"was quantized by tfmot \(`quantize_model`\) already.* Pass the float model"


def require_refused(model, tmp_path):
    for refusing in (kopt.graph.from_tf_keras, kopt.graph.require_built, kopt.quantize.aware):
        with pytest.raises(UnsupportedModelError, match=QUANTIZED):
            refusing(model)
    for name in ("m.h5", "m.keras"):
        model.save(tmp_path / name)
        with pytest.raises(LoadError, match=QUANTIZED):
            kopt.load_model(tmp_path / name)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_model_of_the_layers_of_tfmots_quantization_is_refused_by_its_name(tmp_path):
    inner = Sequential([Input((8,)), QuantizeWrapperV2(K.Dense(4))])
    require_refused(Sequential([Input((8,)), inner]), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_model_that_tfmot_quantized_is_refused_by_its_name(tmp_path):
    model = Sequential([Input((8,)), K.Dense(4, activation="relu"), K.Dense(3)])
    require_refused(load_tfmot().quantization.keras.quantize_model(model), tmp_path)
