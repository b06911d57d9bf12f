"""Opening model files, whatever Keras wrote them, without running code that is stored in them."""

import importlib
import json
import os
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from kopt.core.errors import LoadError, UnsafeModelError
from kopt.core.files import require_path
from kopt.core.randomness import preserved_random_state
from kopt.graph.legacy import load_legacy, load_legacy_archive
from kopt.graph.tfmot import refuse_quantized_config

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_TFLITE_MAGIC = b"TFL3"  # four bytes into the file
# Classes that Keras knows once these are imported.
_WITH_OWN_CLASSES = ("kopt.prune", "kopt.cluster", "kopt.quantize")
# What Keras raises for a file that is damaged or that it does not know; anything else is a defect and comes through.
_KERAS_REFUSALS = (
    *(TypeError, ValueError, LookupError, AttributeError, RecursionError),
    *(OSError, EOFError, zipfile.BadZipFile),
)


@preserved_random_state()
def load_model(
    path: str | os.PathLike[str],
    *,
    custom_objects: dict[str, Any] | None = None,
    safe_mode: bool = True,
    verify: bool = True,
    compile: bool | None = None,
) -> keras.Model:
    """Open a `.keras` or `.h5` file, of Keras 3 or of the Keras 2 line, as a Keras 3 model.

    Use it instead of `keras.models.load_model` when the file may come from Keras 2: Keras 3 refuses many of those, and
    opens some with other mathematics (`hard_sigmoid`). The format is told by the content, not by the file name.

    Args:
        path: the file.
        custom_objects: classes and functions of yours that the file refers to, by name.
        safe_mode: refuse files that carry Python code. Turn it off only for a file whose origin you trust.
        verify: run a Keras 2 file in tf_keras too and compare the outputs on seeded inputs.
        compile: with the optimizer, its state, loss and metrics that a `.keras` file of Keras 3 was saved with, if it
            was compiled; `None`: where all that they name is known. Models of other files never are: Keras 3.15 does
            not read back the loss of its own `.h5`.

    Raises:
        LoadError: the file is missing, damaged, of another kind, or needs a class that is not known; or the outputs of
            a Keras 2 file are not those of tf_keras.
        UnsafeModelError: the file carries Python code and `safe_mode` is on.

    Warns:
        UserWarning: the model was saved compiled, with something that is not known; it comes without.

    Example:
        >>> opened = kopt.load_model("model.keras")
        >>> opened.name, opened.count_params(), opened.compiled
        ('digits', 2722, True)
    """
    path, custom_objects = Path(path), dict(custom_objects or {})
    kind = _kind(path)
    if kind == "hdf5":
        return _load_hdf5(path, custom_objects, safe_mode, verify)
    config = _zip_member(path, "config.json") if kind == "zip" else _parsed((path / "config.json").read_bytes(), path)
    if safe_mode:
        refuse_stored_code(config, path)
    if '"kopt>' in json.dumps(config):
        for name in _WITH_OWN_CLASSES:
            importlib.import_module(name)
    if kind == "zip" and str(_zip_member(path, "metadata.json").get("keras_version", "")).startswith("2."):
        refuse_quantized_config(config, path)
        return load_legacy_archive(path, custom_objects=custom_objects, safe_mode=safe_mode, verify=verify)
    if compile is not None:
        return _load_with_keras(path, ".keras", custom_objects, safe_mode, with_training=compile)
    try:
        return _load_with_keras(path, ".keras", custom_objects, safe_mode, with_training=True)
    except LoadError as error:
        plain = _load_with_keras(path, ".keras", custom_objects, safe_mode, with_training=False)
        warnings.warn(f"{path} opens without the loss and the optimizer it was saved with: {error}", stacklevel=3)
        return plain


def refuse_stored_code(config: Any, path: Path) -> None:
    """Raise `UnsafeModelError` if a model config carries Python code, naming the layers that do.

    Raises:
        UnsafeModelError: it does.
        LoadError: it goes too deep to be one.
    """
    try:
        unsafe = sorted(set(_layers_with_code(config, "the model")))
    except RecursionError as error:
        raise LoadError(f"{path} is damaged: its description of the model goes deeper than any model does.") from error
    if unsafe:
        raise UnsafeModelError(
            f"{path} stores Python code in {', '.join(unsafe)}: opening it would run that code. If you trust where the "
            f"file comes from, open it with `kopt.load_model(path, safe_mode=False)` (`--unsafe` on the command line); "
            f"better, rebuild the model with a registered layer or function "
            f"(`@keras.saving.register_keras_serializable()`) in place of the lambda."
        )


def _kind(path: Path) -> str:
    require_path(path)
    if path.is_dir():
        return _directory_kind(path)
    with open(path, "rb") as file:
        head = file.read(8)
    if head == _HDF5_MAGIC:
        return "hdf5"
    if head.startswith(_ZIP_MAGIC):
        return "zip"
    if head[4:8] == _TFLITE_MAGIC or path.suffix in (".tflite", ".onnx"):
        raise LoadError(
            f"{path} is an exported file: it holds no Keras model to work on. Run or measure it with "
            f"`kopt.measure.load`; to optimize the model, give the `.keras` or `.h5` file it was exported from."
        )
    raise LoadError(
        f"{path} ({path.stat().st_size} bytes) is neither a `.keras` archive nor HDF5: it begins with {head!r}. "
        f"If it is a download or a copy, it may be incomplete."
    )


