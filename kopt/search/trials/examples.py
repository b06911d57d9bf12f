"""Arrays on disk, in whatever structure, as other processes read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

_STRUCTURE = "structure.json"


def write(arrays: Any, directory: Path) -> None:
    """Write arrays, one or dicts, tuples and lists of them, into a new directory."""
    directory.mkdir(parents=True)
    leaves: list[np.ndarray[Any, Any]] = []
    structure = _numbered(arrays, leaves)
    for number, leaf in enumerate(leaves):
        np.save(directory / f"{number}.npy", leaf, allow_pickle=False)
    (directory / _STRUCTURE).write_text(json.dumps(structure))


def read(directory: Path) -> Any:
    """Return what `write` wrote, mapped into memory, which the system fills as it is read; tuples come as tuples."""
    return _filled(json.loads((directory / _STRUCTURE).read_text()), directory)


def _numbered(arrays: Any, leaves: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(arrays, dict):
        return {"dict": {key: _numbered(value, leaves) for key, value in arrays.items()}}
    if isinstance(arrays, (tuple, list)):
        return {type(arrays).__name__: [_numbered(value, leaves) for value in arrays]}
    leaves.append(np.asarray(arrays))
    return len(leaves) - 1


def _filled(structure: Any, directory: Path) -> Any:
    if isinstance(structure, int):
        return np.load(directory / f"{structure}.npy", mmap_mode="r", allow_pickle=False)
    (kind, inner), *_ = structure.items()
    if kind == "dict":
        return {key: _filled(value, directory) for key, value in inner.items()}
    values = [_filled(value, directory) for value in inner]
    return tuple(values) if kind == "tuple" else values
