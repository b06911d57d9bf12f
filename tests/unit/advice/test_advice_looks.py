"""What looks see of small models; no training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.advice.looks.answers import channel_activity, copies, fit_scores, inference
from kopt.advice.looks.batches import data_facts, memory_needs
from kopt.advice.looks.history import trends_of
from kopt.advice.looks.settings import training_settings
from kopt.advice.looks.subject import MOST_EXAMPLES, Subject, given_data
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
