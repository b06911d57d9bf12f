"""A few inputs of an exported file and what it answered, kept beside it, so that it can be asked again anywhere."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kopt.core.errors import LoadError
from kopt.core.files import sha256
from kopt.core.records.artifacts import FileHash
from kopt.measure import Runner
from kopt.measure.feeding import rows

_EXAMPLES = 4
_LARGEST_BYTES = 1 << 20
Arrays = dict[str, np.ndarray]


def write_reference(path: Path, name: str, runner: Runner, arrays: Mapping[str, np.ndarray]) -> FileHash | None:
    """Run the first examples of `arrays` and keep them with the answers, the same bytes for the same numbers.

    Args:
        path: `.npz` to write.
        name: that it gets.
        runner: of the exported file.
        arrays: inputs by name, examples first.

    Returns:
        Its hash; `None`, and nothing written, if one example alone has more than a mebibyte or strings are among them.
    """
    for count in range(_EXAMPLES, 0, -1):
        inputs = {key: np.asarray(value) for key, value in rows(runner.inputs, arrays, 0, count).items()}
        if sum(value.nbytes for value in inputs.values()) <= _LARGEST_BYTES:
            break
    else:
        return None
    outputs = answers(runner, inputs)
    kept = {f"input/{key}": inputs[key] for key in inputs} | {f"output/{key}": outputs[key] for key in outputs}
    too_large = sum(value.nbytes for value in kept.values()) > 2 * _LARGEST_BYTES
    if too_large or any(value.dtype.hasobject for value in kept.values()):
        return None
    with open(path, "wb") as file:
        np.savez(file, **kept)  # type: ignore[arg-type]
    return FileHash(name, path.stat().st_size, sha256(path))


def read_reference(path: Path) -> tuple[Arrays, Arrays]:
    """Return inputs and outputs by name.

    Raises:
        LoadError: it is missing or damaged.
    """
    try:
        # Given a path, NumPy leaves it open when it finds it damaged.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            named = {key: kept[key] for key in kept.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile) as error:
        raise LoadError(f"{path} holds no reference inputs and outputs: {error}") from error
    return tuple({key.partition("/")[2]: named[key] for key in named if key.startswith(side)} for side in ("i", "o"))  # type: ignore[return-value]


def answers(runner: Runner, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Return the outputs by name."""
    found = runner.predict(dict(inputs))
    return found if isinstance(found, dict) else {runner.outputs[0].name: found}
