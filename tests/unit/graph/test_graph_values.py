"""Values are read where they lie: no copy, and no way to write into the variable."""

import keras
import numpy as np
import pytest

from kopt.graph.values import values_of


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "bool"])
def test_two_reads_share_the_memory_of_the_variable(dtype):
    variable = keras.Variable(np.ones((3, 4)), dtype=dtype)
    first, second = values_of(variable), values_of(variable)
    assert first.dtype.name == dtype
    assert first.ctypes.data == second.ctypes.data


def test_what_was_read_stays_when_the_variable_is_written():
    variable = keras.Variable(np.ones((3, 4), "float32"))
    values = values_of(variable)
    variable.assign(np.zeros((3, 4), "float32"))
    assert values.min() == 1
    assert values_of(variable).max() == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_array_cannot_be_written(dtype):
    with pytest.raises(ValueError, match="read-only"):
        values_of(keras.Variable(np.ones(3), dtype=dtype))[0] = 2
