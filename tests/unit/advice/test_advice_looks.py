"""What looks see of small models; no training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.advice.looks.answers import channel_activity, copies, fit_scores, inference
from kopt.advice.looks.batches import data_facts, memory_needs
from kopt.advice.looks.history import trends_of
from kopt.advice.looks.settings import training_settings
from kopt.advice.looks.subject import MOST_EXAMPLES, Subject, given_data
from kopt.advice.rules.convergence import learned_nothing, under_fitting
from kopt.advice.rules.redundancy import constant_channels
from kopt.core.errors import DataError, UnsupportedModelError
from kopt.data.splits import Split
from kopt.train import precision

L = keras.layers


def net(*layers, inputs=(4,)):
    return keras.Sequential([keras.Input(inputs), *layers])


def compiled(model, loss="sparse_categorical_crossentropy", **settings):
    model.compile("adam", loss, metrics=["accuracy"], **settings)
    return model


def subject(model, train=None, validation=None, history=None, limit=None):
    return Subject(model, given_data(train, "train"), given_data(validation, "v"), history, 32, limit, "quick")


def rows(count=64, classes=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 4)).astype("float32"), random.integers(0, classes, count)


def test_rows_come_from_all_over_the_arrays():
    x = np.arange(10_000, dtype="float32")[:, None]
    seen = subject(net(L.Dense(2)), (x, np.zeros(10_000, int))).examples[0][:, 0]
    assert len(seen) == MOST_EXAMPLES
    assert (seen.min(), seen.max()) == (0, 9999)
    assert abs(np.diff(np.sort(seen)) - 10_000 / MOST_EXAMPLES).max() < 1


def test_inputs_alone_and_splits_are_data_too():
    x, y = rows()
    assert not subject(net(L.Dense(3)), x).has_labels
    assert subject(net(L.Dense(3)), Split(x, y)).has_labels
    with pytest.raises(DataError, match=r"builtins\.int"):
        given_data(3, "train")
    with pytest.raises(DataError, match="Batch it"):
        _ = subject(net(L.Dense(3)), tf.data.Dataset.from_tensor_slices(np.zeros(4, "float32"))).batches


def test_settings_of_a_model():
    model = compiled(net(L.Dense(8), L.BatchNormalization(name="norm"), L.Dropout(0.3, name="drop"), L.Dense(3)))
    found = training_settings(subject(model))
    assert (found.optimizer, found.learning_rate, found.iterations) == ("Adam", pytest.approx(1e-3), 0)
    assert (found.batch_norms, found.dropouts) == (("norm",), {"drop": 0.3})
    assert found.compute_dtypes == {"float32": 4}  # with the seed that dropout holds
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)), "mse")
    assert training_settings(subject(model)).learning_rate is None
    assert training_settings(subject(net(L.Dense(2)))).optimizer == ""


def test_a_scaled_loss_is_seen():
    with precision("mixed_float16"):
        model = net(L.Dense(3))
    model.compile("adam", "mse")
    assert training_settings(subject(model)).scales_loss
    model.compile(keras.optimizers.Adam(), "mse", auto_scale_loss=False)
    found = training_settings(subject(model))
    assert not found.scales_loss
    assert found.compute_dtypes == {"float16": 1}
    assert found.output_dtypes == ("float16",)


class InTraining(L.Layer):
    """Calls a layer as in training, whatever is asked for."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x, training=True)


def test_dropout_and_batch_normalization_in_inference_are_seen():
    x, _ = rows()
    plain = inference(subject(net(L.Dense(16), L.Dropout(0.5), L.BatchNormalization()), x))
    assert plain.repeat_difference == 0
    assert plain.batch_difference < 1e-5
    assert inference(subject(net(L.Dense(16), InTraining(L.Dropout(0.5))), x)).repeat_difference > 0.1
    found = inference(subject(net(L.Dense(16), InTraining(L.BatchNormalization())), x))
    assert found.repeat_difference == 0
    assert found.batch_difference > 0.1


def test_augmentation_is_off_in_inference():
    model = net(L.RandomFlip(seed=0), L.Flatten(), inputs=(4, 4, 1))
    assert inference(subject(model, np.random.default_rng(0).random((8, 4, 4, 1), np.float32))).repeat_difference == 0


def test_answers_that_are_no_numbers_are_counted():
    model = net(L.Dense(3))
    model.layers[-1].bias.assign([0.0, np.nan, np.inf])
    assert inference(subject(model, rows()[0])).nonfinite == 2 * 8


