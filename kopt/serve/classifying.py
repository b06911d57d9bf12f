"""TF Serving's Classify and Regress APIs: examples in JSON to serialized `tf.train.Example`, and results back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2

from kopt.core.errors import RequestError
from kopt.serve.json_tensors import decode_base64, is_base64_or_plain, json_kind, json_numbers, text_bytes
from kopt.serve.loaded import CLASSIFY, REGRESS, Signature

_WORDS = {"classify": ("classification", CLASSIFY), "regress": ("regression", REGRESS)}
_MOST_INT64, _MOST_FLOAT = 2**63, np.finfo(np.float32).max


def require_method(signature: Signature, method: str) -> None:
    """Raise `RequestError` unless the signature was written for the API `method`."""
    word, wanted = _WORDS[method]
    if signature.method != wanted:
        raise RequestError(f"Expected {word} signature method_name to be {wanted}. Was: {signature.method}")


def read_examples(document: Mapping[str, Any], method: str) -> np.ndarray:
    """Return the examples of a request, serialized, shape (n,); a common `context` goes into each.

    Raises:
        RequestError: a form or value that no example can hold.
    """
    if "examples" not in document:
        raise RequestError(f"When method is {method}, key 'examples' is expected and was not found")
    rows = document["examples"]
    if not isinstance(rows, list):
        raise RequestError("Expecting 'examples' value to be an list/array")
    if not rows:
        raise RequestError("'examples' value is an empty array")
    context = document.get("context", {})
    serialized = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        for part in (row, context):
            if not isinstance(part, dict):
                raise RequestError(f"Example must be JSON object but got JSON {json_kind(part)}")
        example = example_pb2.Example()
        for name, value in {**context, **row}.items():
            _fill(example.features.feature[_name(name)], name, value)
        serialized[index] = example.SerializeToString()
    return serialized


def results_of(outputs: Mapping[str, np.ndarray], method: str) -> list[Any]:
    """Return an answer's rows: pairs of label and score, or single values.

    Raises:
        RequestError: the signature's outputs are not those of the API.
    """
    if method == "regress":
        return list(json_numbers(np.asarray(_output(outputs, "outputs"), np.float32).reshape(-1)))
    scores = np.asarray(_output(outputs, "scores"), np.float32)
    classes = outputs.get("classes", np.full(scores.shape, b"", object))
    return [
        [[_label(label), score] for label, score in zip(row, values, strict=True)]
        for row, values in zip(classes, json_numbers(scores), strict=True)
    ]


def _output(outputs: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in outputs:
        raise RequestError(f"The signature has no output {name!r}; it has {', '.join(outputs)}.")
    return outputs[name]


def _label(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def _name(name: str) -> str:
    text_bytes(name)
    return name


def _fill(feature: Any, name: str, value: Any) -> None:
    """Put a JSON value, or a list of them, into a feature of the kind that the first one has."""
    values = value if isinstance(value, list) else [value]
    for item in values:
        if item is None or not is_base64_or_plain(item):
            raise RequestError(f"Feature: {name} has element with unexpected JSON type: {json_kind(item)}")
    kinds = {_kind(item) for item in values}
    if len(kinds) > 1:
        raise RequestError(f"Unexpected element type in feature: {name} expecting type: {_kind(values[0])}")
    kind = kinds.pop() if kinds else None
    if kind == "bytes":
        feature.bytes_list.value.extend(
            text_bytes(item) if isinstance(item, str) else decode_base64(item) for item in values
        )
    elif kind == "float":
        if any(np.isfinite(item) and abs(item) > _MOST_FLOAT for item in values):
            raise RequestError(f"Cannot convert JSON value of feature: {name} to float without loss of precision.")
        feature.float_list.value.extend(values)
    elif kind == "int64":
        if any(not -_MOST_INT64 <= item < _MOST_INT64 for item in values):
            raise RequestError(f"Feature: {name} has uint64 element. Only int64 is supported.")
        feature.int64_list.value.extend(map(int, values))


def _kind(item: Any) -> str:
    if isinstance(item, float):
        return "float"
    return "int64" if isinstance(item, int) else "bytes"
