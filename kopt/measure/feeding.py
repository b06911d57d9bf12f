"""From what callers hold to what a runtime takes: names, shapes, types and quantization at the edges."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from kopt.core.errors import DataError, nearest
from kopt.core.records.artifacts import TensorInfo

Arrays: TypeAlias = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


def quantize(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Return `clip(round(values / scale) + zero_point)` in the type of `info`, halves rounded to even."""
    limits = np.iinfo(np.dtype(info.dtype))
    steps = np.rint(np.asarray(values, np.float32) / np.float32(info.scale)) + np.float32(info.zero_point or 0)
    return np.clip(steps, limits.min, limits.max).astype(info.dtype)


def dequantize(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Return `(values - zero_point) * scale` as float32; tensors that are not quantized come back as they are."""
    if info.scale is None:
        return values
    return (values.astype(np.float32) - np.float32(info.zero_point or 0)) * np.float32(info.scale)


def match(inputs: tuple[TensorInfo, ...], arrays: Arrays) -> dict[str, np.ndarray]:
    """Assign `arrays` to `inputs` and check every dimension but the number of examples. Copies nothing.

    Args:
        inputs: signature of the model or file.
        arrays: one array, a sequence by position or a mapping by name.

    Returns:
        The arrays by input name, in the order of `inputs`.

    Raises:
        DataError: names, rank, dimensions or numbers of examples do not fit.
    """
    named = _named(inputs, arrays)
    for info in inputs:
        _check_shape(info, named[info.name])
    sizes = {info.name: len(named[info.name]) for info in inputs if info.shape}
    if len(set(sizes.values())) > 1:
        raise DataError(f"All inputs need the same number of examples. Received: {sizes}.")
    if 0 in sizes.values():
        raise DataError(f"There is no example in the data: shapes {_shapes(named)}. Pass at least one.")
    return named


def examples(inputs: tuple[TensorInfo, ...], named: Mapping[str, np.ndarray]) -> int:
    """Return the number of examples in arrays that passed `match`; 1 where no input has a batch axis."""
    return next((len(named[info.name]) for info in inputs if info.shape), 1)


def rows(
    inputs: tuple[TensorInfo, ...], named: Mapping[str, np.ndarray], start: int, stop: int
) -> dict[str, np.ndarray]:
    """Return the examples `start` to `stop`; scalars, which have no examples, go along whole."""
    return {info.name: named[info.name][start:stop] if info.shape else named[info.name] for info in inputs}


def convert(info: TensorInfo, array: np.ndarray) -> np.ndarray:
    """Return `array` in the type that `info` needs, C-contiguous.

    An array of the file's own integer type is taken as already quantized; every other number is a real value and is
    quantized where the file wants that. Casts keep values; float64 is rounded to float32, but never to infinity.

    Raises:
        DataError: the cast would change values.
    """
    target = _numpy(info.dtype)
    if array.dtype == target:
        return np.ascontiguousarray(array).reshape(array.shape)
    if target.kind == "O" and array.dtype.kind in "OSU":
        return array.astype(object)
    if info.scale is not None and array.dtype.kind in "fiub":
        if not np.isfinite(array).all():
            raise DataError(f"Input {info.name!r} is quantized to {info.dtype}, which has no NaN and no infinity.")
        return quantize(array, info)
    return _cast(info, array, target)


def _numpy(dtype: str) -> np.dtype[Any]:
    """Return the type of arrays; TensorFlow's text has no name there."""
    return np.dtype("object" if dtype == "string" else dtype)


def describe(info: TensorInfo) -> str:
    """Return e.g. `"float32 (None, 28, 28, 1)"`."""
    return f"{info.dtype} {info.shape}"


def _cast(info: TensorInfo, array: np.ndarray, target: np.dtype[Any]) -> np.ndarray:
    kinds = array.dtype.kind, target.kind
    if array.dtype.kind in "biuf" and target.kind in "biuf" and kinds not in {("f", "i"), ("f", "u"), ("f", "b")}:
        with np.errstate(over="ignore"):
            cast = array.astype(target, order="C")
        if np.can_cast(array.dtype, target, "safe"):
            return cast
        same = np.isfinite(cast) == np.isfinite(array) if kinds == ("f", "f") else cast == array
        if same.all():
            return cast
        reason = f"{array[~same].flat[0]!r} cannot be held in {target.name}"
    else:
        reason = f"{array.dtype} is not turned into {target.name} without being told to"
    raise DataError(
        f"Input {info.name!r} received {array.dtype} {array.shape}; it needs {describe(info)}: {reason}. "
        f"Convert it yourself where that is meant, e.g. `x.astype({target.name!r})`."
    )


def _named(inputs: tuple[TensorInfo, ...], arrays: Arrays) -> dict[str, np.ndarray]:
    names = [info.name for info in inputs]
    if isinstance(arrays, Mapping):
        for key in arrays:
            if key not in names:
                raise DataError(f"There is no input {key!r}.{nearest(key, names)} Inputs: {_signature(inputs)}.")
        missing = [name for name in names if name not in arrays]
        if missing:
            raise DataError(f"The data lacks the input(s) {', '.join(missing)}. Inputs: {_signature(inputs)}.")
        return {name: np.asarray(arrays[name]) for name in names}
    several = isinstance(arrays, (list, tuple)) and len(arrays) > 0 and all(hasattr(a, "shape") for a in arrays)
    sequence = list(arrays) if several else [arrays]
    if len(sequence) != len(inputs):
        raise DataError(
            f"Received {len(sequence)} array(s) for {len(inputs)} input(s): {_signature(inputs)}. Pass one array an "
            "input, by position or in a dict by name; examples of one input go into one array (`np.stack(examples)`)."
        )
    return {name: np.asarray(array) for name, array in zip(names, sequence, strict=True)}


def _check_shape(info: TensorInfo, array: np.ndarray) -> None:
    wanted = info.shape
    if len(wanted) == array.ndim and all(a in (None, b) for a, b in list(zip(wanted, array.shape, strict=True))[1:]):
        return
    hint = "Reshape or resize the data to fit."
    if array.ndim == len(wanted) - 1:
        one_example = all(a in (None, b) for a, b in zip(wanted[1:], array.shape, strict=True))
        hint = (
            "Add the batch axis: `x[None]`, or `dataset.batch(32)` for a data set."
            if one_example
            else "Add the missing axis, e.g. `x[..., None]` for one channel."
        )
    raise DataError(
        f"Input {info.name!r} received {array.dtype} of shape {array.shape}; it needs {describe(info)}. {hint}"
    )


def _signature(inputs: tuple[TensorInfo, ...]) -> str:
    return ", ".join(f"{info.name!r} {describe(info)}" for info in inputs)


def _shapes(named: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name}: {array.shape}" for name, array in named.items())


def random_inputs(
    inputs: tuple[TensorInfo, ...], count: int, seed: int, *, name: str = "data"
) -> dict[str, np.ndarray]:
    """Return `count` seeded random examples: reals in [0, 1), integers 0 and 1 (valid in any vocabulary), booleans.

    Args:
        inputs: what is made up.
        count: of examples.
        seed: of the numbers.
        name: of the argument by which a caller could have given real ones, for the message.

    Raises:
        DataError: an input takes strings, or has an open dimension besides the batch, whose size only data can say.

    Example:
        >>> inputs, outputs = kopt.graph.signature(model)
        >>> kopt.measure.random_inputs(inputs, count=4, seed=0)["image"].shape
        (4, 8, 8, 1)
    """
    generator = np.random.default_rng(seed)
    return {info.name: _random_input(info, count, generator, name) for info in inputs}


def take(inputs: tuple[TensorInfo, ...], named: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Return the first `count` examples, beginning anew where there are fewer."""
    order = np.arange(count) % examples(inputs, named)
    return {info.name: named[info.name][order] if info.shape else named[info.name] for info in inputs}


def _random_input(info: TensorInfo, count: int, generator: np.random.Generator, name: str) -> np.ndarray:
    kind = _numpy(info.dtype).kind
    if None in info.shape[1:] or kind not in "fiub":
        raise DataError(
            f"No input can be made up for {info.name!r}, {describe(info)}. Pass `{name}` with real examples."
        )
    shape = (count, *(size for size in info.shape[1:] if size is not None)) if info.shape else ()
    if kind == "f" or info.scale is not None:
        values = generator.random(shape, dtype=np.float32)
        return values if info.scale is not None else values.astype(info.dtype, copy=False)
    return generator.integers(0, 2, shape).astype(info.dtype)