def test_constant_channels_and_copies_are_counted():
    model = net(L.Dense(6, activation="relu", name="hidden"), L.Dense(3))
    kernel, bias = (np.zeros(shape, "float32") for shape in ((4, 6), (6,)))
    kernel[0, 0], kernel[1, 1], kernel[2, 2], kernel[0, 3], bias[4], bias[5] = 1, 1, 1, 2, -1, 1  # 3 is twice 0
    model.layers[0].set_weights([kernel, bias])
    [layer] = channel_activity(subject(model, rows(200)[0])).layers
    assert (layer.layer, layer.channels, layer.constant, layer.copies) == ("hidden", 6, 2, 1)


def test_channels_that_hardly_ever_speak_are_no_copies():
    columns = np.zeros((1000, 3))
    columns[7] = 1, 1, 1
    assert copies(columns) == 0
    columns[:20] = np.arange(20)[:, None] * [1.0, -2.0, 3.0]
    assert copies(columns) == 2


def test_channels_of_python_code_cannot_be_watched():
    class Python(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Python()
    model(rows()[0])
    with pytest.raises(UnsupportedModelError, match="Python code"):
        channel_activity(subject(model, rows()[0]))


def test_faults_of_batches_are_facts_and_no_errors():
    x, y = rows()
    model = compiled(net(L.Dense(3, activation="softmax")))
    good = data_facts(subject(model, (x, y)))
    assert (good.error, good.batch_size, good.examples) == ("", 32, 64)
    assert good.classes == {str(name): int(count) for name, count in enumerate(np.bincount(y))}
    assert data_facts(subject(model, (x, y + 5))).error_type == "DataError"
    bad = x.copy()
    bad[50] = np.nan  # In the second batch, if not in the first.
    assert data_facts(subject(model, (bad, y))).error_type == "NonFiniteError"
    logits = compiled(net(L.Dense(3, activation="softmax")), keras.losses.SparseCategoricalCrossentropy(True))
    found = data_facts(subject(logits, (x, y)))
    assert found.error_type == "ConfigError"
    assert "from_logits" in found.error


def test_inputs_far_from_one_are_facts():
    x, y = rows()
    model = compiled(net(L.Dense(3, activation="softmax")))
    [scale] = data_facts(subject(model, (np.abs(x) * 100 + 100, y))).unscaled
    assert scale.mean > 100
    scaled = compiled(net(L.Rescaling(1 / 255), L.Dense(3, activation="softmax")))
    assert data_facts(subject(scaled, (np.abs(x) * 100 + 100, y))).unscaled == ()


def test_shapes_are_counted_without_the_end_of_an_epoch():
    model = keras.Sequential([keras.Input((None,)), L.Embedding(10, 4), L.GlobalAveragePooling1D(), L.Dense(2)])
    batches = [np.zeros((8, length), "int32") for length in (3, 5, 5, 9, 2)]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=tf.TensorSpec((None, None), tf.int32)
    )
    assert data_facts(subject(model, dataset)).shapes == {"(8, 3)": 1, "(8, 5)": 2, "(8, 9)": 1}


@pytest.mark.slow
def test_memory_is_held_against_the_limit_and_remedies_need_less():
    x, y = rows()
    model = compiled(net(L.Dense(256, activation="relu"), L.Dense(256, activation="relu"), L.Dense(3)))
    found = memory_needs(subject(model, (x, y), limit=1000))
    assert found.limit_bytes == 1000
    assert found.estimate.batch_size == 32
    assert all(one.total_bytes < found.estimate.total_bytes for one in found.remedies if "batch" not in one.words)
    assert [one.words.split()[0] for one in found.remedies][-1] == "layers"


def test_scores_and_the_loss_of_chance():
    x, y = rows()
    model = compiled(net(L.Dense(3, activation="softmax")))
    found = fit_scores(subject(model, (x, y), rows(48, seed=1)))
    assert found.examples == 48
    shares = np.bincount(y) / len(y)
    assert found.chance_loss == pytest.approx(-(shares * np.log(shares)).sum())
    assert 0 <= found.accuracy <= 1
    regression = net(L.Dense(1))
    regression.compile("adam", "mse")
    found = fit_scores(subject(regression, (x, x[:, 0]), (x, x[:, 0])))
    assert (found.chance_loss, found.accuracy) == (None, None)


