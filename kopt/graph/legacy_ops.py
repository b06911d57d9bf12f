"""TensorFlow functions that Keras 2 recorded as layers (`TFOpLambda`, `SlicingOpLambda`), as `keras.ops`."""

from collections.abc import Callable
from typing import Any

from keras import ops

from kopt.core.errors import LoadError


def get_operation(name: str, layer: str) -> Callable[..., Any]:
    """Return what computes the TensorFlow function `name` (as in `tf.<name>`) on symbolic tensors.

    It takes the first argument positionally and the others by the names that TensorFlow gives them.

    Raises:
        LoadError: the function is not among those translated.
    """
    if name not in _OPERATIONS:
        raise LoadError(
            f"Layer {layer!r} calls `tf.{name}`, which is not translated to Keras 3. Translated are: "
            f"{', '.join(sorted(_OPERATIONS))}."
        )
    return _OPERATIONS[name]


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: function(x, y)


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axis=None, keepdims=False: function(x, axis=axis, keepdims=keepdims)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    b = ops.swapaxes(b, -1, -2) if transpose_b else b
    return ops.matmul(a, b)


def _getitem(x: Any, slice_spec: Any) -> Any:
    return x[tuple(_slice(item) for item in slice_spec)] if isinstance(slice_spec, list) else x[_slice(slice_spec)]


def _slice(item: Any) -> Any:
    if isinstance(item, dict):
        return slice(item["start"], item["stop"], item["step"])
    return Ellipsis if item == "Ellipsis" else item


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "__operators__.add": _binary(ops.add),
    "__operators__.getitem": _getitem,
    "abs": ops.absolute,
    "cast": lambda x, dtype: ops.cast(x, dtype),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "expand_dims": lambda x, axis: ops.expand_dims(x, axis),
    "linalg.matmul": _matmul,
    "math.abs": ops.absolute,
    "math.add": _binary(ops.add),
    "math.divide": _binary(ops.true_divide),
    "math.exp": ops.exp,
    "math.log": ops.log,
    "math.maximum": _binary(ops.maximum),
    "math.minimum": _binary(ops.minimum),
    "math.multiply": _binary(ops.multiply),
    "math.negative": ops.negative,
    "math.pow": _binary(ops.power),
    "math.reduce_max": _reduction(ops.max),
    "math.reduce_mean": _reduction(ops.mean),
    "math.reduce_min": _reduction(ops.min),
    "math.reduce_sum": _reduction(ops.sum),
    "math.sigmoid": ops.sigmoid,
    "math.sqrt": ops.sqrt,
    "math.square": ops.square,
    "math.subtract": _binary(ops.subtract),
    "math.tanh": ops.tanh,
    "math.truediv": _binary(ops.true_divide),
    "nn.relu": ops.relu,
    "nn.relu6": ops.relu6,
    "nn.sigmoid": ops.sigmoid,
    "nn.silu": ops.silu,
    "nn.softmax": lambda x, axis=-1: ops.softmax(x, axis=-1 if axis is None else axis),
    "nn.tanh": ops.tanh,
    "reshape": lambda x, shape: ops.reshape(x, shape),
    "squeeze": lambda x, axis=None: ops.squeeze(x, axis=axis),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "tile": lambda x, multiples: ops.tile(x, multiples),
    "transpose": lambda x, perm=None: ops.transpose(x, axes=perm),
}
