"""Arrays on disk, in whatever structure, as other processes read them: written at once or piece by piece."""

import contextlib
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kopt.core.errors import DataError

_STRUCTURE = "structure.json"
_Array = np.ndarray[Any, Any]
# Rows are moved in pieces of this size.
_PIECE_BYTES = 4 << 20


class Pieces:
    """A directory of arrays that grow by batches, none of which is kept in memory; whole when the block ends.

    Args:
        directory: a new one.
        name: how messages call the data.
    """

    def __init__(self, directory: Path, name: str):
        directory.mkdir(parents=True)
        self._directory, self._name = directory, name
        self._structure: Any = None
        self._files: list[_GrowingFile] = []

    def append(self, arrays: Any) -> None:
        """Add a batch: arrays, one or dicts, tuples and lists of them, as in every batch before.

        Raises:
            DataError: examples of another form.
        """
        leaves: list[_Array] = []
        structure = _numbered(arrays, leaves)
        if not self._files:
            self._structure = structure
            self._files = [_GrowingFile(_path(self._directory, place), leaf) for place, leaf in enumerate(leaves)]
        if structure != self._structure:
            raise DataError(f"`{self._name}` must yield batches of one structure. Received: {structure} after others.")
        for file, leaf in zip(self._files, leaves, strict=True):
            file.append(leaf, self._name)

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the files, unless something went wrong.

        Raises:
            DataError: nothing was added.
        """
        with contextlib.ExitStack() as files:
            for file in self._files:
                files.callback(file.close)
        if kind is not None:
            return
        if not self._files:
            raise DataError(f"`{self._name}` is empty: there must be at least one batch.")
        (self._directory / _STRUCTURE).write_text(json.dumps(self._structure))


class _GrowingFile:
    """An `.npy` file whose number of rows is written last; NumPy leaves room for it in the header."""

    def __init__(self, path: Path, like: _Array):
        self._dtype, self._shape, self._rows = like.dtype, like.shape[1:], 0
        self._file = open(path, "wb")  # noqa: SIM115 - closed below, when all batches were written
        _write_header(self._file, self._dtype, (0, *self._shape))

    def append(self, piece: _Array, name: str) -> None:
        if (piece.dtype, piece.shape[1:]) != (self._dtype, self._shape):
            raise DataError(
                f"`{name}` must yield batches of examples of one shape and type. Received: {piece.dtype} examples of "
                f"shape {piece.shape[1:]} after {self._dtype} ones of shape {self._shape}."
            )
        _write_values(self._file, piece)
        self._rows += len(piece)

    def close(self) -> None:
        with self._file:
            self._file.seek(0)
            _write_header(self._file, self._dtype, (self._rows, *self._shape))


def write(arrays: Any, directory: Path) -> None:
    """Write arrays, one or dicts, tuples and lists of them, into a new directory."""
    directory.mkdir(parents=True)
    leaves: list[_Array] = []
    structure = _numbered(arrays, leaves)
    for place, leaf in enumerate(leaves):
        with open(_path(directory, place), "wb") as file:
            _write_header(file, leaf.dtype, leaf.shape)
            _write_values(file, leaf)
    (directory / _STRUCTURE).write_text(json.dumps(structure))


def read(directory: Path) -> Any:
    """Return what was written, mapped into memory, which the system fills as it is read; tuples come as tuples."""
    return _filled(json.loads((directory / _STRUCTURE).read_text()), directory)


def split(directory: Path, kept: _Array, others: _Array, into: Path) -> None:
    """Move some rows of a directory of arrays into another, and close the gaps, without a second copy of the rest.

    Args:
        directory: whose files become shorter.
        kept: numbers of the rows that stay, ascending.
        others: of those that go, few.
        into: a new directory.
    """
    structure = json.loads((directory / _STRUCTURE).read_text())
    into.mkdir(parents=True)
    for path in sorted(directory.glob("*.npy")):
        array = np.load(path, mmap_mode="r+", allow_pickle=False)
        with open(into / path.name, "wb") as file:
            _write_header(file, array.dtype, (len(others), *array.shape[1:]))
            _write_values(file, array[others])
        _close_gaps(array, kept)
        shape, end = (len(kept), *array.shape[1:]), array.offset + len(kept) * array[:1].nbytes
        array.flush()
        with open(path, "r+b") as file:
            _write_header(file, array.dtype, shape)
            file.truncate(end)
    (into / _STRUCTURE).write_text(json.dumps(structure))


def _close_gaps(array: _Array, kept: _Array) -> None:
    """Move rows to the front in their order: each goes to where it is or before, so that none is lost."""
    rows = max(1, _PIECE_BYTES // max(array[:1].nbytes, 1))
    for start in range(0, len(kept), rows):
        chosen = kept[start : start + rows]
        array[start : start + len(chosen)] = array[chosen]


def _path(directory: Path, place: int) -> Path:
    return directory / f"{place}.npy"


def _write_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if dtype.hasobject:
        raise DataError(
            f"Arrays of Python objects cannot be handed to other processes. Received: {dtype}, {shape}. Convert them: "
            f"text by `x.astype(str)`, numbers by `x.astype('float32')`."
        )
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, described)


def _write_values(file: BinaryIO, array: _Array) -> None:
    """Write values through Python, which tells a full disk from other errors; `np.save` does not."""
    if array.size:
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _numbered(arrays: Any, leaves: list[_Array]) -> Any:
    if isinstance(arrays, dict):
        return {"dict": {key: _numbered(value, leaves) for key, value in arrays.items()}}
    if isinstance(arrays, (tuple, list)):
        return {type(arrays).__name__: [_numbered(value, leaves) for value in arrays]}
    leaves.append(np.asarray(arrays))
    return len(leaves) - 1


def _filled(structure: Any, directory: Path) -> Any:
    if isinstance(structure, int):
        return np.load(_path(directory, structure), mmap_mode="r", allow_pickle=False)
    (kind, inner), *_ = structure.items()
    if kind == "dict":
        return {key: _filled(value, directory) for key, value in inner.items()}
    values = [_filled(value, directory) for value in inner]
    return tuple(values) if kind == "tuple" else values