def test_histories_of_all_kinds_are_trends():
    losses, judged = [2.0, 1.0, 0.6, 0.4, 0.3, 0.2], [2.0, 1.2, 1.0, 1.1, 1.2, 1.3]
    found = trends_of({"loss": losses, "val_loss": judged}, "net")
    assert [one.kind for one in found.advice] == ["over-fitting"]
    assert found.epochs[2].logs == {"loss": 0.6, "val_loss": 1.0}
    assert trends_of(found, "net") is found
    history = keras.callbacks.History()
    history.history = {"loss": losses, "val_loss": judged}
    assert trends_of(history, "net") == found
    with pytest.raises(DataError, match=r"builtins\.int"):
        trends_of(3, "net")
    with pytest.raises(DataError, match=r"\[5, 6\]"):
        trends_of({"loss": losses, "val_loss": judged[1:]}, "net")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sum", "smoothed", "penalty", "logits", "binary"])
def test_what_a_loss_has_beside_the_cross_entropy_does_not_count_against_chance(loss):
    x, _ = rows(200)
    y = (x[:, 0] > 0).astype(int)
    penalty = "l2" if loss == "penalty" else None
    width, last = (1, "sigmoid") if loss == "binary" else (2, None if loss == "logits" else "softmax")
    model = net(L.Dense(256, activation="relu", kernel_regularizer=penalty), L.Dense(width, activation=last))
    losses = {
        "sum": keras.losses.SparseCategoricalCrossentropy(reduction="sum"),
        "smoothed": keras.losses.CategoricalCrossentropy(label_smoothing=0.2),
        "penalty": "sparse_categorical_crossentropy",
        "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "binary": keras.losses.BinaryFocalCrossentropy(),
    }
    model.compile(keras.optimizers.Adam(3e-3), losses[loss], metrics=["accuracy"])
    y = np.eye(2)[y] if loss == "smoothed" else y
    model.fit(x, y, epochs=10, verbose=0)
    found = fit_scores(subject(model, (x, y), (x, y)))
    answers = model.predict(x, verbose=0).astype(np.float64)
    ids = y.argmax(-1) if y.ndim == 2 else y
    if loss == "logits":
        answers = np.exp(answers) / np.exp(answers).sum(-1, keepdims=True)
    right = np.where(ids == 1, answers[:, -1], 1 - answers[:, 0] if loss == "binary" else answers[:, 0])
    assert found.cross_entropy == pytest.approx(-np.log(right).mean(), rel=1e-3)
    assert found.cross_entropy < 0.5 * found.chance_loss
    settings = training_settings(subject(model))
    assert list(learned_nothing(settings, found)) == list(under_fitting(settings, found)) == []


def test_few_examples_say_nothing_of_constant_channels():
    model = net(L.Dense(32, activation="gelu"), L.Dense(2))
    for count, says in ((1, 0), (31, 0), (64, 1)):
        x = np.ones((count, 4), "float32")
        assert len(list(constant_channels(channel_activity(subject(model, x))))) == says


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_channels_are_counted_on_their_own_axis(layout):
    random = np.random.default_rng(0)
    shape = (4, 8, 8) if layout == "channels_first" else (8, 8, 4)
    model = net(L.Conv2D(6, 3, activation="relu", data_format=layout), inputs=shape)
    kernel = random.normal(size=(3, 3, 4, 6))
    kernel[..., :3] = 0
    model.layers[0].set_weights([kernel, np.zeros(6)])
    (layer,) = channel_activity(subject(model, random.normal(size=(40, *shape)).astype("float32"))).layers
    assert (layer.channels, layer.constant) == (6, 3)


@pytest.mark.parametrize("labelled", [True, False])
def test_several_inputs_in_a_list_are_no_labels(labelled):
    user, item = (keras.Input((1,), dtype="int32", name=name) for name in ("user", "item"))
    parts = [L.Flatten()(L.Embedding(5000, 16)(one)) for one in (user, item)]
    model = keras.Model([user, item], L.Dot(-1)(parts))
    model.compile("adam", "mse")
    x = list(np.random.default_rng(0).integers(0, 5000, (2, 300, 1)))
    found = kopt.advise(
        model, (x, np.zeros((300, 1))) if labelled else x, looks=["cost", "inference", "memory", "activity"]
    )
    assert [look.reason for look in found.looks if look.name in ("cost", "inference", "memory", "activity")] == [""] * 4
    assert [one.rule for one in found.items] == ["large-embedding"]


