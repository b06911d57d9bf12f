import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, NonFiniteError
from kopt.core.records.artifacts import TensorInfo
from kopt.data import DataSplits, Split, calibration
from kopt.data.sampling import Reservoir, holds

INPUT = (TensorInfo("image", (None, 2), "float32"),)
TWO = (TensorInfo("a", (None, 2), "float32"), TensorInfo("b", (None,), "int32"))


def examples(count: int, classes: int = 10, *, by_class: bool = False):
    """Row `i` is (i, its class)."""
    y = np.sort(np.arange(count) % classes) if by_class else np.arange(count) % classes
    return np.stack([np.arange(count), y], axis=1).astype(np.float32), y


def per_class(chosen) -> list[int]:
    rows = chosen["image"] if isinstance(chosen, dict) else chosen
    assert len(np.unique(rows[:, 0])) == len(rows), "no example twice"
    return np.bincount(rows[:, 1].astype(int)).tolist()


def test_every_class_gives_the_same_number():
    x, y = examples(1000)
    assert per_class(calibration((x, y), samples=100, inputs=INPUT)) == [10] * 10
    x, y = examples(60, 3)
    assert sorted(per_class(calibration((x, y), samples=7))) == [2, 2, 3]


def test_small_classes_are_used_up_and_the_others_fill():
    x, y = examples(100, 1)
    y[:3] = 1
    x[:, 1] = y
    assert per_class(calibration((x, y), samples=10)) == [7, 3]


def test_the_first_rows_are_balanced_too():
    x, y = examples(1000, by_class=True)
    assert sorted(calibration((x, y), samples=100)[:10, 1]) == list(range(10))


def test_seed_and_no_global_state():
    source = examples(500)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = calibration(source, samples=50, seed=1)
    np.testing.assert_array_equal(first, calibration(source, samples=50, seed=1))
    assert not np.array_equal(first, calibration(source, samples=50, seed=2))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_forms_of_arrays():
    x, y = examples(40, 4)
    split = Split(x, y)
    splits = DataSplits("set", split, Split(x[:1], y[:1]), None, ("a", "b", "c", "d"))
    expected = calibration((x, y), samples=8)
    for source in (split, splits, (x, y.tolist()), (x, np.eye(4)[y]), (tf.constant(x), tf.constant(y))):
        np.testing.assert_array_equal(calibration(source, samples=8), expected)
    assert calibration(x, samples=8).shape == (8, 2)
    assert calibration((x,), samples=8).shape == (8, 2)
    assert len(calibration(x, samples=100)) == 40, "all there are"
    both = calibration({"a": x, "b": y}, samples=8, inputs=TWO)
    np.testing.assert_array_equal(both["a"][:, 1], both["b"])
    assert both["b"].dtype == np.int32
    listed = calibration(([x, y], y), samples=8, inputs=TWO)
    np.testing.assert_array_equal(listed["a"][:, 1], listed["b"])


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("labelled", [True, False])
def test_data_sets_batched_or_not_with_or_without_labels(batch_size, labelled):
    x, y = examples(700, by_class=True)
    dataset = tf.data.Dataset.from_tensor_slices((x, y) if labelled else x)
    if batch_size:
        dataset = dataset.batch(batch_size)
    chosen = calibration(dataset, samples=50, inputs=INPUT)
    counts = per_class(chosen)
    assert sum(counts) == 50
    assert chosen["image"].dtype == np.float32
    if labelled:
        assert counts == [5] * 10
    np.testing.assert_array_equal(chosen["image"], calibration(dataset, samples=50, inputs=INPUT)["image"])


def test_without_a_signature_batches_are_told_by_the_labels():
    x, y = examples(20, 2)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    assert per_class(calibration(dataset, samples=6)) == [3, 3]
    assert per_class(calibration(dataset.batch(4), samples=6)) == [3, 3]


def test_several_inputs_from_a_data_set():
    x, y = examples(30, 3)
    for element in (({"a": x, "b": y}, y), ((x, y), y)):
        dataset = tf.data.Dataset.from_tensor_slices(element)
        for source in (dataset, dataset.batch(4)):
            chosen = calibration(source, samples=9, inputs=TWO)
            assert np.bincount(chosen["b"]).tolist() == [3, 3, 3]
            np.testing.assert_array_equal(chosen["a"][:, 1], chosen["b"])


def test_an_infinite_data_set_is_read_no_further_than_promised():
    read = tf.Variable(0)

    def count(x):
        read.assign_add(1)
        return x

    dataset = tf.data.Dataset.from_tensor_slices(examples(4)[0]).repeat().map(count)
    assert len(calibration(dataset, samples=3, inputs=INPUT)["image"]) == 3
    assert read.numpy() == 1000
    batched = tf.data.Dataset.from_tensor_slices(examples(4)[0]).repeat().batch(16)
    assert len(calibration(batched, samples=3, inputs=INPUT)["image"]) == 3


