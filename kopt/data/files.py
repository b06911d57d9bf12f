"""Data sets on disk: `.npz` files and folders of images."""

import concurrent.futures
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import DataError, nearest
from kopt.data.image_decoding import read_image
from kopt.data.image_folders import files_by_class, image_classes
from kopt.data.packaged import PACKAGED, load
from kopt.data.splits import Array, DataSplits, Split, stratified_split

_REQUIRED = ("x_train", "y_train", "x_val", "y_val")
_ZIP, _NPY = b"PK", b"\x93NUM"
_OPTIONAL = ("x_test", "y_test")
# Every class has a name.
_MOST_CLASSES = 1_000_000
_VALIDATION_FOLDERS = ("validation", "val")


def open_data(spec: str | os.PathLike[str], *, image_shape: tuple[int | None, ...] | None = None) -> DataSplits:
    """Return the data set that a word on the command line stands for.

    Args:
        spec: packaged name (`"digits"`), path of an `.npz` file (see `load_npz`) or of an image folder (see
            `load_folder`). A folder that is called like a packaged set is meant by `./digits`.
        image_shape: (height, width, channels) that the model takes; images of a folder are resized to it.

    Raises:
        DataError: none of the three, or the file or folder does not hold what it should.

    Example:
        >>> kopt.data.open_data("images", image_shape=(8, 8, 1)).class_names
        ('seven', 'three')
    """
    text = os.fspath(spec)
    path = Path(text)
    if text in PACKAGED:
        return load(text)
    if path.is_dir():
        height, width, channels = _image_shape(image_shape, text)
        size = None if height is None or width is None else (height, width)
        return load_folder(path, image_size=size, channels=channels)
    if path.suffix == ".npz":
        return load_npz(path)
    raise DataError(
        f"{text!r} is not a data set.{nearest(text, PACKAGED)} Accepted: a packaged name ({', '.join(PACKAGED)}), an "
        f".npz file with {', '.join(_REQUIRED)}, or a folder with one folder of images a class."
    )


def open_examples(
    spec: str | os.PathLike[str], *, image_shape: tuple[int | None, ...] | None = None
) -> Split | Array | dict[str, Array]:
    """Return the examples that a word on the command line stands for, where no labels are needed: for calibration.

    Args:
        spec: what `open_data` takes, of which the training part is returned; an `.npy` file; or an `.npz` file with
            one array, with `x` and perhaps `y`, or with one array for each input of the model, called like it.
        image_shape: (height, width, channels) that the model takes; images of a folder are resized to it.

    Raises:
        DataError: none of these, or the file or folder does not hold what it should.

    Example:
        >>> np.savez("calibration.npz", x=x_train[:100])
        >>> kopt.data.open_examples("calibration.npz").shape
        (100, 8, 8, 1)
    """
    path = Path(spec)
    if path.suffix not in (".npy", ".npz") or path.is_dir():
        return open_data(spec, image_shape=image_shape).train
    arrays = _read_arrays(path)
    grouped = _grouped(arrays, path)
    if {"x_train", "y_train"} <= grouped.keys():
        return _split(grouped, "train", path)
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if "x" not in grouped:
        return arrays
    if grouped.keys() == {"x"}:
        return grouped["x"]
    arrays = grouped
    if unknown := arrays.keys() - {"x", "y"}:
        raise DataError(
            f"{path} has beside x the arrays {', '.join(sorted(unknown))}. Accepted: x and y alone, or an array for "
            f"each input of the model, called like it."
        )
    return _labelled(arrays, ("x", "y"), path)


def load_npz(path: str | os.PathLike[str]) -> DataSplits:
    """Return the arrays of an `.npz` file, as they are: nothing is scaled.

    Args:
        path: file with `x_train`, `y_train`, `x_val`, `y_val` and optionally `x_test`, `y_test`. Whole-number `y` of
            shape (n,) or (n, 1) are class labels, numbered from 0; other `y` are targets. For several inputs or outputs
            there is one array of each, with its name behind a slash: `x_train/tokens`, `x_train/mask`.

    Raises:
        DataError: not a whole `.npz` file, missing or unknown keys, pickled objects, lengths that do not match, or
            negative class labels.

    Example:
        >>> np.savez("data.npz", x_train=x_train, y_train=y_train, x_val=x_val, y_val=y_val)
        >>> splits = kopt.data.load_npz("data.npz")
        >>> splits.train.x.shape, splits.num_classes, splits.test
        ((512, 8, 8, 1), 10, None)
    """
    arrays = _grouped(_read_arrays(Path(path)), path)
    _check_keys(list(arrays), Path(path))
    splits = {part: _split(arrays, part, path) for part in ("train", "val", "test") if f"x_{part}" in arrays}
    labels = [split.y for split in splits.values()]
    return DataSplits(
        os.fspath(path), splits["train"], splits["val"], splits.get("test"), class_names=_numbered(labels)
    )


