"""The values of a variable as a NumPy array, without a copy where they lie in this process' memory."""

from typing import Any

import numpy as np
import tensorflow as tf


def values_of(variable: Any) -> np.ndarray:
    """Return the values of a `keras.Variable` as a read-only array.

    On a CPU the array is the variable's own memory. TensorFlow gives the variable other memory when it is written
    while the array is there, so that the array keeps the values of the moment of the call. From an accelerator, and
    from a variable that is spread over replicas, one variable at a time is copied.

    Args:
        variable: built, of any dtype; `bfloat16` and `float8` come as the dtypes of `ml_dtypes`.
    """
    # Not `np.asarray(variable.value)`, which asks the TensorFlow variable for `.numpy()`, a copy.
    values = np.asarray(tf.convert_to_tensor(variable.value)).view()
    values.flags.writeable = False
    return values
