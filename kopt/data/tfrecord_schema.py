"""Examples to bytes and back: `tf.train.Example` with the dtype, shape and structure that the manifest keeps.

int64 and float32 arrays and text take the list of `tf.train.Feature` that was made for them, so that other readers can
use the files; everything else is stored as its little-endian bytes, which is exact and quick to read.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from kopt.core.errors import DataError, nearest
from kopt.core.records.training.data import FeatureSchema
from kopt.data.splits import Array

Path = tuple[str | int, ...]
_PARTS = ("x", "y", "sample_weight")  # of a tuple, as Keras reads it
_LISTS = {"int64": tf.int64, "float": tf.float32, "bytes": tf.string}
_KINDS = {"int64_list": tf.int64, "float_list": tf.float32, "bytes_list": tf.string}
# Types that `decode_raw` lacks are read as others of their width.
_READ_AS = {tf.uint32: tf.int32, tf.uint64: tf.int64}


def leaves(element: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """Return the arrays (or specs) of an element with their paths.

    Raises:
        DataError: a structure that cannot be stored.
    """
    if isinstance(element, Mapping):
        return [leaf for key in element for leaf in leaves(element[key], (*path, _key(key)))]
    if isinstance(element, (tuple, list)):
        return [leaf for position, part in enumerate(element) for leaf in leaves(part, (*path, position))]
    return [(path, element)]


def feature_name(path: Path) -> str:
    """Return the key of a feature: `"x"`, `"y"` or `"sample_weight"` for a part of a tuple, then keys after slashes."""
    if not path:
        return "x"
    first = _PARTS[path[0]] if isinstance(path[0], int) and path[0] < len(_PARTS) else str(path[0])
    return "/".join((first, *map(str, path[1:])))


def feature_schema(path: Path, dtype: Any, shape: Sequence[int]) -> FeatureSchema:
    """Return how an array of that dtype and shape is stored."""
    dtype = tf.as_dtype(dtype)
    encoding = {tf.int64: "int64", tf.float32: "float", tf.string: "bytes"}.get(dtype, "raw")
    # The lists cannot tell an empty array from a missing one.
    if math.prod(shape) == 0 and encoding != "bytes":
        encoding = "raw"
    return FeatureSchema(feature_name(path), path, dtype.name, tuple(map(int, shape)), encoding)


def serialize(arrays: Sequence[Array], schemas: Sequence[FeatureSchema]) -> bytes:
    """Return one example as the bytes of a `tf.train.Example`.

    Written by hand: 6 to 60 times as fast as filling the message from NumPy. Source: "Encoding",
    https://protobuf.dev/programming-guides/encoding, and tensorflow/core/example/{example,feature}.proto.
    """
    entries = [
        _field(1, _field(1, schema.name.encode()) + _field(2, _feature(array, schema.encoding)))
        for array, schema in zip(arrays, schemas, strict=True)
    ]
    return _field(1, b"".join(entries))


def parsing_features(schemas: Sequence[FeatureSchema]) -> dict[str, Any]:
    """Return what `tf.io.parse_example` needs to read examples of these features."""
    return {
        schema.name: tf.io.FixedLenFeature([], tf.string)
        if schema.encoding == "raw"
        else tf.io.FixedLenFeature(schema.shape, _LISTS[schema.encoding])
        for schema in schemas
    }


def restore(parsed: Mapping[str, Any], schemas: Sequence[FeatureSchema]) -> Any:
    """Return the elements that were written, from parsed features of a batch or of one example."""
    return _nested([(schema.path, _decoded(parsed[schema.name], schema)) for schema in schemas])


def check_record(record: bytes, features: Mapping[str, Any], file: str) -> None:
    """Make sure that a record is an example with the features that are asked for.

    Raises:
        DataError: not an example; or which feature differs, what the record holds and what is asked.
    """
    try:
        stored = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise DataError(
            f"The first record of {file} is no tf.train.Example. Read such files with "
            f"`tf.data.TFRecordDataset` and a parser of your own."
        ) from error
    held = {name: _held(feature) for name, feature in stored.items()}
    for name, feature in features.items():
        key = getattr(feature, "value_key", None) or getattr(feature, "key", None) or name
        problem = _problem(feature, held.get(key))
        if problem:
            found = ", ".join(f"{other!r} ({dtype.name} x {count})" for other, (dtype, count) in sorted(held.items()))
            hint = nearest(key, held) if key not in held else ""
            raise DataError(
                f"Feature {key!r}: {problem}.{hint} The first record of {file} holds {found or 'nothing'}. Change "
                f"`features`, or write the files anew."
            )


def _problem(feature: Any, held: tuple[Any, int] | None) -> str:
    """Return how one feature of a record differs from what is asked, or `""`."""
    optional = getattr(feature, "default_value", None) is not None or getattr(feature, "allow_missing", False)
    is_fixed = isinstance(feature, tf.io.FixedLenFeature)
    dtype = tf.as_dtype(feature.dtype)
    if dtype not in _KINDS.values():
        return f"an example stores int64, float32 and string only; the schema asks {dtype.name}"
    if held is None:
        return "the record lacks it and the schema has no default" if is_fixed and not optional else ""
    if held[0] != dtype:
        return f"the record holds {held[0].name}, the schema asks {dtype.name}"
    if is_fixed and held[1] != (asked := math.prod(tf.TensorShape(feature.shape).as_list())):
        return f"the record holds {held[1]} value(s), the schema asks {asked}, shape {list(feature.shape)}"
    return ""


def _held(feature: Any) -> tuple[Any, int]:
    kind = feature.WhichOneof("kind") or "bytes_list"
    return _KINDS[kind], len(getattr(feature, kind).value)


def _key(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise DataError(f"Keys of dicts become names of features, so they must be text. Received: {key!r}.")
    return key


def _feature(array: Array, encoding: str) -> bytes:
    if encoding == "float":
        return _field(2, _field(1, np.ascontiguousarray(array, "<f4").tobytes()))
    if encoding == "int64":
        return _field(3, tf.train.Int64List(value=array.ravel().tolist()).SerializeToString())
    if encoding == "bytes":
        return _field(1, b"".join(_field(1, _bytes(value)) for value in np.asarray(array).ravel()))
    little = array if array.dtype.byteorder != ">" else array.astype(array.dtype.newbyteorder("<"))
    return _field(1, _field(1, little.tobytes()))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited field (wire type 2)."""
    size, prefix = len(payload), bytearray([number << 3 | 2])
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + payload


def _decoded(stored: Any, schema: FeatureSchema) -> Any:
    if schema.encoding != "raw":
        return stored
    dtype = tf.as_dtype(schema.dtype)
    values = tf.io.decode_raw(stored, _READ_AS.get(dtype, dtype))
    if dtype in _READ_AS:
        values = tf.bitcast(values, dtype)
    return tf.reshape(values, tf.concat([tf.shape(stored), schema.shape], 0))


def _nested(parts: list[tuple[Path, Any]]) -> Any:
    if len(parts) == 1 and not parts[0][0]:
        return parts[0][1]
    groups: dict[str | int, list[tuple[Path, Any]]] = {}
    for path, value in parts:
        groups.setdefault(path[0], []).append((path[1:], value))
    built = {key: _nested(group) for key, group in groups.items()}
    return tuple(built[key] for key in sorted(built, key=int)) if all(isinstance(key, int) for key in built) else built
