"""What trained candidates learn from, and which loss is found for it."""

import keras
import numpy as np
import pytest

from kopt.core.errors import ConfigError, DataError, UnsupportedModelError
from kopt.search.lessons import prepare
from kopt.search.training import Training
from kopt.search.trials import examples, supplies

X = np.random.default_rng(0).random((200, 6), np.float32)
CLASSES = np.arange(200) % 4


def network(units=4, activation="softmax"):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(units, activation=activation)])


def lessons(model, data, **settings):
    return prepare(model, data, Training(**settings), num_classes=None, seed=0)


def test_a_tenth_is_held_out_of_every_class_and_nothing_is_lost():
    found = lessons(network(), (X, CLASSES))
    assert np.bincount(found.held.y).tolist() == [5, 5, 5, 5]
    both = np.concatenate([found.train.x, found.held.x])
    assert sorted(map(tuple, both)) == sorted(map(tuple, X))


@keras.saving.register_keras_serializable("lessons")
def far(y, found):
    return keras.ops.mean(keras.ops.abs(y - found), axis=-1)


@keras.saving.register_keras_serializable("lessons")
class Far(keras.losses.Loss):
    def call(self, y, found):
        return far(y, found)


def unknown(y, found):
    return far(y, found)


def of_the_script(y, found):
    return far(y, found)


of_the_script.__module__ = "__main__"


@pytest.mark.parametrize("loss", [far, Far()])
def test_a_loss_of_ones_own_is_handed_on_where_another_process_can_find_it(loss, tmp_path):
    model = network(1, None)
    model.compile("adam", loss)
    found = lessons(model, (X, X[:, :1]))
    supplies.write(tmp_path / "s", model, {"x": X}, training=Training(), lessons=found, seed=0)
    assert supplies.terms(tmp_path / "s").imports == (__name__,)
    again = supplies.work(tmp_path / "s").loss
    assert float(np.mean(again(X[:3, :1], X[:3, 1:2]))) == pytest.approx(np.abs(X[:3, 0] - X[:3, 1]).mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (of_the_script, "of_the_script of __main__ cannot be imported there: put it into a module of its own"),
        (lambda y, found: far(y, found), "is not known there: put `@keras.saving.register_keras_serializable"),
        (unknown, "unknown is not known there"),
        (type("Inner", (Far,), {"__qualname__": "f.<locals>.Inner"})(), "f.<locals>.Inner of .* cannot be imported"),
    ],
)
def test_a_loss_that_another_process_cannot_find_is_refused_before_any_trial(loss, words):
    model = network(1, None)
    model.compile("adam", loss)
    with pytest.raises(UnsupportedModelError, match=rf"{words}.*`kopt.Training\(loss=...\)`"):
        lessons(model, (X, X[:, :1]))
    assert lessons(model, (X, X[:, :1]), loss="mae").loss == "mae"


def test_regression_targets_are_held_out_at_random():
    found = lessons(network(1, None), (X, X.sum(axis=1)))
    assert (len(found.train), len(found.held)) == (180, 20)
    assert found.loss == "mse"


@pytest.mark.parametrize(
    ("units", "activation", "labels", "name", "from_logits"),
    [
        (4, "softmax", CLASSES, "SparseCategoricalCrossentropy", False),
        (4, None, CLASSES, "SparseCategoricalCrossentropy", True),
        (4, "softmax", np.eye(4, dtype="float32")[CLASSES], "CategoricalCrossentropy", False),
    ],
)
def test_the_loss_is_found_from_outputs_and_labels_and_said(units, activation, labels, name, from_logits):
    found = lessons(network(units, activation), (X, labels))
    assert found.loss["class_name"] == name
    assert found.loss["config"]["from_logits"] is from_logits
    assert found.notes == (f"The model is not compiled; its outputs and labels suggest the loss {name}.",)


def test_a_sigmoid_has_the_binary_one():
    assert lessons(network(1, "sigmoid"), (X, CLASSES > 1)).loss == "binary_crossentropy"


def test_a_given_loss_comes_first_and_the_compiled_one_second():
    model = network()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(ignore_class=3))
    found = lessons(model, (X, CLASSES))
    assert keras.losses.deserialize(found.loss).get_config()["ignore_class"] == 3
    assert found.notes == ()
    assert (
        lessons(model, (X, CLASSES), loss="sparse_categorical_crossentropy").loss == "sparse_categorical_crossentropy"
    )


def test_without_labels_the_originals_answers_stand_for_them():
    model = network()
    found = lessons(model, X)
    answers = {tuple(row): answer for row, answer in zip(X, model(X).numpy().argmax(axis=1), strict=True)}
    assert [answers[tuple(row)] for row in found.train.x] == found.train.y.tolist()
    assert found.notes[0] == "`train` has no labels: the original's own answers stand for them."


def test_weights_stay_with_their_examples():
    weights = np.arange(200.0)
    found = lessons(network(), (X, CLASSES, weights))
    of_row = {tuple(row): weight for row, weight in zip(X, weights, strict=True)}
    for lesson in (found.train, found.held):
        assert [of_row[tuple(row)] for row in lesson.x] == lesson.weights.tolist()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones((200, 1)), r"one number an example, shape \(200,\). Received: float64 of shape \(200, 1\)"),
        (-np.ones(200), r"finite and at least 0. Received values from -1\.0 to -1\.0"),
        (np.full(200, np.nan), "finite and at least 0"),
    ],
)
def test_impossible_weights_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        lessons(network(), (X, CLASSES, weights))


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(DataError, match="at least 2 examples"):
        lessons(network(), (X[:1], CLASSES[:1]))
    with pytest.raises(DataError, match=r"Received: builtins\.int"):
        lessons(network(), 3)
    with pytest.raises(ConfigError, match="an object goes into"):
        Training(loss=keras.losses.MeanSquaredError())
    with pytest.raises(ConfigError, match=r"`distillation` must be a finite number in \[0, 1\]"):
        Training(distillation=1.5)


@pytest.mark.parametrize("arrays", [X, {"a": X, "b": (X, CLASSES)}, (X, [CLASSES, X])])
def test_arrays_come_back_from_disk_as_they_were(arrays, tmp_path):
    examples.write(arrays, tmp_path / "arrays")
    found = examples.read(tmp_path / "arrays")
    keras.tree.assert_same_structure(found, arrays)
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(arrays), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
