"""The lines of a log: one JSON object each, whose `kind` says what it tells. Pure.

| kind | tells |
|---|---|
| `start` | a server began; `run` names it in all its lines |
| `version` | a version was loaded, from `path` |
| `request` | an answer: `id`, `code`, `ms`; with 200 also `version`, `role`, `n` examples, `nonfinite`, `classes`; a sampled one `x` and `y`, or `features` |
| `shadow` | what another version answered to the request `id` |
| `label` | the labels of the request `id` |
| `alert` | a rule that changed its state |

`t` is the time of day in seconds since 1970, `up` seconds since the server began, which no clock sets back.
"""  # noqa: E501

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
KINDS = ("start", "version", "request", "shadow", "label", "alert")
_LARGEST_AXIS = 1 << 40
_DTYPE = re.compile(r"[<|][biuf]\d{1,2}")


def encoded(event: Mapping[str, Any]) -> bytes:
    """Return an event as a line; NaN and infinities, which are no JSON, become null."""
    try:
        text = json.dumps(event, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(event), separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"


def decoded(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line; `None` if it is none, as a line that a kill cut off."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("kind") not in KINDS:
        return None
    is_timed = all(_is_number(event.get(key)) for key in ("t", "up")) and isinstance(event.get("run"), str)
    return event if is_timed and _FORMS[event["kind"]](event) else None


def packed(arrays: Arrays) -> dict[str, Any]:
    """Return arrays of numbers, bit for bit, and of `str` as JSON types."""
    return {name: {"shape": list(array.shape), **_content(array)} for name, array in arrays.items()}


def _content(array: np.ndarray) -> dict[str, Any]:
    if array.dtype.kind == "U":
        return {"text": array.ravel().tolist()}
    dtype = array.dtype.newbyteorder("<")
    return {"dtype": dtype.str, "b64": base64.b64encode(array.astype(dtype).tobytes()).decode()}


def unpacked(content: Any) -> dict[str, np.ndarray] | None:
    """Return what `packed` made; `None` if it is something else."""
    if not isinstance(content, dict):
        return None
    try:
        return {str(name): _array(one) for name, one in content.items()}
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None


def _array(one: Mapping[str, Any]) -> np.ndarray:
    shape = tuple(one["shape"])
    if not all(type(size) is int and 0 <= size < _LARGEST_AXIS for size in shape):
        raise ValueError(f"no shape: {shape}")
    if "text" in one:
        if not all(isinstance(text, str) for text in one["text"]):
            raise ValueError("no texts")
        return np.array(one["text"], str).reshape(shape)
    if not _DTYPE.fullmatch(one["dtype"]):
        raise ValueError(f"no numbers: {one['dtype']}")
    dtype = np.dtype(one["dtype"])
    data = base64.b64decode(one["b64"], validate=True)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("as many bytes as the shape needs")
    return np.frombuffer(data, dtype).reshape(shape)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_AXIS


def _is_request(event: Mapping[str, Any]) -> bool:
    if not (isinstance(event.get("id"), str) and _is_count(event.get("code")) and _is_number(event.get("ms"))):
        return False
    if event.get("version") is None:
        return True
    return all(_is_count(event.get(key)) for key in ("version", "n")) and event.get("role") in (
        "main",
        "canary",
        "asked",
    )


def _is_shadow(event: Mapping[str, Any]) -> bool:
    counts = all(_is_count(event.get(key)) for key in ("version", "n", "same"))
    return counts and isinstance(event.get("id"), str) and _is_number(event.get("ms"))


def _is_label(event: Mapping[str, Any]) -> bool:
    labels = event.get("labels")
    return isinstance(event.get("id"), str) and isinstance(labels, list) and all(map(_are_numbers, labels))


def _are_numbers(value: Any) -> bool:
    """Return whether a label is a number, or a list of such, as for an output of several."""
    return all(map(_are_numbers, value)) if isinstance(value, list) else _is_number(value)


def _is_alert(event: Mapping[str, Any]) -> bool:
    return all(isinstance(event.get(key), str) for key in ("name", "state"))


_FORMS = {
    "start": lambda event: isinstance(event.get("model"), str),
    "version": lambda event: _is_count(event.get("version")) and isinstance(event.get("path"), str),
    "request": _is_request,
    "shadow": _is_shadow,
    "label": _is_label,
    "alert": _is_alert,
}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
