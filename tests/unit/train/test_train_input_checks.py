import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, NonFiniteError
from kopt.core.records.training.input_checks import InputCheck
from kopt.train.steps.input_checks import check_inputs

L = keras.layers
X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
BINARY = np.array([0.0, 1.0, 1.0, 0.0])


def model_of(units=3, activation=None, loss=None, shape=(6,), dtype=None, first=()):
    keras.utils.set_random_seed(0)
    i = keras.Input(shape, name="x", dtype=dtype)
    x = i
    for layer in first:
        x = layer(x)
    model = keras.Model(i, L.Dense(units, activation=activation, name="out")(L.Flatten()(x)))
    if loss is not None:
        model.compile("sgd", loss)
    return model


def test_what_fits_has_no_notes_and_changes_nothing():
    model = model_of(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), first=[L.BatchNormalization()])
    before = [variable.numpy() for variable in model.variables]
    check = check_inputs(model, tf.constant(X), tf.constant([0, 1, 2, 1]), tf.ones(4))
    assert check == InputCheck(4, ("x",), ())
    assert str(check) == "The first batch (4 examples) fits the model."
    for one, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, variable)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("accumulate_steps", 0),
        ("accumulate_steps", None),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("steps_per_execution", -1),
        ("steps_per_epoch", True),
    ],
)
def test_settings_below_one(setting, value):
    with pytest.raises(ConfigError, match=rf"`{setting}` must be a whole number of at least 1. Received: {value!r}"):
        check_inputs(model_of(), X, **{setting: value})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:, :5], r"float32 arrays of shape \(4, 5\); the model input 'x' needs float32 \(None, 6\)"),
        (np.zeros((4, 28, 28), "float32"), "Each example must have shape"),
        ({"z": X}, r"no use for 'z'\..*Model inputs: \['x'\]"),
        ([X, X], r"2 array\(s\), the model has 1 input\(s\) \['x'\]"),
        (np.full((4, 6), "a"), r"Convert it to numbers"),
        (X[:0], "no examples"),
        (None, "no inputs"),
        (np.float32(3), r"shape \(\): it is one number, not a batch"),
    ],
)
def test_inputs_unlike_the_models(x, message):
    with pytest.raises(DataError, match=message):
        check_inputs(model_of(), x)


def test_what_keras_changes_silently_is_accepted():
    assert check_inputs(model_of(shape=(6, 1)), X).notes == ()
    assert check_inputs(model_of(), X[..., None]).notes == ()
    assert check_inputs(model_of(), X.astype("float64")).notes == ()
    (note,) = check_inputs(model_of(), {"x": X, "id": np.arange(4)}).notes
    assert "no input for ['id']" in note
    ids = model_of(dtype="int32", first=[L.Embedding(10, 2)])
    (note,) = check_inputs(ids, np.ones((4, 6), "float32")).notes
    assert "x.astype('int32')" in note
    with pytest.raises(DataError, match="needs int32"):
        check_inputs(ids, X)


def test_nan_and_infinity():
    bad = X.copy()
    bad[2, 3], bad[3, 0] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match=r"'x', has 2 value\(s\).*first at index \(2, 3\)"):
        check_inputs(model_of(), bad)
    with pytest.raises(NonFiniteError, match=r"Targets of the first batch has 1 value\(s\).*index \(1,\)"):
        check_inputs(model_of(), X, np.array([0.0, np.nan, 1.0, 2.0]))
    with pytest.raises(NonFiniteError, match="sample_weight"):
        check_inputs(model_of(), X, None, np.array([0.0, np.inf, 1.0, 2.0]))

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(NonFiniteError, match=r"index \(2, 3\)"):  # Not built, and no graph.
        check_inputs(Own(), bad)
    with pytest.raises(NonFiniteError, match=r"1 value\(s\)"):
        check_inputs(Own(), tf.ragged.constant([[1.0], [2.0, np.nan]]))
    with pytest.raises(NonFiniteError, match=r"1 value\(s\)"):
        check_inputs(Own(), tf.SparseTensor([[0, 1]], [np.inf], (2, 2)))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 3, -1], r"must lie in \[0, 3\)\. 2 do not, the first at index \(2,\); all lie in \[-1, 3\]"),
        ([0.0, 1.5, 2.0, 1.0], r"whole numbers.*1 do not, the first at index \(1,\)"),
        (np.eye(3)[[0, 1, 2, 0]], r"rows of 3, but SparseCategoricalCrossentropy takes class numbers.*argmax"),
        (["a", "b", "a", "b"], "np.unique"),
        ([0, 1, 2], r"have shape \(3,\), but there are 4 examples"),
    ],
)
def test_labels_of_sparse_crossentropy(y, message):
    for loss in ("sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy(), None):
        model = model_of(activation="softmax", loss=loss or keras.losses.sparse_categorical_crossentropy)
        with pytest.raises(DataError, match=message):
            check_inputs(model, X, np.array(y))


def test_an_ignored_class_and_columns_of_labels():
    model = model_of(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255))
    assert check_inputs(model, X, np.array([[0], [255], [2], [1]])).notes == ()
    with pytest.raises(DataError, match="single one"):
        check_inputs(model_of(1, "sigmoid", "sparse_categorical_crossentropy"), X, np.zeros(4))


