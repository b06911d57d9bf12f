"""How large the results of operations are, from the shapes of the traced graph."""

import re

import tensorflow as tf

from kopt.profile.timing.internals import all_graphs

# Bodies of loops and branches are inlined before they run, under the name of their caller and a number.
_INLINED = re.compile(r".*/_\d+/")


def output_sizes(graph: tf.Graph) -> dict[str, int | None]:
    """Return the bytes of the results of every operation in `graph` and its functions, by name; `None` if open."""
    sizes: dict[str, int | None] = {}
    for part in all_graphs(graph):
        for operation in part.get_operations():
            size = _size_of(operation)
            # Two functions may use one name: then only what holds for both is known.
            sizes[operation.name] = size if sizes.get(operation.name, size) == size else None
    return sizes


def _size_of(operation: tf.Operation) -> int | None:
    total = 0
    for tensor in operation.outputs:
        elements = tensor.shape.num_elements()
        if elements is None or not tensor.dtype.base_dtype.is_numpy_compatible or tensor.dtype == tf.string:
            return None
        total += elements * tensor.dtype.size
    return total


def size_of(sizes: dict[str, int | None], name: str) -> int | None:
    """Return the entry of an operation that ran in `sizes`; `None` if TensorFlow's optimizer made it."""
    return sizes[name] if name in sizes else sizes.get(_INLINED.sub("", name))
