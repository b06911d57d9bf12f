import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.data import from_arrays

X = np.arange(10, dtype=np.float32)[:, None] * [1.0, 10.0]
Y = np.arange(10)


def first_column(dataset) -> list[list[int]]:
    return [batch[0].numpy()[:, 0].astype(int).tolist() for batch in dataset]


def test_batches_come_in_order_with_their_labels():
    dataset = from_arrays(X, Y, batch_size=4)
    assert dataset.cardinality() == 3
    batches = list(dataset.as_numpy_iterator())
    assert [y.tolist() for _, y in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for x, y in batches:
        np.testing.assert_array_equal(x, y[:, None] * [1.0, 10.0])


def test_drop_remainder_gives_a_static_batch():
    dataset = from_arrays(X, batch_size=4, drop_remainder=True)
    assert dataset.element_spec.shape == (4, 2)
    assert len(list(dataset)) == 2


def test_shuffle_repeats_under_a_seed_and_differs_between_epochs():
    first, second = (from_arrays(X, Y, batch_size=5, shuffle=True, seed=7) for _ in range(2))
    epochs = [first_column(first), first_column(first)]
    assert epochs == [first_column(second), first_column(second)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0][0] + epochs[0][1]) == list(range(10))
    assert epochs[0] != first_column(from_arrays(X, Y, batch_size=5, shuffle=True, seed=8))


def test_no_global_random_state_is_touched():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    list(from_arrays(X, Y, batch_size=5, shuffle=True, seed=7))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_structures_of_inputs():
    named = next(iter(from_arrays({"a": X, "b": Y}, Y, batch_size=3)))
    assert named[0]["b"].numpy().tolist() == [0, 1, 2]
    listed = next(iter(from_arrays([X, Y], batch_size=3)))
    assert len(listed) == 1, "Keras would read a pair as inputs and targets"
    assert listed[0][1].numpy().tolist() == [0, 1, 2]
    alone = next(iter(from_arrays(X, batch_size=3)))
    assert isinstance(alone, tf.Tensor)


def test_memory_mapped_arrays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert first_column(from_arrays(mapped, Y, batch_size=5)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_augment_sees_batches_and_cache_keeps_them():
    calls = tf.Variable(0)

    def augment(x, y):
        calls.assign_add(1)
        return x + 1, y

    dataset = from_arrays(X, Y, batch_size=5, augment=augment, cache=True)
    epochs = [first_column(dataset) for _ in range(3)]
    assert epochs == [[[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]] * 3
    assert calls.numpy() == 2, "two batches, augmented in the first epoch only"


def test_cache_in_a_file(tmp_path):
    dataset = from_arrays(X, Y, batch_size=5, cache=tmp_path / "cache")
    assert first_column(dataset) == first_column(dataset)
    assert list(tmp_path.glob("cache*.data*"))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:9], r"shapes \(10, 2\), \(9,\)"),
        (X[:0], Y[:0], "no examples"),
        ([], None, "no examples"),
        (X, [1, 2], r"builtins\.int '1'"),
        (np.array([[1], [1, 2]], dtype=object), None, r"Python objects of shape \(2,\)"),
        (np.float32(1), None, "examples along the first axis"),
    ],
)
def test_data_that_does_not_fit_itself(x, y, message):
    with pytest.raises(DataError, match=message):
        from_arrays(x, y, batch_size=2)


def test_impossible_settings():
    with pytest.raises(ConfigError, match="Received: 0"):
        from_arrays(X, batch_size=0)
    with pytest.raises(ConfigError, match="Received: True"):
        from_arrays(X, batch_size=True)
    with pytest.raises(ConfigError, match="same order every epoch"):
        from_arrays(X, batch_size=2, shuffle=True, cache=True)
    with pytest.raises(DataError, match="10 examples do not fill one batch of 11"):
        from_arrays(X, batch_size=11, drop_remainder=True)