def test_rows_of_categorical_crossentropy():
    model = model_of(activation="softmax", loss="categorical_crossentropy")
    assert check_inputs(model, X, np.eye(3)[[0, 1, 2, 0]]).notes == ()
    for y in (np.array([0, 1, 2, 0]), np.array([[0], [1], [2], [0]])):
        with pytest.raises(DataError, match=r"takes rows of 3.*SparseCategoricalCrossentropy.*to_categorical\(y, 3\)"):
            check_inputs(model, X, y)
    with pytest.raises(DataError, match="the model 4 outputs"):
        check_inputs(model, X, np.eye(4))
    with pytest.raises(DataError, match="negative"):
        check_inputs(model, X, np.eye(3)[[0, 1, 2, 0]] - 0.5)
    (note,) = check_inputs(model, X, np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])).notes
    assert "2 of 4 rows do not add up to 1" in note
    with pytest.raises(DataError, match="always 0"):
        check_inputs(model_of(1, "sigmoid", "categorical_crossentropy"), X, BINARY[:, None])


def test_labels_of_binary_crossentropy_and_others():
    model = model_of(1, "sigmoid", keras.losses.BinaryFocalCrossentropy())
    assert check_inputs(model, X, BINARY).notes == ()
    with pytest.raises(DataError, match=r"lie in \[0, 1\] for BinaryFocalCrossentropy\. 2 do not, .*\[-1, 1\]"):
        check_inputs(model, X, 2 * BINARY - 1)
    with pytest.raises(DataError, match="the model has 3 outputs"):
        check_inputs(model_of(3, "sigmoid", "binary_crossentropy"), X, BINARY)
    with pytest.raises(DataError, match="be -1 or 1 for Hinge"):
        check_inputs(model_of(1, loss="hinge"), X, np.array([0, 1, 2, 1]))
    with pytest.raises(DataError, match="at least 0 for Poisson: they are counts"):
        check_inputs(model_of(1, "exponential", "poisson"), X, -BINARY)


def test_from_logits_against_the_last_layer():
    y, logits = np.array([0, 1, 2, 1]), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ConfigError, match=r"went through softmax already, and Sparse.*Use `from_logits=False`"):
        check_inputs(model_of(activation="softmax", loss=logits), X, y)
    with pytest.raises(ConfigError, match=r"takes probabilities\. Use `keras.losses.Sparse.*activation='softmax'"):
        check_inputs(model_of(loss="sparse_categorical_crossentropy"), X, y)
    with pytest.raises(ConfigError, match="activation='sigmoid'"):
        check_inputs(model_of(1, loss="binary_crossentropy"), X, BINARY)
    with pytest.raises(ConfigError, match="went through sigmoid"):
        check_inputs(model_of(1, "sigmoid", keras.losses.BinaryCrossentropy(from_logits=True)), X, BINARY)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = L.Dense(3)

        def call(self, x):
            return tf.nn.softmax(self.out(x))  # Nothing but the values shows it.

    model = Own()
    model.compile("sgd", logits)
    check_inputs(model, X, y)  # Not built: nothing is known of its outputs, and it stays so.
    assert not model.variables
    model(X)
    with pytest.raises(ConfigError, match="went through softmax"):
        check_inputs(model, X, y)


def test_several_outputs():
    i = keras.Input((6,))
    model = keras.Model(i, [L.Dense(3, "softmax", name="kind")(i), L.Dense(1, name="age")(i)])
    y = {"kind": np.array([0, 1, 2, 1]), "age": X[:, 0]}
    for loss in ({"kind": "sparse_categorical_crossentropy", "age": "mse"}, ["sparse_categorical_crossentropy", "mse"]):
        model.compile("sgd", loss)
        assert check_inputs(model, X, y).notes == ()
        with pytest.raises(DataError, match=r"Targets 'kind' must lie in \[0, 3\)"):
            check_inputs(model, X, {**y, "kind": np.array([0, 1, 3, 1])})
    twin = keras.Model(i, {"kind": model.outputs[0], "age": model.outputs[1]})
    twin.compile("sgd", {"age": "mse", "kind": "sparse_categorical_crossentropy"})
    with pytest.raises(DataError, match="'kind' must lie"):
        check_inputs(twin, X, {**y, "kind": np.array([0, 1, 3, 1])})


