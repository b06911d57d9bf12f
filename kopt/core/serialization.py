"""Frozen dataclasses to JSON and back, strictly.

A record is data between two stages and on disk, so reading one refuses what it does not know: an unknown key is an
error that names the key and the nearest known one. The outermost object carries `"schema": "<Class>/<version>"`.
JSON has no NaN and no infinity; they are written as the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.
"""

import collections.abc
import dataclasses
import enum
import json
import math
import types
import typing
from typing import Any, ClassVar, TypeVar

from kopt.core.errors import ConfigError, nearest

R = TypeVar("R", bound="Record")
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Record:
    """Base of every frozen dataclass that travels between stages or to disk.

    Subclasses are `@dataclasses.dataclass(frozen=True)` with fields made of `str`, `int`, `float`, `bool`, `None`,
    other records, enums, `tuple[X, ...]`, fixed tuples and `dict[str, X]`.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    @classmethod
    def schema(cls) -> str:
        """Return the tag that identifies this record on disk, e.g. `"Artifact/1"`."""
        return f"{cls.__name__}/{cls.SCHEMA_VERSION}"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types, without the schema tag."""
        return {field.name: _encode(getattr(self, field.name)) for field in _fields(type(self))}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the record as a JSON object that begins with its schema tag."""
        return json.dumps({"schema": self.schema(), **self.to_dict()}, indent=indent, allow_nan=False)

    @classmethod
    def from_dict(cls: type[R], values: dict[str, Any]) -> R:
        """Build the record from plain JSON types.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.__name__} is read from a JSON object. Received: {type(values).__name__}.")
        hints = typing.get_type_hints(cls)
        known = [field.name for field in _fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"Unknown key {key!r} in {cls.__name__}.{nearest(key, known)} Known keys: {', '.join(known)}."
                )
        missing = [f.name for f in _fields(cls) if f.name not in values and not _has_default(f)]
        if missing:
            raise ConfigError(f"{cls.__name__} lacks the key(s) {', '.join(missing)}.")
        return cls(**{key: _decode(value, hints[key], f"{cls.__name__}.{key}") for key, value in values.items()})

    @classmethod
    def from_json(cls: type[R], text: str) -> R:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: not JSON, another schema, or an unknown key.
        """
        try:
            values = json.loads(text)
        # Also numbers of thousands of digits, and brackets that open without end.
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{cls.__name__} is not valid JSON: {error}.") from None
        schema = values.pop("schema", None) if isinstance(values, dict) else None
        if schema != cls.schema():
            raise ConfigError(f"Expected a record with schema {cls.schema()!r}. Received: {schema!r}.")
        return cls.from_dict(values)


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _encode(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else ("NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity")
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of NumPy's
        return _encode(value.item())
    raise TypeError(f"A record cannot hold {type(value).__module__}.{type(value).__qualname__}: {value!r}.")


def _decode(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(value, arguments, where)
    if origin is tuple:
        return _decode_tuple(value, arguments, where)
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, dict):
            raise _wrong(value, "an object", where)
        return {key: _decode(item, arguments[1], f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if hint is float:
        if isinstance(value, str) and value in _NON_FINITE:
            return _NON_FINITE[value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise ConfigError(f"{where} must be a number that a float holds. Received an integer.") from None
        raise _wrong(value, "a number", where)
    if hint is int and isinstance(value, bool):
        raise _wrong(value, "an integer", where)
    if not isinstance(value, hint):
        raise _wrong(value, hint.__name__, where)
    return value


def _decode_union(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [argument for argument in arguments if argument is not type(None)]
    for option in options:
        try:
            return _decode(value, option, where)
        except ConfigError:
            if option is options[-1]:
                raise
    raise _wrong(value, " or ".join(map(str, arguments)), where)


def _decode_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, "a list", where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise _wrong(value, f"a list of {len(arguments)}", where)
    return tuple(
        _decode(item, hint, f"{where}[{i}]") for i, (item, hint) in enumerate(zip(value, arguments, strict=True))
    )


def _wrong(value: Any, accepted: str, where: str) -> ConfigError:
    return ConfigError(f"{where} must be {accepted}. Received: {value!r} ({type(value).__name__}).")
