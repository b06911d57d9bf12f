"""The parts of `tf.data` 2.21 that the public API does not give; with `graph.internals` the only file that uses them.

`tests/unit/data/test_data_internals.py` fails when a TensorFlow release changes one of them.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_PYTHON_OPS = frozenset(("PyFunc", "PyFuncStateless", "EagerPyFunc"))
_NAMES = {
    "ParallelMap": "map",
    "Map": "map",
    "ParallelBatch": "batch",
    "ParallelInterleave": "interleave",
    "PaddedBatch": "padded_batch",
    "FlatMap": "flat_map",
    "AssertCardinality": "assert_cardinality",
    "TFRecord": "TFRecord",
    "TensorSlice": "from_tensor_slices",
    "Tensor": "from_tensors",
    "Generator": "from_generator",
}
_PARALLEL = ("ParallelMap", "ParallelBatch", "ParallelInterleave")


def inputs_of(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Return the data sets that `dataset` transforms, none for a source."""
    return list(dataset._inputs())


def all_stages(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Return `dataset` and everything that it transforms, the last transformation first."""
    found, pending = [], [dataset]
    while pending:
        found.append(node := pending.pop(0))
        pending.extend(inputs_of(node))
    return found


def kind_of(dataset: tf.data.Dataset) -> str:
    """Return what the last transformation of `dataset` is, as `tf.data` spells it: `"map"`, `"batch"`, ..."""
    bare = _bare(dataset)
    return _NAMES.get(bare, bare.lower())


def is_parallel(dataset: tf.data.Dataset) -> bool:
    """Return whether the last transformation was given `num_parallel_calls`."""
    return _bare(dataset) in _PARALLEL


def name_of(dataset: tf.data.Dataset) -> str | None:
    """Return the `name=` that the last transformation was given."""
    name: str | None = getattr(dataset, "_name", None)
    return name


def function_of(dataset: tf.data.Dataset) -> Any:
    """Return the traced function (of flat tensors) of the last transformation, or `None` if it has none."""
    for attribute in ("_map_func", "_predicate", "_next_func", "_scan_func"):
        if (wrapped := getattr(dataset, attribute, None)) is not None:
            return wrapped.function
    return None


def function_name(dataset: tf.data.Dataset) -> str:
    """Return how the user's program calls the function of the last transformation, or `""`."""
    function = getattr(getattr(dataset, "_map_func", None), "_func", None)
    name = getattr(function, "__name__", "")
    return "" if name == "<lambda>" or name.startswith("_") else name


def setting_of(dataset: tf.data.Dataset) -> int | None:
    """Return the number that a batch, shuffle or prefetch was given; -1 for AUTOTUNE, `None` for other kinds."""
    for attribute in ("_batch_size", "_buffer_size"):
        if (value := getattr(dataset, attribute, None)) is not None:
            constant = tf.get_static_value(value)
            return None if constant is None else int(constant)
    return None


def drops_remainder(dataset: tf.data.Dataset) -> bool:
    """Return whether a batch leaves out a last group that is not full."""
    return bool(tf.get_static_value(dataset._drop_remainder))


def cache_file_of(dataset: tf.data.Dataset) -> str:
    """Return the file name of a cache, `""` for one in memory."""
    return bytes(tf.get_static_value(dataset._filename)).decode()


def runs_python(dataset: tf.data.Dataset) -> bool:
    """Return whether the function of the last transformation calls back into Python."""
    return not _PYTHON_OPS.isdisjoint(_operations(dataset))


def remapped(dataset: tf.data.Dataset) -> Callable[[tf.data.Dataset], tf.data.Dataset] | None:
    """Return what applies the function of the map that ends `dataset` to another data set of the same elements.

    `None` if elements are not plain tensors, or the map does not make one element from one.
    """
    [source] = inputs_of(dataset)
    specs = tf.nest.flatten((source.element_spec, dataset.element_spec))
    if not getattr(dataset, "_preserve_cardinality", True) or not all(isinstance(s, tf.TensorSpec) for s in specs):
        return None
    function, spec = dataset._map_func.function, dataset.element_spec

    def call(*element: Any) -> Any:
        return tf.nest.pack_sequence_as(spec, list(function(*tf.nest.flatten(element))))

    return lambda other: other.map(call, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def makes_generator(dataset: tf.data.Dataset) -> bool:
    """Return whether the last transformation is what `from_generator` makes."""
    return "GeneratorDataset" in _operations(dataset)


def draws_random_numbers(dataset: tf.data.Dataset) -> bool:
    """Return whether the function of the last transformation uses random operations."""
    return any("Random" in name or "Multinomial" in name for name in _operations(dataset))


def _operations(dataset: tf.data.Dataset) -> set[str]:
    function = function_of(dataset)
    if function is None:
        return set()
    graph = function.graph.as_graph_def()
    return {node.op for node in (*graph.node, *(n for inner in graph.library.function for n in inner.node_def))}


def _bare(dataset: tf.data.Dataset) -> str:
    name = type(dataset).__name__
    return name.removeprefix("_").removesuffix("V2").removesuffix("Dataset")