def test_targets_of_a_regression():
    model = model_of(1, loss="mse")
    assert check_inputs(model, X, X[:, 0]).notes == ()
    (note,) = check_inputs(model, X, X[:, :3]).notes
    assert "shape (4, 3), the output ('batch', 1): MeanSquaredError stretches" in note
    (note,) = check_inputs(model_of(3, loss="mse"), X, X[:, 0]).notes  # a class of one's own may train on it
    assert "shape (4,), the output ('batch', 3): MeanSquaredError has no numbers to compare" in note
    (note,) = check_inputs(model, X, np.array([100.0, 300.0, 100.0, 300.0])).notes
    assert "mean 200 and standard deviation 100" in note


def test_sample_weights():
    model = model_of()
    (note,) = check_inputs(model, X, None, np.array([1, 0, -1, 1])).notes
    assert "1 negative value(s), the first at index (2,): the loss of those examples is made larger" in note
    with pytest.raises(DataError, match=r"shape \(3,\), but the first batch has 4 examples"):
        check_inputs(model, X, None, np.ones(3))
    assert "nothing is learned" in check_inputs(model, X, None, np.zeros(4)).notes[0]


def test_scale():
    pixels = np.array([[0, 255, 128, 64, 32, 255]] * 4, "uint8")
    (note,) = check_inputs(model_of(), pixels).notes
    # They add up to 734, their squares to 151554: 734 / 6, and the root of 151554 / 6 - (734 / 6)^2.
    assert "mean 122 and standard deviation 101" in note
    assert "Rescaling(1 / 255)" in note
    (note,) = check_inputs(model_of(), X + 50).notes
    assert "Normalization()" in note
    assert "nothing to learn" in check_inputs(model_of(), np.ones_like(X)).notes[0]
    inner = model_of(first=[L.Rescaling(1 / 255)])
    i = keras.Input((6,))
    for scaled in (inner, keras.Model(i, inner(i)), model_of(dtype="int32", first=[L.Embedding(256, 2)])):
        assert check_inputs(scaled, pixels).notes == ()
    assert len(check_inputs(keras.Model(i, [inner(i), L.Dense(1)(i)]), pixels).notes) == 1  # One path is not scaled.


def test_length_of_the_data():
    model, examples = model_of(), tf.data.Dataset.from_tensor_slices(X)
    assert check_inputs(model, X, dataset=examples.batch(4)).notes == ()
    with pytest.raises(DataError, match="no batch to train on"):
        check_inputs(model, X, batches=0)
    with pytest.raises(DataError, match="no batch to train on"):
        check_inputs(model, X, dataset=examples.batch(8, drop_remainder=True))
    with pytest.raises(ConfigError, match="never ends"):
        check_inputs(model, X, dataset=examples.batch(2).repeat())
    assert check_inputs(model, X, dataset=examples.batch(2).repeat(), steps_per_epoch=3).notes == ()
    unknown = examples.filter(lambda row: row[0] < 9).batch(2)
    assert check_inputs(model, X, dataset=unknown).notes == ()
    with pytest.raises(ConfigError, match=r"`steps_per_execution=4`.*assert_cardinality"):
        check_inputs(model, X, dataset=unknown, steps_per_execution=4)
    assert check_inputs(model, X, dataset=unknown, steps_per_execution=4, steps_per_epoch=8).notes == ()


def test_what_is_left_out_is_said():
    model, examples = model_of(), tf.data.Dataset.from_tensor_slices(X)
    (note,) = check_inputs(model, X, dataset=examples.batch(3, drop_remainder=True)).notes
    assert "All batches have 3 examples: what does not fill a batch is left out" in note
    (note,) = check_inputs(model, X, batches=12, steps_per_epoch=10).notes
    assert "10 of the 12 batches" in note
    assert "the other 2" in note
    (note,) = check_inputs(model, X, batches=12, steps_per_epoch=20).notes
    assert "more than the 12 batches" in note
    (note,) = check_inputs(model, X, batches=14, accumulate_steps=4).notes
    assert "the last 2 make an update of their own" in note


class OfBatchesOf16(keras.layers.Layer):
    """Joins 16 examples, as a layer does that holds the examples of a batch against each other."""

    def call(self, inputs):
        return keras.ops.reshape(keras.ops.reshape(inputs, (-1, 16, 6)), (-1, 6))


def test_outputs_that_cannot_be_looked_at_are_said():
    model = model_of(loss="mse", first=[OfBatchesOf16()])
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    (note,) = check_inputs(model, x, np.arange(48.0).reshape(16, 3) / 48).notes
    assert note.startswith(
        "Outputs were not held against the loss before the first step: the model cannot compute the first 8 examples "
        "alone ("
    )


def test_the_record_travels():
    check = check_inputs(model_of(), X + 50)
    assert InputCheck.from_json(check.to_json()) == check