def test_reservoir_is_uniform_inside_a_class():
    # Two classes in turn, 10 rows each, 3 places: 2 for the first, 1 for the second. In 2,000 runs a row of the first
    # is held 400 times, one of the second 200; 4 standard deviations are 4 * sqrt(2000 * 0.2 * 0.8) = 72 and 54.
    generator = np.random.default_rng(0)
    counts = np.zeros(20, int)
    for _ in range(2000):
        reservoir = Reservoir(3, generator)
        for row in range(20):
            reservoir.offer(row % 2, lambda row=row: row)
        counts[reservoir.examples()] += 1
    np.testing.assert_allclose(counts[::2], 400, atol=72)
    np.testing.assert_allclose(counts[1::2], 200, atol=54)


@pytest.mark.parametrize("by_class", [True, False])
def test_reservoir_balances_whatever_the_order(by_class):
    _, y = examples(300, 3, by_class=by_class)
    reservoir = Reservoir(7, np.random.default_rng(0))
    for label in y:
        reservoir.offer(int(label), lambda label=label: label)
    assert sorted(np.bincount(reservoir.examples())) == [2, 2, 3]


def test_shape_mismatch_names_both_and_the_fix():
    image = (TensorInfo("image", (None, 28, 28, 1), "float32"),)
    x = np.zeros((8, 28, 28))
    expected = (
        r"`calibration` yields float64 arrays of shape \(8, 28, 28\); the model input 'image' needs float32 "
        r"\(None, 28, 28, 1\)\. Add a channel axis: `x\[\.\.\., None\]`"
    )
    with pytest.raises(DataError, match=expected):
        calibration(tf.data.Dataset.from_tensor_slices(x).batch(8), inputs=image)
    with pytest.raises(DataError, match=r"\(28, 28\); .*Add a channel axis"):
        calibration(tf.data.Dataset.from_tensor_slices(x), inputs=image)
    with pytest.raises(DataError, match=r"\(8, 28, 28\); .*Add a channel axis"):
        calibration(x, inputs=image)


def test_refusals():
    x, y = examples(10)
    for samples in (0, -1, True, 2.5):
        with pytest.raises(ConfigError, match="`samples` must be a whole number"):
            calibration(x, samples=samples)
    with pytest.raises(DataError, match="empty"):
        calibration(x[:0])
    with pytest.raises(DataError, match="empty: the data set yields no examples"):
        calibration(tf.data.Dataset.from_tensor_slices(x).take(0), inputs=INPUT)
    with pytest.raises(DataError, match=r"different lengths: \[9, 10\]"):
        calibration((x, y[:9]))
    with pytest.raises(DataError, match=r"Received: builtins\.str 'digits'"):
        calibration("digits")
    with pytest.raises(DataError, match=r"Received: builtins\.generator"):
        calibration(row for row in x)
    with pytest.raises(DataError, match="RaggedTensor; dense"):
        calibration(tf.data.Dataset.from_tensors(tf.ragged.constant([[1.0], [2.0, 3.0]])), inputs=INPUT)
    with pytest.raises(DataError, match=r"lacks the model input 'image'\. Did you mean 'imag'"):
        calibration(tf.data.Dataset.from_tensor_slices({"imag": x}), inputs=INPUT)
    with pytest.raises(DataError, match=r"2 rows of inputs with labels of shape \(3,\)"):
        calibration(tf.data.Dataset.from_tensor_slices((x, np.eye(3)[y % 3])))
    x[:, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"10 value\(s\)"):
        calibration(x, inputs=INPUT)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_nan_is_named_by_the_row_that_the_user_has(labelled):
    x = np.zeros((40, 2), np.float32)
    x[31, 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"the first in the sample at index \(31, 1\) of the arrays"):
        calibration((x, np.arange(40) % 4) if labelled else x, inputs=INPUT)


def test_a_nan_of_a_data_set_is_said_to_be_counted_in_the_sample():
    x = np.zeros((40, 2), np.float32)
    x[31, 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"the first at index \(\d+, 1\) of the sample"):
        calibration(tf.data.Dataset.from_tensor_slices(x), inputs=INPUT)


def test_examples_of_different_shapes():
    def rows():
        yield np.zeros((2, 3), np.float32)
        yield np.zeros((4, 3), np.float32)

    dataset = tf.data.Dataset.from_generator(rows, output_signature=tf.TensorSpec((None, 3), tf.float32))
    info = (TensorInfo("sequence", (None, None, 3), "float32"),)
    with pytest.raises(DataError, match="different shapes"):
        calibration(dataset, inputs=info)


def test_examples_are_known_again_in_another_order_and_not_among_others():
    info = (TensorInfo("x", (None, 3), "float32"),)
    x = np.random.default_rng(0).normal(size=(3000, 3))
    shuffled = tf.data.Dataset.from_tensor_slices(x).shuffle(3000).batch(7)
    chosen = calibration(shuffled, samples=20, inputs=info)
    assert holds(shuffled, chosen, info)
    assert holds(shuffled.repeat(), chosen, info)
    assert holds(shuffled.unbatch(), chosen, info), "single examples, too"
    assert not holds(shuffled, {"x": chosen["x"] + 1e-3}, info)
    damaged = x.copy()
    damaged[5:10] = np.nan
    assert not holds(tf.data.Dataset.from_tensor_slices(damaged[:1500]).batch(5), chosen, info)
