"""TF Serving's JSON to arrays and back. Pure.

Forms, limits and the words of errors are those of TF Serving, so that a client meets no difference. Source: "RESTful
API" of TF Serving and tensorflow_serving/util/json_tensor.cc.
"""

import base64
import binascii
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kopt.core.errors import RequestError
from kopt.core.records.artifacts import TensorInfo

Arrays = dict[str, np.ndarray]
_WORDS = {"float32": "float", "float64": "double", "float16": "half", "object": "string"}
_KINDS = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}
_SHOWN = 100


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object in the body of a request; `NaN` and infinities are numbers.

    Raises:
        RequestError: no JSON, or no object.
    """
    if not body:
        raise RequestError("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except RecursionError:
        raise RequestError("JSON Parse error: The document is nested too deeply") from None
    except ValueError as error:  # also text that is no UTF-8, and integers of thousands of digits
        raise RequestError(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise RequestError(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any], default: str) -> str:
    """Return the signature that a request asks for.

    Raises:
        RequestError: the name is no text.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise RequestError(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or default


def is_row_format(document: Mapping[str, Any]) -> bool:
    """Return whether a predict request holds rows (`instances`), not columns (`inputs`).

    Raises:
        RequestError: it holds both, or neither.
    """
    keys = [key for key in ("instances", "inputs") if key in document]
    if len(keys) > 1:
        raise RequestError(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if not keys:
        raise RequestError("Missing 'inputs' or 'instances' key")
    return keys[0] == "instances"


def read_rows(instances: Any, inputs: tuple[TensorInfo, ...]) -> Arrays:
    """Return the inputs of a request in row format, by name, the examples on the first axis.

    Raises:
        RequestError: a form, name, shape or type that does not fit.
    """
    if not isinstance(instances, list):
        raise RequestError(f"JSON Value: {_shown(instances)} Excepting 'instances' to be an list/array")
    if not instances:
        raise RequestError("JSON Value: [] No values in 'instances' array")
    named = _is_named(instances[0])
    if not named and len(inputs) > 1:
        raise RequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    for item, element in enumerate(instances):
        if named != _is_named(element):
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise RequestError(f"Expecting {expected} but got {got} at item {item} of input list")
    if not named:
        return {inputs[0].name: _stacked(instances, inputs[0], key=False)}
    names = {info.name for info in inputs}
    for item, element in enumerate(instances):
        for key in element:
            if key not in names:
                raise RequestError(
                    f"Failed to process element: {item} key: {key} of 'instances' list. Error: INVALID_ARGUMENT: "
                    f"JSON object: does not have named input: {key}"
                )
        if set(element) != names:
            raise RequestError(
                f"Failed to process element: {item} of 'instances' list. JSON object: {_shown(element)} keys must be "
                f"equal to: {','.join(sorted(names))}"
            )
    return {info.name: _stacked([element[info.name] for element in instances], info, key=True) for info in inputs}


def read_columns(value: Any, inputs: tuple[TensorInfo, ...]) -> Arrays:
    """Return the inputs of a request in columnar format, by name.

    Raises:
        RequestError: a form, name or type that does not fit.
    """
    if not _is_named(value):
        if len(inputs) > 1:
            raise RequestError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        return {inputs[0].name: read_tensor(value, inputs[0])}
    for info in inputs:
        if info.name not in value:
            raise RequestError(f"Missing named input: {info.name} in 'inputs' object.")
    return {info.name: read_tensor(value[info.name], info) for info in inputs}


def read_tensor(value: Any, info: TensorInfo) -> np.ndarray:
    """Return nested lists as an array in the type of `info`; real numbers where the file is quantized.

    Raises:
        RequestError: ragged lists, or values of another type.
    """
    shape, leaves = _flat(value)
    return _typed(leaves, info).reshape(shape)


def write_rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Return the answer to a request in row format.

    Raises:
        RequestError: an output that has no row for every example.
    """
    sizes = {name: len(array) if array.ndim else None for name, array in outputs.items()}
    expected = next(iter(sizes.values()))
    for name, size in sizes.items():
        if size is None or size != expected:
            raise RequestError(f"Tensor name: {name} has inconsistent batch size: {size} expecting: {expected}")
    columns = {name: _values(name, array) for name, array in outputs.items()}
    if len(columns) == 1:
        return _encoded({"predictions": next(iter(columns.values()))})
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return _encoded({"predictions": rows})


def write_columns(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Return the answer to a request in columnar format."""
    columns = {name: _values(name, array) for name, array in outputs.items()}
    return _encoded({"outputs": next(iter(columns.values())) if len(columns) == 1 else columns})


def write_results(results: Sequence[Any]) -> bytes:
    """Return the answer of the Classify and Regress APIs."""
    return _encoded({"results": results})


def json_numbers(array: np.ndarray) -> Any:
    """Return nested lists with the shortest decimal of each number, as TF Serving writes it: 0.2, not 0.20000000298."""
    return (_shortest(array) if array.dtype.kind == "f" and array.dtype.itemsize < 8 else array).tolist()


def decode_base64(value: Any) -> bytes:
    """Return the bytes in `{"b64": "..."}`.

    Raises:
        RequestError: another form, or no base64.
    """
    if not _is_base64(value):
        raise RequestError(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("Unable to base64 decode") from None


def text_bytes(value: str) -> bytes:
    """Return text as UTF-8.

    Raises:
        RequestError: half of a surrogate pair, which has no UTF-8.
    """
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"JSON Value: {_shown(value)} is no text: {error.reason}") from None


def is_base64_or_plain(value: Any) -> bool:
    """Return whether `value` is one value: no list, and no object but that of base64 data."""
    return not isinstance(value, list) and not _is_named(value)


def json_kind(value: Any) -> str:
    """Return the JSON type of a value as TF Serving calls it."""
    return str(value) if isinstance(value, bool) else _KINDS[type(value)]


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _stacked(elements: list[Any], info: TensorInfo, *, key: bool) -> np.ndarray:
    try:
        return read_tensor(elements, info)
    except RequestError:
        # All at once is fast; which element it was is looked for only when one is wrong.
        shape: tuple[int, ...] | None = None
        where = f" key: {info.name}" if key else ""
        for item, element in enumerate(elements):
            begin = f"Failed to process element: {item}{where} of 'instances' list. Error: INVALID_ARGUMENT: "
            try:
                found = read_tensor(element, info).shape
            except RequestError as error:
                raise RequestError(begin + str(error)) from None
            if shape is not None and found != shape:
                raise RequestError(f"{begin}Expecting shape {_shape(shape)} but got: {_shape(found)}") from None
            shape = found
        raise


def _flat(value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of nested lists, as their first elements say it, and the values in them in order."""
    shape: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        size = len(level[0])
        for item in level:
            if not isinstance(item, list):
                raise RequestError(
                    f"JSON Value: {_shown(item)} found at incorrect level: {len(shape) + 1} in the JSON DOM. Expected "
                    f"at level: {len(shape) + 1 + _depth(level[0])}"
                )
            if len(item) != size:
                raise RequestError(
                    f"Encountered list at unexpected size: {len(item)} at level: {len(shape)} expected size: {size}"
                )
        shape.append(size)
        level = list(itertools.chain.from_iterable(level))
    if any(isinstance(item, list) for item in level):
        raise RequestError(f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    return tuple(shape), level


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        depth, value = depth + 1, value[0]
    return depth


def _typed(leaves: list[Any], info: TensorInfo) -> np.ndarray:
    dtype = np.dtype(np.float32 if info.scale is not None else info.dtype)
    if dtype.kind == "O":
        return _strings(leaves)
    accepted: tuple[type, ...] = {"f": (int, float), "b": (bool,)}.get(dtype.kind, (int,))
    if not set(map(type, leaves)) <= set(accepted):
        wrong = next(leaf for leaf in leaves if type(leaf) not in accepted)
        raise _type_error(wrong, dtype)
    return _reals(leaves, dtype) if dtype.kind == "f" else _integers(leaves, dtype)


def _strings(leaves: list[Any]) -> np.ndarray:
    array = np.empty(len(leaves), object)
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, str):
            array[index] = text_bytes(leaf)
        elif isinstance(leaf, dict):
            array[index] = decode_base64(leaf)
        else:
            raise _type_error(leaf, array.dtype)
    return array


def _reals(leaves: list[Any], dtype: np.dtype[Any]) -> np.ndarray:
    # Integers that the type cannot tell apart are refused, as in TF Serving.
    most = 2 ** (np.finfo(dtype).nmant + 1) - 1
    lossy = [leaf for leaf in leaves if type(leaf) is int and abs(leaf) > most] if int in set(map(type, leaves)) else []
    if not lossy:
        wide = np.array(leaves, np.float64)
        with np.errstate(over="ignore"):
            array: np.ndarray = wide.astype(dtype)
        lossy = [leaves[index] for index in np.flatnonzero(np.isinf(array) & np.isfinite(wide))[:1]]
    if lossy:
        word = _WORDS.get(dtype.name, dtype.name)
        raise RequestError(f"Cannot convert JSON value: {_shown(lossy[0])} to {word} without loss of precision.")
    return array


def _integers(leaves: list[Any], dtype: np.dtype[Any]) -> np.ndarray:
    try:
        return np.array(leaves, dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        raise _type_error(next(leaf for leaf in leaves if not limits.min <= leaf <= limits.max), dtype) from None


def _type_error(value: Any, dtype: np.dtype[Any]) -> RequestError:
    return RequestError(
        f"JSON Value: {_shown(value)} Type: {json_kind(value)} is not of expected type: "
        f"{_WORDS.get(dtype.name, dtype.name)}"
    )


def _shortest(array: np.ndarray) -> np.ndarray:
    """Return as float64 the decimals of 6 to 9 digits that read back as the same float32, the fewest that do.

    An integer below 2**53 over a power of ten up to 10**22 is the double nearest to that decimal, so its text is that
    of the decimal. Forty times as fast as NumPy's own text of a float32, which stands in for very large and small ones.
    """
    exact = array.astype(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = exact.astype(np.float64)
    magnitude = np.abs(wide)
    plain = (magnitude >= 1e-12) & (magnitude < 1e5)
    result = np.where(plain | (wide == 0), wide, 0.0)
    places = 5 - np.floor(np.log10(np.where(plain, magnitude, 1.0)))
    open_ = plain
    for _ in range(4):
        powers = 10.0**places
        rounded = np.rint(wide * powers) / powers
        same = open_ & (rounded.astype(np.float32) == exact)
        result = np.where(same, rounded, result)
        open_ = open_ & ~same
        places = places + 1
    rest = open_ | ~(plain | (wide == 0))
    if rest.any():
        result[rest] = exact[rest].astype("U32").astype(np.float64)
    return result


def _values(name: str, array: np.ndarray) -> Any:
    if array.dtype.kind not in "OSU":
        return json_numbers(array)
    return _texts(name, array.tolist())


def _texts(name: str, content: Any) -> Any:
    if isinstance(content, list):
        return [_texts(name, part) for part in content]
    if isinstance(content, str):
        return content
    try:
        if not name.endswith("_bytes"):
            return content.decode()
    except UnicodeDecodeError:
        pass  # binary after all; JSON has no other place for it
    return {"b64": base64.b64encode(content).decode()}


def _encoded(answer: Any) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode()


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (RecursionError, ValueError):  # an integer of thousands of digits has no text
        return f"({json_kind(value)})"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
