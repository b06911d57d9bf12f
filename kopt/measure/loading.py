"""One door for everything that can run."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

from kopt.core.errors import ConfigError, InputError, LoadError
from kopt.core.files import require_path
from kopt.core.randomness import preserved_random_state
from kopt.core.records.artifacts import TensorInfo
from kopt.measure.runner import Runner, check_positive, in_order_of

FORMATS = {
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".tflite": "tflite",
    ".onnx": "onnx",
    ".engine": "tensorrt",
    ".plan": "tensorrt",
}
DEFAULT_SIGNATURE = "serving_default"
_SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")


@preserved_random_state()
def load(
    model_or_path: Any, *, threads: int | None = None, signature: str = DEFAULT_SIGNATURE, safe_mode: bool = True
) -> Runner:
    """Open a model or a deployable file in the runtime that would serve it.

    Args:
        model_or_path: a built Keras model, or a path: `.keras`, `.h5`, `.tflite`, `.onnx`, `.engine`, `.plan`
            (TensorRT) or a SavedModel directory. A runner is returned as it is.
        threads: threads for LiteRT and ONNX Runtime; `None` leaves the choice to them.
        signature: which signature of a SavedModel or `.tflite` to run.
        safe_mode: see `kopt.load_model`.

    Raises:
        LoadError: the path is missing, damaged or not what its name says.
        UnsafeModelError: a Keras file carries Python code and `safe_mode` is on.
        ConfigError: no such signature, or `threads` where the runtime cannot be given any.
        MeasurementError: the runtime refuses the file, e.g. because it has no such operator.
        MissingDependencyError: the file is an engine, and TensorRT is not installed.
        UnsupportedModelError: the Keras model has never been built or called.

    Example:
        >>> runner = kopt.measure.load("model.tflite", threads=1)
        >>> runner.outputs[0].name, runner.predict(x_val).shape
        ('classes', (269, 10))
    """
    if threads is not None:
        check_positive("threads", threads)
    if isinstance(model_or_path, Runner):
        if threads not in (None, model_or_path.threads):
            raise ConfigError(
                f"{model_or_path.name} is already loaded with threads={model_or_path.threads}. Received: "
                f"threads={threads}. Give `threads` to `load`."
            )
        return model_or_path
    if isinstance(model_or_path, (str, os.PathLike)):
        return _load_path(Path(model_or_path), threads, signature, safe_mode)
    return _load_model(model_or_path, threads)


@preserved_random_state()
def load_signatures(
    path: str | os.PathLike[str], *, threads: int | None = None, safe_mode: bool = True, device: str | None = None
) -> dict[str, Runner]:
    """Open a file as `load` does, with every signature that can be run: several in a SavedModel, else one.

    Args:
        path: see `load`.
        threads: see `load`; left out where the runtime cannot be given any.
        safe_mode: see `kopt.load_model`.
        device: that a SavedModel is to be on, as `tf.device` takes it, e.g. `"GPU:1"`; `None`: where TensorFlow puts
            it. Other files have no use for it.

    Raises:
        KoptError: see `load`.

    Example:
        >>> made = kopt.export.saved_model(model, "saved")
        >>> sorted(kopt.measure.load_signatures("saved"))
        ['serving_default']
    """
    path = Path(path)
    format_name = format_of(path)
    if format_name == "saved_model":
        return dict(import_runtime(format_name).all_signatures(path, device))
    if format_name in ("keras", "tensorrt"):
        threads = None
    return {DEFAULT_SIGNATURE: load(path, threads=threads, safe_mode=safe_mode)}


def format_of(path: Path) -> str:
    """Return the format of a file or directory, as `Runner.format` names it.

    Raises:
        LoadError: there is no such path, or it is none of these.
    """
    require_path(path)
    if path.is_dir():
        if any((path / name).is_file() for name in _SAVED_MODEL_FILES):
            return "saved_model"
        found = ", ".join(sorted(child.name for child in path.iterdir())[:5]) or "nothing"
        raise LoadError(
            f"{path} is a directory without a saved_model.pb, so it is no SavedModel; it holds {found}. Pass the "
            "version directory itself, e.g. models/name/1."
        )
    if path.suffix.lower() not in FORMATS:
        raise LoadError(
            f"{path} has the suffix {path.suffix!r}, which is none that can be run. Accepted: {', '.join(FORMATS)} "
            "and SavedModel directories."
        )
    return FORMATS[path.suffix.lower()]


def import_runtime(format_name: str) -> Any:
    """Import and return the module with the runner of a format.

    On first use, not at the top: TensorFlow takes seconds and half a gigabyte, which a `.tflite` or `.onnx` does not
    need, and which would stand in the way of measuring its memory.
    """
    return importlib.import_module(f"kopt.measure.{format_name}_runner")


def _load_path(path: Path, threads: int | None, signature: str, safe_mode: bool) -> Runner:
    format_name = format_of(path)
    runtime = import_runtime(format_name)
    if format_name == "tflite":
        runner: Runner = runtime.TFLiteRunner(path, threads, signature)
    elif format_name == "onnx":
        runner = runtime.ONNXRunner(path, threads)
    elif format_name == "tensorrt":
        runner = runtime.TensorRTRunner(path, threads)
    else:
        _refuse_threads(path.name, threads)
        is_keras = format_name == "keras"
        runner = runtime.from_path(path, safe_mode) if is_keras else runtime.SavedModelRunner(path, signature)
    if format_name != "keras" and len(runner.inputs) > 1:
        runner.inputs = _as_exported(path, runner.inputs)
    return runner


def _as_exported(path: Path, infos: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
    """Return the inputs in the order of the model that the file was made of, if a manifest beside it says it.

    The file has them sorted by name, so that arrays without names would go to others than in the model.
    """
    try:
        known = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["inputs"]
        wanted = [TensorInfo(one["name"], (), "") for one in known]
    except (OSError, ValueError, TypeError, LookupError):
        return infos
    return in_order_of(wanted, infos)


def _load_model(model: Any, threads: int | None) -> Runner:
    runtime = import_runtime("keras")
    if not isinstance(model, runtime.keras.Model):
        raise InputError(
            f"Cannot run a {type(model).__module__}.{type(model).__qualname__}. Accepted: a keras.Model (Keras 3), or "
            f"the path of {', '.join(FORMATS)} or a SavedModel directory."
        )
    _refuse_threads(model.name, threads)
    return runtime.KerasRunner(model, model.name)


def _refuse_threads(name: str, threads: int | None) -> None:
    if threads is not None:
        raise ConfigError(
            f"`threads` cannot be set for {name}: TensorFlow has one thread pool for the whole process. Received: "
            f"threads={threads}. Leave it out, or call tf.config.threading.set_intra_op_parallelism_threads before "
            "TensorFlow first runs."
        )
