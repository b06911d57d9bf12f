import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import DataError
from kopt.data import collect


def test_every_example_in_order_with_the_uneven_last_batch():
    x = {"a": np.arange(10.0), "b": np.arange(20.0).reshape(10, 2)}
    split = collect(tf.data.Dataset.from_tensor_slices((x, np.arange(10))).batch(4))
    np.testing.assert_array_equal(split.x["a"], x["a"])
    np.testing.assert_array_equal(split.x["b"], x["b"])
    np.testing.assert_array_equal(split.y, np.arange(10))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([1, 2], "Received: builtins.list"),
        (tf.data.Dataset.range(4).batch(2), "must yield pairs"),
        (tf.data.Dataset.from_tensors((1, 2)).repeat(), "is infinite"),
        (tf.data.Dataset.from_tensors((1, 2)).take(0), "is empty"),
    ],
)
def test_what_cannot_be_read_whole_is_refused(dataset, message):
    with pytest.raises(DataError, match=message):
        collect(dataset)
