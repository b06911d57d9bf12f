"""Arrays against the signature of a model: named, cast, and refused with the reason and the fix."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kopt.core.errors import DataError, NonFiniteError, nearest
from kopt.core.records.artifacts import TensorInfo
from kopt.data.splits import Array, Split

TEXT = ("string", "object", "str")
_CHUNK_BYTES = 16 << 20

# How far from 1 the sum of a row of probabilities may be.
_SUM_TOLERANCE = 1e-3
_OTHER_METRICS = 'for a regression judge by `metric="r2_score"`, for several labels an example by "binary_accuracy"'


def check(
    data: Any,
    inputs: tuple[TensorInfo, ...],
    *,
    num_classes: int | None = None,
    name: str = "data",
) -> dict[str, Array]:
    """Make sure that data fits a model before any long work starts.

    Args:
        data: `Split` (labels are checked too), or inputs alone: one array for a model with one input, a dict by input
            name or a sequence by position for several.
        inputs: what the model accepts; the first dimension of each shape is the batch and is not compared.
        num_classes: labels must lie in `[0, num_classes)`, or have rows of that length; `None` for other targets.
        name: how error messages call the data.

    Returns:
        Arrays by input name in the types the model needs, copied only where the type changes.

    Raises:
        DataError: wrong names, number, shapes or types, no examples, different lengths, or labels out of range.
        NonFiniteError: NaN or infinity, with their number and the first position.

    Example:
        >>> inputs, outputs = kopt.graph.signature(model)
        >>> kopt.data.check(x_val[..., 0], inputs)
        Traceback (most recent call last):
            ...
        kopt.core.errors.DataError: data has float32 arrays of shape (269, 8, 8); the model input 'image' needs ...
    """
    arrays = as_model_inputs(data.x if isinstance(data, Split) else data, inputs, name=name)
    if isinstance(data, Split):
        length = len(next(iter(arrays.values())))
        if isinstance(data.y, (Mapping, list, tuple)) and num_classes is None:
            for key, one in data.y.items() if isinstance(data.y, Mapping) else enumerate(data.y):
                _check_labels(one, length, None, f"{name} labels {key!r}")
        else:
            _check_labels(data.y, length, num_classes, f"{name} labels")
    return arrays


def as_model_inputs(
    x: Any, inputs: tuple[TensorInfo, ...], *, name: str = "data", rows: Array | None = None
) -> dict[str, Array]:
    """Return `x` as arrays by input name in the types the model needs.

    Floats of any width and whole numbers become the input's float type; whole numbers become the input's integer type
    when their values fit. Nothing is copied when the type is right already. See `check` for what it raises.

    Args:
        x: arrays, see `check`.
        inputs: of the model.
        name: how error messages call the data.
        rows: of a choice of examples, the number of each in what they were chosen from, for error messages; empty where
            that is not known.
    """
    arrays = {info.name: _fit(array, info, name) for info, array in _by_position(x, inputs, name)}
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{name} has different numbers of examples by input: {lengths}. Pass the same rows for each.")
    if 0 in lengths.values():
        raise DataError(f"{name} is empty: there must be at least one example.")
    for key, array in arrays.items():
        _check_finite(array, f"{name}, input {key!r},", rows)
    return arrays


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Tell whether `shape` has the rank of `wanted` and its dimensions wherever they are fixed."""
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted, strict=True))


