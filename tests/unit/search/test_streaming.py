"""A data set read piece by piece teaches what the same examples teach as arrays."""

import errno
import os
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from kopt.core.errors import DataError, OutputError
from kopt.core.files import staging
from kopt.data import from_arrays
from kopt.search.lessons import Lesson, prepare
from kopt.search.streaming import check_stream, stream
from kopt.search.techniques.work import Work
from kopt.search.training import Training
from kopt.search.trials import examples, supplies

X = np.random.default_rng(0).random((200, 6), np.float32)
CLASSES = np.arange(200) % 4
WEIGHTS = np.linspace(0, 1, 200, dtype=np.float32)


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(4, activation="softmax")])


def streamed(model, data, place, **settings):
    return stream(model, data, Training(**settings), place, num_classes=None, seed=3)


def arrays(lessons):
    return [np.asarray(array) for array in keras.tree.flatten((lessons.train.arrays, lessons.held.arrays))]


@pytest.mark.parametrize("data", [(X, CLASSES), (X, CLASSES, WEIGHTS), (X,)])
def test_a_data_set_teaches_what_arrays_teach(data, tmp_path):
    model = network()
    found = streamed(model, tf.data.Dataset.from_tensor_slices(data).batch(30), tmp_path)
    as_arrays = prepare(model, data if len(data) > 1 else X, Training(), num_classes=None, seed=3)
    for one, other in zip(arrays(found), arrays(as_arrays), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert found.loss == as_arrays.loss
    assert all(isinstance(array, np.memmap) for array in keras.tree.flatten(found.train.arrays))
    assert set(as_arrays.notes) < set(found.notes)
    assert any("its 200 examples are kept in the work directory" in note for note in found.notes)


def test_inputs_by_name_are_put_in_the_models_order(tmp_path):
    model = zoo.build("siamese")
    inputs = zoo.inputs(model, 40)
    labels = np.asarray(model([inputs[tensor.name] for tensor in model.inputs]))
    backwards = dict(reversed(inputs.items()))
    data = tf.data.Dataset.from_tensor_slices((backwards, labels)).batch(16)
    found = streamed(model, data, tmp_path, loss="mse")
    as_arrays = prepare(model, (backwards, labels), Training(loss="mse"), num_classes=None, seed=3)
    for one, other in zip(arrays(found), arrays(as_arrays), strict=True):
        assert np.array_equal(one, other)


def test_only_a_batch_is_in_memory_at_a_time(tmp_path):
    """20 MB in 200 batches of 100 KB; the labels, 80 KB, are looked at whole, and rows are moved in 4 MB."""
    model = keras.Sequential([keras.Input((250,)), keras.layers.Dense(4, activation="softmax")])
    data = tf.data.Dataset.range(200).map(
        lambda i: (tf.fill((100, 250), tf.cast(i, tf.float32)), tf.fill((100,), i % 4))
    )
    tracemalloc.start()
    found = streamed(model, data, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.train.x.nbytes + found.held.x.nbytes == 20_000_000
    assert peak < 8_000_000


def test_the_files_become_the_supplies_and_are_not_copied(tmp_path):
    model = network()
    with staging(tmp_path) as place:
        lessons = streamed(model, from_arrays(X, CLASSES, batch_size=32), place)
        inode = os.stat(place / "train" / "0.npy").st_ino
        supplies.write(tmp_path / "s", model, {"x": X}, training=Training(), lessons=lessons, seed=3)
    assert os.stat(tmp_path / "s" / "train" / "0.npy").st_ino == inode
    assert np.array_equal(supplies.work(tmp_path / "s").train.x, lessons.train.x)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tf.data.Dataset.from_tensors((X, CLASSES)).repeat(), "`train` is infinite"),
        (tf.data.Dataset.from_tensors((X, X, X, X)), "must yield batches of x"),
    ],
)
def test_what_cannot_be_read_to_its_end_is_refused_at_once(data, message):
    with pytest.raises(DataError, match=message):
        check_stream(data)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "`train` is empty"),
        ([(X[:4], CLASSES[:4]), (X[:4], CLASSES[:4].astype(np.float32))], "of one shape and type. Received: float32"),
        ([(X[:4], CLASSES[:4]), (X[:4] * np.nan, CLASSES[:4])], "NaN or infinite"),
    ],
)
def test_a_fault_of_a_later_batch_is_found(batches, message, tmp_path):
    class Batches:
        element_spec = (None, None)

        def as_numpy_iterator(self):
            return iter(batches)

    with pytest.raises(ValueError, match=message):
        streamed(network(), Batches(), tmp_path)


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, batch):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(examples.Pieces, "append", full)
    with pytest.raises(OutputError, match=f"Cannot write {tmp_path}: No space left"), staging(tmp_path) as place:
        streamed(network(), from_arrays(X, CLASSES, batch_size=32), place)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_moved_piece_by_piece_without_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "_PIECE_BYTES", 5 * X[0].nbytes)
    examples.write((X, CLASSES), tmp_path / "a")
    others = np.sort(np.random.default_rng(1).permutation(200)[:50])
    kept = np.setdiff1d(np.arange(200), others)
    examples.split(tmp_path / "a", kept, others, tmp_path / "b")
    for directory, rows in ((tmp_path / "a", kept), (tmp_path / "b", others)):
        x, y = examples.read(directory)
        assert np.array_equal(x, X[rows])
        assert np.array_equal(y, CLASSES[rows])
    assert (tmp_path / "a" / "0.npy").stat().st_size == 128 + 150 * X[0].nbytes


def test_batches_to_learn_from_carry_their_weights():
    lesson = Lesson(X, CLASSES, WEIGHTS)
    work = Work(network(), {"x": X}, Training(batch_size=50), lesson, lesson, None, 1)
    rows = [row for batch in work.batches() for row in zip(*map(np.asarray, batch), strict=True)]
    of_row = {tuple(x): (y, weight) for x, y, weight in zip(X, CLASSES, WEIGHTS, strict=True)}
    assert [of_row[tuple(x)] for x, _, _ in rows] == [(y, weight) for _, y, weight in rows]
    plain = Work(network(), {"x": X}, Training(batch_size=50), Lesson(X, CLASSES), lesson, None, 1)
    unweighted = [x for batch in plain.batches() for x in np.asarray(batch[0])]
    assert np.array_equal([x for x, _, _ in rows], unweighted), "the order does not depend on weights"


@pytest.mark.slow
def test_examples_without_weight_teach_nothing():
    """Labels of the second half are all 0, which draws answers there where it counts."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 6)).astype(np.float32)
    right = x[:, :4].argmax(axis=1)
    wrong = np.where(np.arange(600) < 300, right, 0)
    weights = (np.arange(600) < 300).astype(np.float32)

    def accuracy(lesson):
        work = Work(
            network(), {"x": x}, Training(20, 0.05, distillation=0.0), lesson, lesson, "sparse_categorical_crossentropy"
        )
        model = network()
        work.fit(model, epochs=20, rate=1.0)
        return float((np.asarray(model(x)).argmax(axis=1) == right).mean())

    assert accuracy(Lesson(x, wrong, weights)) > accuracy(Lesson(x, wrong)) + 0.1
