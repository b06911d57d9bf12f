"""Arrays by input name in a file, for a conversion child process."""

from pathlib import Path

import numpy as np

# `numpy.savez` has arguments of its own, such as `file`.
_PREFIX = "input "


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays."""
    np.savez(path, **{f"{_PREFIX}{name}": array for name, array in arrays.items()})  # type: ignore[arg-type]


def read(path: str) -> dict[str, np.ndarray]:
    """Return what `write` wrote."""
    with np.load(path) as loaded:
        return {name.removeprefix(_PREFIX): loaded[name] for name in loaded.files}