def reshaping_hint(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> str:
    """Return the expression that turns examples of `shape` into `wanted` (both with the batch axis), in a sentence."""
    size, target = shape[1:], wanted[1:]
    if fits((*size, 1), target):
        return "Add a channel axis: `x[..., None]`."
    if fits(shape, target):
        return "Add a batch axis: `x[None]`."
    if len(size) >= 2 and fits((*size[1:], size[0]), target):
        return f"Move the channels last: `np.moveaxis(x, 1, {len(size)})`."
    if size and target and target[-1] is not None and fits((*size[:-1], target[-1]), target):
        if size[-1] == 1:
            return f"Repeat the channel: `np.repeat(x, {target[-1]}, axis=-1)`."
        return f"The last axis must have {target[-1]} entries, it has {size[-1]}."
    if size and size[-1:] == (1,) and fits(size[:-1], target):
        return "Drop the last axis: `x[..., 0]`."
    if None not in target and size and np.prod(size) == np.prod([d for d in target if d is not None]):
        return f"Reshape it: `x.reshape(-1, {', '.join(map(str, target))})`."
    if len(size) == len(target) == 3 and size[-1] == target[-1]:
        return f"Resize the images: `tf.image.resize(x, {target[:2]})`."
    return f"Each example must have shape {target}."


def _by_position(x: Any, inputs: tuple[TensorInfo, ...], name: str) -> list[tuple[TensorInfo, Array]]:
    names = [info.name for info in inputs]
    if isinstance(x, Mapping):
        for key in x:
            if key not in names:
                raise DataError(f"{name} has no use for {key!r}.{nearest(key, names)} Model inputs: {names}.")
        missing = [key for key in names if key not in x]
        if missing:
            raise DataError(f"{name} lacks the model input(s) {missing}. Received: {list(x)}; needed: {names}.")
        values = [x[key] for key in names]
    elif isinstance(x, (list, tuple)):
        values = list(x)
    else:
        values = [x]
    if len(values) != len(inputs):
        how = "a dict by name or a list in this order" if len(inputs) > 1 else "one array; labels go in `Split(x, y)`"
        raise DataError(f"{name} has {len(values)} array(s), the model has {len(inputs)} input(s) {names}. Pass {how}.")
    return [(info, _as_array(value, name)) for info, value in zip(inputs, values, strict=True)]


def _as_array(value: Any, name: str) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name} cannot become one array ({error}). Give all examples the same shape.") from error


def _fit(array: Array, info: TensorInfo, name: str) -> Array:
    """Return `array` in the type of `info`, or raise if its shape or type does not fit."""
    if info.dtype in TEXT:
        if array.dtype.kind not in "OSU":
            raise DataError(_mismatch(array, info, name, "Pass text."))
    elif array.dtype.kind in "OSU":
        raise DataError(_mismatch(array, info, name, "Convert it to numbers, e.g. `x.astype('float32')`."))
    if not fits(array.shape[1:], info.shape[1:]) or array.ndim != len(info.shape):
        raise DataError(_mismatch(array, info, name, reshaping_hint(array.shape, info.shape)))
    return _text(array, name) if info.dtype in TEXT else _cast(array, info, name)


def _text(array: Array, name: str) -> Array:
    """Return text as an array that holds it, where it holds Python objects, which have no content of their own.

    Raises:
        DataError: an object is no text.
    """
    if array.dtype.kind != "O":
        return array
    strange = next((one for one in array.flat if not isinstance(one, (str, bytes))), None)
    if strange is not None:
        raise DataError(f"{name} has objects that are no text. Received: {strange!r} ({type(strange).__name__}).")
    encoded = [one.encode() if isinstance(one, str) else one for one in array.flat]
    return np.array(encoded, np.bytes_).reshape(array.shape)


def _cast(array: Array, info: TensorInfo, name: str) -> Array:
    wanted = np.dtype(info.dtype)
    if info.scale is not None and array.dtype.kind == "f":
        wanted = np.dtype("float32")  # Real values for a quantized input: the runner quantizes them.
    if array.dtype == wanted:
        return array
    if wanted.kind in "iu":
        if array.dtype.kind not in "biu":
            raise DataError(_mismatch(array, info, name, f"Convert it, e.g. `x.astype({wanted.name!r})`."))
        limits = np.iinfo(wanted)
        if (
            array.size
            and not np.can_cast(array.dtype, wanted)
            and (array.min() < limits.min or array.max() > limits.max)
        ):
            span = f"[{limits.min}, {limits.max}]"
            raise DataError(
                _mismatch(array, info, name, f"Values must lie in {span}; these lie in [{array.min()}, {array.max()}].")
            )
    elif array.dtype.kind not in "biuf" or wanted.kind == "b":
        raise DataError(_mismatch(array, info, name, f"Convert it, e.g. `x.astype({wanted.name!r})`."))
    with np.errstate(over="ignore"):  # What overflows becomes infinite and is reported as such.
        return array.astype(wanted)


