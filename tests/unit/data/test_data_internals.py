"""Fails when a TensorFlow release changes a private part that `kopt.data.internals` uses."""

import pytest
import tensorflow as tf

from kopt.data import internals

RANGE = tf.data.Dataset.range(6)


def double(i):
    return 2 * i


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        (RANGE, "range"),
        (RANGE.map(double), "map"),
        (RANGE.map(double, num_parallel_calls=2), "map"),
        (RANGE.batch(2), "batch"),
        (RANGE.batch(2, num_parallel_calls=2), "batch"),
        (RANGE.padded_batch(2), "padded_batch"),
        (RANGE.shuffle(2), "shuffle"),
        (RANGE.prefetch(2), "prefetch"),
        (RANGE.cache(), "cache"),
        (RANGE.filter(lambda i: i > 1), "filter"),
        (RANGE.flat_map(tf.data.Dataset.range), "flat_map"),
        (RANGE.interleave(tf.data.Dataset.range), "interleave"),
        (RANGE.interleave(tf.data.Dataset.range, num_parallel_calls=2), "interleave"),
        (RANGE.with_options(tf.data.Options()), "options"),
        (RANGE.apply(tf.data.experimental.assert_cardinality(6)), "assert_cardinality"),
        (tf.data.Dataset.zip(RANGE, RANGE), "zip"),
        (tf.data.Dataset.random(seed=1), "random"),
        (tf.data.Dataset.from_tensors(1), "from_tensors"),
        (tf.data.Dataset.from_tensor_slices([1]), "from_tensor_slices"),
        (tf.data.TFRecordDataset("x"), "TFRecord"),
    ],
)
def test_kinds(dataset, kind):
    assert internals.kind_of(dataset) == kind


def test_inputs_and_settings():
    [source] = internals.inputs_of(RANGE.batch(4, drop_remainder=True))
    assert source is RANGE
    assert internals.inputs_of(RANGE) == []
    assert internals.all_stages(RANGE.batch(2).prefetch(1))[-1] is RANGE
    assert internals.setting_of(RANGE.batch(4)) == internals.setting_of(RANGE.shuffle(4)) == 4
    assert internals.setting_of(RANGE.prefetch(tf.data.AUTOTUNE)) == -1
    assert internals.setting_of(RANGE) is None
    assert internals.drops_remainder(RANGE.batch(4, drop_remainder=True))
    assert not internals.drops_remainder(RANGE.batch(4))


def test_functions():
    assert internals.function_name(RANGE.map(double)) == "double"
    assert internals.function_name(RANGE.map(lambda i: i)) == ""
    assert internals.function_of(RANGE) is None
    assert internals.is_parallel(RANGE.map(double, num_parallel_calls=2))
    assert not internals.is_parallel(RANGE.map(double))
    assert internals.name_of(RANGE.map(double, name="marked")) == "marked"


def test_python_is_found_wherever_it_hides():
    def python(i):
        return tf.numpy_function(abs, [i], tf.int64)

    def inside(i):
        return tf.data.Dataset.from_tensors(i).map(python)

    generated = tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=tf.TensorSpec((), tf.int64))
    assert internals.makes_generator(generated)
    for dataset in (RANGE.map(python), RANGE.flat_map(inside), generated):
        assert internals.runs_python(dataset)
    assert not internals.runs_python(RANGE.map(double))
    assert not internals.makes_generator(RANGE.map(python))


def test_random_numbers_are_found():
    assert internals.draws_random_numbers(RANGE.map(lambda i: tf.random.uniform([])))
    assert internals.draws_random_numbers(RANGE.map(lambda i: tf.random.stateless_uniform([], [1, 2])))
    assert not internals.draws_random_numbers(RANGE.map(double))


def test_a_map_can_be_applied_to_another_data_set():
    pairs = tf.data.Dataset.range(3).map(lambda i: (i, {"a": i}))
    mapped = pairs.map(lambda i, d: (d["a"] + i, i))
    again = internals.remapped(mapped)
    assert list(again(pairs.skip(1)).as_numpy_iterator()) == [(2, 1), (4, 2)]
    ragged = tf.data.Dataset.range(3).map(lambda i: tf.RaggedTensor.from_row_lengths([i], [1]))
    assert internals.remapped(ragged) is None
