"""Batches that carry what a cache holds of the teacher for their examples."""

from collections.abc import Mapping
from typing import Any

_INPUTS, _STORED = "kopt_inputs", "kopt_stored"


def joined(x: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs and what is stored for them as one structure, in the place of the inputs of a batch."""
    return {_INPUTS: x, _STORED: dict(stored)}


def split(x: Any) -> tuple[Any, Mapping[str, Any] | None]:
    """Return the inputs, and what is stored for them; `None` if the batch is one without."""
    if isinstance(x, Mapping) and set(x) == {_INPUTS, _STORED}:
        return x[_INPUTS], x[_STORED]
    return x, None