def _mismatch(array: Array, info: TensorInfo, name: str, fix: str) -> str:
    return (
        f"{name} has {array.dtype.name} arrays of shape {array.shape}; the model input {info.name!r} needs "
        f"{info.dtype} {info.shape}. {fix}"
    )


def _check_finite(array: Array, name: str, rows: Array | None = None) -> None:
    if array.dtype.kind != "f" or array.size == 0:
        return
    step = max(1, _CHUNK_BYTES // (array[0].nbytes or 1))
    count, first = 0, None
    for start in range(0, len(array), step):
        bad = ~np.isfinite(array[start : start + step])
        if bad.any():
            if first is None:
                position = np.argwhere(bad)[0]
                first = (start + int(position[0]), *map(int, position[1:]))
            count += int(bad.sum())
    if first is not None:
        raise NonFiniteError(
            f"{name} has {count} value(s) that are NaN or infinite in {array.dtype.name}, {_place(first, rows)}. "
            f"Remove those examples or replace the values, e.g. `np.nan_to_num(x)`."
        )


def _place(first: tuple[int, ...], rows: Array | None) -> str:
    if rows is None:
        return f"the first at index {first}"
    if not len(rows):
        return f"the first at index {first} of the sample"
    return f"the first in the sample at index {(int(rows[first[0]]), *first[1:])} of the arrays that were given"


def _check_labels(y: Any, length: int, num_classes: int | None, name: str) -> None:
    y = _as_array(y, name)
    if y.dtype.kind not in "biuf":
        raise DataError(
            f"{name} are {y.dtype.name}; numbers are needed. Number the classes, e.g. "
            f"`names, y = np.unique(y, return_inverse=True)`."
        )
    if y.ndim == 0 or len(y) != length:
        raise DataError(f"{name} have shape {y.shape}, but there are {length} examples. Pass one label an example.")
    _check_finite(y, name)
    if num_classes is None:
        return
    if y.ndim > 1 and y.shape[-1] == num_classes > 1 and y.dtype.kind == "f":
        _check_rows(y, num_classes, name)
        return
    if y.dtype.kind == "f" and (y.size != length or np.any(y != np.floor(y))):
        raise DataError(
            f"{name} are {y.dtype.name} of shape {y.shape}; {num_classes} classes need whole numbers of shape "
            f"({length},) or rows of {num_classes}. Convert them, e.g. `y.astype('int64')`; {_OTHER_METRICS}."
        )
    outside = (y < 0) | (y >= num_classes)
    if outside.any():
        raise DataError(
            f"{name} must lie in [0, {num_classes}). {int(outside.sum())} do not, the first at index "
            f"{tuple(map(int, np.argwhere(outside)[0]))}; all lie in [{y.min()}, {y.max()}]. Number the classes from "
            f"0, or use a model with more outputs."
        )


def _check_rows(y: Array, num_classes: int, name: str) -> None:
    """Refuse rows that are no probabilities of classes, of which the largest would be taken for the class."""
    sums = y.sum(axis=-1, dtype=np.float64)
    wrong = (np.abs(sums - 1.0) > _SUM_TOLERANCE) | (y < 0).any(axis=-1)
    if wrong.any():
        first = tuple(map(int, np.argwhere(wrong)[0]))
        raise DataError(
            f"{name} are rows of {num_classes} numbers, and {int(wrong.sum())} of {wrong.size} rows are no "
            f"probabilities of classes: that at index {first} is {y[first].tolist()}. Give class numbers or one-hot "
            f"rows; {_OTHER_METRICS}."
        )