def _directory_kind(path: Path) -> str:
    if (path / "saved_model.pb").exists():
        raise LoadError(
            f"{path} is a SavedModel, which Keras 3 does not open as a model. `kopt.measure.load` runs it, and "
            f"`kopt.optimize` and `kopt.export.tflite` accept the path; for anything that changes layers, give the "
            f"`.keras` or `.h5` file it was exported from."
        )
    if (path / "config.json").exists():
        return "directory"
    raise LoadError(f"{path} is a directory without `saved_model.pb` or `config.json`: it holds no model.")


def _zip_member(path: Path, name: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise LoadError(f"{path} is damaged: its member {damaged!r} does not match its checksum.")
            return _parsed(archive.read(name), path)
    # Beside what its own errors say, a damaged archive claims to be encrypted, compressed in ways nobody knows, or to
    # go on before its beginning or behind its end.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError, OverflowError, ValueError) as error:
        raise LoadError(
            f"{path} is not a whole `.keras` archive ({error}): it was cut off or damaged. Copy or save it again."
        ) from error
    except KeyError as error:
        raise LoadError(f"{path} is a zip archive without `{name}`: not a Keras model.") from error


def _parsed(text: str | bytes, path: Path) -> Any:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path} is damaged: its description of the model is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise LoadError(f"{path} is damaged: its description of the model is a {type(values).__name__}, not an object.")
    return values


def _load_hdf5(path: Path, custom_objects: dict[str, Any], safe_mode: bool, verify: bool) -> keras.Model:
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            version = file.attrs.get("keras_version", b"1")
    except OSError as error:
        raise LoadError(
            f"{path} is not a whole HDF5 file ({error}): it was cut off or damaged. Copy or save it again."
        ) from error
    if config is not None and not isinstance(config, (str, bytes)):
        raise LoadError(f"{path} is damaged: its description of the model is no text.")
    if config is None:
        raise LoadError(
            f"{path} holds weights only, no architecture. Build the model in Python and call `model.load_weights`."
        )
    config = _parsed(config, path)
    if safe_mode:
        refuse_stored_code(config, path)
    version = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    if not version.split(".")[0].isdigit():
        raise LoadError(f"{path} is damaged: it says that it was written by Keras {version!r}, which is no version.")
    if int(version.split(".")[0]) >= 3:
        return _load_with_keras(path, ".h5", custom_objects, safe_mode, with_training=False)
    if version.startswith("1"):
        raise LoadError(
            f"{path} was written by Keras {version}, whose layers have other names and weight layouts. Open it with "
            f"Keras 2.0 to 2.3 and save it again first."
        )
    refuse_quantized_config(config, path)
    try:
        return load_legacy(path, config, custom_objects=custom_objects, safe_mode=safe_mode, verify=verify)
    except _KERAS_REFUSALS as error:
        raise _explained(error, path) from error


def _load_with_keras(
    path: Path, suffix: str, custom_objects: dict[str, Any], safe_mode: bool, with_training: bool
) -> keras.Model:
    with tempfile.TemporaryDirectory() as directory:
        # Keras goes by the file name, this module by the content.
        named = path if path.suffix == suffix or path.is_dir() else Path(directory, f"model{suffix}")
        if named != path:
            named.symlink_to(path.absolute())
        try:
            with warnings.catch_warnings():
                # A compiled model that was never trained has no state of an optimizer to load.
                warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
                return keras.models.load_model(
                    named, custom_objects=custom_objects, compile=with_training, safe_mode=safe_mode
                )
        except _KERAS_REFUSALS as error:
            raise _explained(error, path) from error


def _layers_with_code(config: Any, layer: str) -> Iterator[str]:
    """Yield the layers whose config holds marshalled Python code, in the formats of Keras 2 and 3."""
    if isinstance(config, list):
        for item in config:
            yield from _layers_with_code(item, layer)
    if not isinstance(config, dict):
        return
    inner = config.get("config")
    if isinstance(inner, dict) and "name" in inner:
        layer = f"layer {inner['name']!r} ({config.get('class_name')})"
    if config.get("class_name") == "__lambda__" or "lambda" in (
        config.get("function_type"),
        config.get("output_shape_type"),
    ):
        yield layer
    for value in config.values():
        yield from _layers_with_code(value, layer)


def _explained(error: Exception, path: Path) -> LoadError:
    missing = re.search(
        r"(?:Could not locate (?:class|function)|Unknown layer:|Unknown activation function:) '([^']+)'", str(error)
    )
    if missing:
        name = missing.group(1)
        return LoadError(
            f"{path} uses {name!r}, which Keras does not know. Import the module that defines it, decorated with "
            f"`@keras.saving.register_keras_serializable()` (`--import MODULE` on the command line), or pass "
            f"`custom_objects={{{name!r}: {name}}}`."
        )
    # Keras repeats the whole config at every level; the reason stands last.
    reason = str(error).rpartition("Exception encountered: ")[2].strip()
    if "allow_pickle" in reason:
        return UnsafeModelError(
            f"{path} stores its weights as pickled Python objects: opening them would run code, so they are refused "
            f"always. Open the model where it was made and save it again with `model.save`."
        )
    if "safe_mode" in reason:
        return UnsafeModelError(
            f"{path} refers to other files or code: {reason.splitlines()[0]} On the command line, `--unsafe` opens it."
        )
    return LoadError(f"Keras cannot open {path}: {reason}")