def test_data_that_breaks_is_read_once_and_takes_what_needs_it():
    begun = []

    def batches():
        begun.append(1)
        yield np.zeros((32, 4), "float32"), np.zeros(32, int)
        raise ValueError("the disk is gone")

    signature = (tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int64))
    found = kopt.advise(compiled(net(L.Dense(2))), tf.data.Dataset.from_generator(batches, output_signature=signature))
    assert len(begun) == 1
    taken = {look.name: look for look in found.looks}
    assert taken["installation"].seconds is not None
    assert taken["cost"].seconds is None
    assert "the disk is gone" in taken["data"].reason
    found = kopt.advise(compiled(net(L.Dense(2))), (rows()[0], rows()[1][:-1]))
    assert {look.name for look in found.looks if look.seconds is not None} >= {"installation", "runtime", "settings"}


@pytest.mark.parametrize(
    ("scaling", "warns"),
    [
        (lambda x: x / 255.0, False),
        (lambda x: (x - 127.5) * (1 / 127.5), False),
        (lambda x: L.Rescaling(1 / 255)(L.Dropout(0.1)(x)), False),
        (lambda x: L.Dropout(0.1)(x), True),
        (lambda x: x - 127.5, True),
    ],
)
def test_numbers_that_the_graph_scales(scaling, warns):
    i = keras.Input((4,))
    model = compiled(keras.Model(i, L.Dense(2, activation="softmax")(scaling(i))))
    x = 100 * np.abs(rows()[0]) + 1
    assert bool(data_facts(subject(model, (x, rows(classes=2)[1]))).unscaled) == warns


def test_words_with_a_mask_are_no_numbers_to_scale():
    model = compiled(
        net(L.Embedding(1000, 8, mask_zero=True), L.LSTM(4), L.Dense(2, activation="softmax"), inputs=(12,))
    )
    words = np.random.default_rng(0).integers(0, 1000, (64, 12))
    assert not data_facts(subject(model, (words, rows(classes=2)[1]))).unscaled


@pytest.mark.parametrize("groups", [64, 8, 2])
def test_convolutions_in_groups_are_not_too_wide(groups):
    i = keras.Input((32, 32, 64))
    grouped = L.Conv2D(64, 3, groups=groups, padding="same")(i)
    model = keras.Model(i, L.Dense(2)(L.GlobalAveragePooling2D()(grouped)))
    assert not kopt.advise(model, looks=["cost", "parameters"]).of("wide-convolutions")


def test_wide_convolutions_of_a_shared_backbone():
    layers = [L.Conv2D(32, 3, padding="same"), L.Conv2D(32, 3, padding="same"), L.GlobalAveragePooling2D()]
    backbone = keras.Sequential([keras.Input((32, 32, 16)), *layers], name="backbone")
    a, b = keras.Input((32, 32, 16)), keras.Input((32, 32, 16))
    model = keras.Model([a, b], L.Dense(2)(L.Concatenate()([backbone(a), backbone(b)])))
    assert kopt.advise(model, looks=["cost", "parameters"]).of("wide-convolutions")


@pytest.mark.parametrize("history", ["foo", [1, 2], {"loss": [1, 2], "accuracy": [1]}])
def test_what_is_no_history_is_refused_before_any_look(history):
    with pytest.raises(DataError, match="`history`"):
        kopt.advise(net(L.Dense(2)), history=history)


@pytest.mark.slow
def test_weights_of_nothing_but_zeros():
    x, y = rows()
    with pytest.raises(DataError, match="Every example has a weight of 0"):
        kopt.profile.sensitivity(compiled(net(L.Dense(3, activation="softmax"))), (x, y, np.zeros(len(x), "float32")))


@pytest.mark.slow
def test_a_training_step_of_inputs_and_targets_alone_is_timed():
    class Own(keras.Model):
        def train_step(self, data):
            x, y = data  # as the guides of Keras have it
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": loss}

    i = keras.Input((4,))
    model = compiled(Own(i, L.Dense(3, name="only")(i)), "mse")
    found = kopt.profile.layer_times(model, (rows()[0], np.zeros((64, 3))), steps=2)
    assert "only" in [layer.layer for layer in found.layers]


def test_targets_of_another_shape_are_wrong_data():
    model = compiled(net(L.Dense(2)), "mse")
    for targets, says in (
        (np.zeros(64), "has no numbers to compare"),
        (np.zeros((64, 1)), "stretches one to the other"),
    ):
        found = kopt.advise(model, (rows()[0], targets), looks=["data"])
        assert says in found.of("wrong-data")[0].evidence
    assert not kopt.advise(model, (rows()[0], np.zeros((64, 2))), looks=["data"]).of("wrong-data")