def load_folder(
    directory: str | os.PathLike[str],
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> DataSplits:
    """Return the images of a folder as float32 arrays in [0, 1].

    Args:
        directory: one folder of JPEG, PNG, WebP or BMP files a class; or `train/` and `validation/` (or `val/`), and
            optionally `test/`, each with such folders.
        image_size: (height, width) that images are resized to, bilinear; `None` if all have one size already.
        channels: 1, 3 or 4.
        validation_fraction: share of each class that is set aside when `directory` is not divided, in (0, 1).
        seed: of that division.

    Returns:
        Splits with int64 labels in the order of the sorted class names.

    Raises:
        DataError: no images, fewer than two classes, a damaged image, or images of different sizes without
            `image_size`.

    Example:
        >>> splits = kopt.data.load_folder("images", channels=1, validation_fraction=0.5)
        >>> splits.train.x.shape, splits.validation.y, splits.class_names
        ((6, 8, 8, 1), array([0, 0, 0, 1, 1, 1]), ('seven', 'three'))
    """
    directory = Path(directory)
    if not 0.0 < validation_fraction < 1.0:
        raise DataError(f"`validation_fraction` must be in (0, 1). Received: {validation_fraction!r}.")
    validation = next((directory / name for name in _VALIDATION_FOLDERS if (directory / name).is_dir()), None)
    if (directory / "train").is_dir() and validation is not None:
        classes = image_classes(directory / "train")
        parts = [files_by_class(directory / "train", classes), files_by_class(validation, classes)]
        if (directory / "test").is_dir():
            parts.append(files_by_class(directory / "test", classes))
    else:
        classes = image_classes(directory)
        parts = _divide(*files_by_class(directory, classes), validation_fraction, seed)
    splits: list[Split] = []
    for files, labels in parts:
        # One size for all parts: the first image read decides when the caller did not.
        size = splits[0].x.shape[1:3] if splits else image_size
        splits.append(Split(_decode(files, size, channels), labels))
    return DataSplits(str(directory), splits[0], splits[1], splits[2] if len(splits) > 2 else None, classes)


def _image_shape(shape: tuple[int | None, ...] | None, spec: str) -> tuple[int | None, int | None, int]:
    if shape is None:
        return None, None, 3
    if len(shape) != 3:
        raise DataError(
            f"{spec!r} is a folder of images, but the model takes {shape}, not (height, width, channels). Pass an "
            f".npz file with arrays of that shape."
        )
    return shape[0], shape[1], shape[2] or 3


def _read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of an `.npz` file by name, or that of an `.npy` file."""
    kind, write = (".npy", "np.save") if path.suffix == ".npy" else (".npz", "np.savez")
    try:
        with open(path, "rb") as file:
            head = file.read(4)
            if not head.startswith((_ZIP, _NPY)):
                raise DataError(f"{path} is not an {kind} file: it begins with {head!r}. Write it with `{write}`.")
            file.seek(0)
            found = np.load(file, allow_pickle=False)
            if kind == ".npy" and isinstance(found, np.ndarray):
                return {path.stem: found}
            if isinstance(found, np.ndarray):
                raise DataError(f"{path} holds a single array (.npy); write `np.savez(path, x_train=..., ...)`.")
            return {key: found[key] for key in found.files}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.{_sibling(path)}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError) as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds pickled Python objects; opening them could run code, so they are refused. Write plain "
                f"arrays of numbers, of texts with `.astype(str)`: `np.savez(path, x_train=..., ...)`."
            ) from error
        raise DataError(f"{path} is not a whole {kind} file ({error}). Write it anew with `{write}`.") from error


def _grouped(arrays: dict[str, Array], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the arrays with those that share what is before a slash as a dict by what is behind it."""
    found: dict[str, Any] = {}
    for key, array in sorted(arrays.items()):  # "x" comes before "x/tokens"
        group, slash, name = key.partition("/")
        if not slash:
            found[key] = array
        elif isinstance(found.setdefault(group, {}), dict):
            found[group][name] = array
        else:
            raise DataError(f"{os.fspath(path)} has both {group} and {key}. Write one array, or one for each input.")
    return found


def _sibling(path: Path) -> str:
    return nearest(path.name, [file.name for file in path.parent.glob("*.np[yz]")])


def _check_keys(found: list[str], path: Path) -> None:
    needed = (*_REQUIRED, *(_OPTIONAL if set(_OPTIONAL) & set(found) else ()))
    missing = [key for key in needed if key not in found]
    unknown = [key for key in found if key not in needed]
    if missing or unknown:
        hint = nearest(unknown[0], missing or needed) if unknown else ""
        raise DataError(
            f"{path} has the arrays {', '.join(found) or '(none)'}; needed: {', '.join(_REQUIRED)}, optional: "
            f"{', '.join(_OPTIONAL)}."
            + (f" Missing: {', '.join(missing)}." if missing else "")
            + (f" Unknown: {', '.join(unknown)}." if unknown else "")
            + hint
        )


def _split(arrays: dict[str, Any], part: str, path: str | os.PathLike[str]) -> Split:
    names = (f"x_{part}", f"y_{part}")
    return _labelled(arrays, names, path)


def _labelled(arrays: dict[str, Any], names: tuple[str, str], path: str | os.PathLike[str]) -> Split:
    x, y = (arrays[name] for name in names)
    lengths = {len(leaf) if leaf.ndim else 0 for part in (x, y) for leaf in _leaves(part)}
    if len(lengths) > 1 or 0 in lengths:
        shapes = [", ".join(str(leaf.shape) for leaf in _leaves(part)) for part in (x, y)]
        raise DataError(
            f"{os.fspath(path)}: {names[0]} has shape {shapes[0]} and {names[1]} {shapes[1]}; both need the same "
            f"number of examples along the first axis, at least one."
        )
    if isinstance(y, dict):
        return Split(x, y)
    if y.dtype.kind in "iu" and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if _are_classes(y) and y.min() < 0:
        raise DataError(
            f"{os.fspath(path)}: whole-number labels are classes numbered from 0, the lowest is {y.min()}. Number them "
            f"anew, or store targets that are not classes as floats."
        )
    if _are_classes(y) and y.max() >= _MOST_CLASSES:
        raise DataError(
            f"{os.fspath(path)}: whole-number labels are classes numbered from 0, the highest is {y.max()}. Number the "
            f"classes that there are (at most {_MOST_CLASSES:,}), or store targets that are not classes as floats."
        )
    return Split(x, y)


def _leaves(part: Any) -> list[Array]:
    return list(part.values()) if isinstance(part, dict) else [part]


def _are_classes(y: Any) -> bool:
    return not isinstance(y, dict) and y.dtype.kind in "iu" and y.ndim == 1


def _numbered(labels: Sequence[Any]) -> tuple[str, ...]:
    if not all(map(_are_classes, labels)):
        return ()
    return tuple(str(label) for label in range(max(int(y.max()) for y in labels) + 1))


def _divide(files: list[Path], labels: Array, fraction: float, seed: int) -> list[tuple[list[Path], Array]]:
    parts = stratified_split(labels, fraction, seed)
    if not len(parts[1]):
        raise DataError("Every class has a single image, so none can be set aside for validation. Add images.")
    return [([files[row] for row in rows], labels[rows]) for rows in parts]


def _decode(files: list[Path], size: tuple[int, ...] | None, channels: int) -> Array:
    first = read_image(files[0], size, channels)
    images = np.empty((len(files), *first.shape), np.float32)

    def place(row: int) -> None:
        image = read_image(files[row], size, channels)
        if image.shape != first.shape:
            raise DataError(
                f"{files[row]} is {image.shape[:2]}, {files[0]} is {first.shape[:2]} (height, width). Pass "
                f"`image_size=(height, width)` to resize all images to one size."
            )
        images[row] = image

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in pool.map(place, range(len(files))):
            pass
    return images
