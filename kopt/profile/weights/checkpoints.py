"""Variables of models and of checkpoint files under common names, each read when it is needed."""

import contextlib
import dataclasses
import functools
import itertools
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np

from kopt.core.errors import LoadError
from kopt.graph import load_model
from kopt.graph.values import values_of
from kopt.profile.weights.internals import checkpoint_entries
from kopt.profile.weights.selection import weight_variables

# How the variables of a file are named: by Keras 3 after the place of their object in the model, e.g.
# "layers/dense/vars/0", and in the format of Keras 2, which `.h5` still is, after layer and number, e.g. "dense/0".
KERAS_3, LEGACY = "Keras 3", "legacy HDF5"
_WEIGHTS_OF_ARCHIVE = "model.weights.h5"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A variable.

    Attributes:
        name: by which it is matched.
        path: how it is called in a report.
        read: returns its values.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def entries_of_model(model: keras.Model, layout: str | None = None) -> list[Entry]:
    """Return the parameters of a model under their own paths, or under the names that a file of a layout has for them.

    Those that a file of this layout would not hold are left out.
    """
    owned = {id(one.variable): one for one in weight_variables(model)}
    if layout is None:
        named: list[tuple[str, Any]] = [(one.path, one.variable) for one in owned.values()]
    elif layout == KERAS_3:
        named = list(checkpoint_entries(model).items())
    else:
        named = list(_legacy_names(model))
    return [
        Entry(name, owned[id(variable)].path, tuple(variable.shape), functools.partial(values_of, variable))
        for name, variable in named
        if id(variable) in owned
    ]


def _legacy_names(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yield variables under the names of the legacy format, which goes by the layers at the top."""
    for layer in model.layers:
        for number, variable in enumerate(layer.trainable_weights + layer.non_trainable_weights):
            yield f"{layer.name}/{number}", variable


@contextlib.contextmanager
def opened_checkpoint(path: str | os.PathLike[str]) -> Iterator[tuple[str, list[Entry]]]:
    """Open a `.keras`, `.weights.h5` or `.h5` file and yield its layout and its parameters.

    No code that the file stores is run and no class that it names is needed; optimizer and seeds are left out.

    Raises:
        LoadError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        file = _opened(path, stack)
        group = file.get("model_weights", file)
        layout = LEGACY if "layer_names" in group.attrs or "layer_names0" in group.attrs else KERAS_3
        entries = list(_legacy_entries(group) if layout == LEGACY else _keras_3_entries(file))
        if not entries:
            raise LoadError(f"{path} is an HDF5 file, but holds no weights that Keras wrote.")
        yield layout, entries


def _opened(path: Path, stack: contextlib.ExitStack) -> h5py.File:
    magic = b""
    if path.is_file():
        with open(path, "rb") as start:
            magic = start.read(8)
    try:
        if magic == _HDF5_MAGIC:
            return stack.enter_context(h5py.File(path, "r"))
        if magic.startswith(_ZIP_MAGIC):
            archive = stack.enter_context(zipfile.ZipFile(path))
            return stack.enter_context(h5py.File(stack.enter_context(archive.open(_WEIGHTS_OF_ARCHIVE)), "r"))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise LoadError(f"{path} is not a whole checkpoint ({error}): it was cut off or damaged.") from error
    load_model(path)  # Says what the path is instead.
    raise LoadError(f"{path} holds no checkpoint: give a `.keras`, `.weights.h5` or `.h5` file.")


def _keras_3_entries(file: h5py.File) -> Iterator[Entry]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    for name in sorted(names, key=_by_number):
        *places, holder, number = name.split("/")
        if holder != "vars" or places[:1] == ["optimizer"] or places[-1:] == ["seed_generator"]:
            continue
        # Keras writes the layer's own name beside the place, which is numbered by class.
        own_name = file["/".join((*places, "vars"))].attrs.get("name")
        visible = [place for place in places if place != "layers"]
        if visible and own_name is not None:
            visible[-1] = str(own_name)
        yield _file_entry(name, "/".join((*visible, number)), file[name])


def _by_number(name: str) -> tuple[str, int]:
    place, _, number = name.rpartition("/")
    return place, int(number) if number.isdigit() else -1


def _legacy_entries(group: h5py.Group) -> Iterator[Entry]:
    for layer in _names(group, "layer_names"):
        for number, weight in enumerate(_names(group[layer], "weight_names")):
            inner = weight.removesuffix(":0").rpartition(f"{layer}/")[2]
            yield _file_entry(f"{layer}/{number}", f"{layer}/{inner}", group[layer][weight])


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Return a list of names; one that is too long for an attribute is stored in several, numbered ones."""
    numbered = (f"{attribute}{number}" for number in itertools.count())
    keys = [attribute] if attribute in group.attrs else itertools.takewhile(lambda key: key in group.attrs, numbered)
    return [name.decode() if isinstance(name, bytes) else str(name) for key in keys for name in group.attrs[key]]


def _file_entry(name: str, path: str, dataset: h5py.Dataset) -> Entry:
    def read() -> np.ndarray:
        if dataset.attrs.get("dtype") == "bfloat16":
            return np.asarray(dataset[()]).view(ml_dtypes.bfloat16)
        return np.asarray(dataset[()])

    return Entry(name, path, tuple(dataset.shape), read)
