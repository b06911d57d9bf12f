"""One version in memory: checked against its manifest, every signature run once, ready for traffic."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, LoadError
from kopt.core.records.artifacts import TensorInfo
from kopt.measure import Runner, load_signatures
from kopt.measure.loading import DEFAULT_SIGNATURE, FORMATS, format_of, import_runtime
from kopt.serve.trial import TRIED, require_harmless, run_once

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{word}" for word in ("predict", "classify", "regress"))
_TYPES = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF", "object": "STRING"}
_SAVED_MODEL = "saved_model.pb"
_SHARED = ("saved_model", "keras")  # TensorFlow takes calls from several threads


@dataclasses.dataclass(frozen=True, eq=False)
class Signature:
    """A runner, the method that TF Serving's APIs know it by, and as many of it as calls run at once."""

    runner: Runner
    method: str
    crew: tuple[Runner, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """What one version answers with.

    Attributes:
        signatures: by name.
        verified: whether a manifest was there and holds.
    """

    signatures: dict[str, Signature]
    verified: bool


def load_version(path: Path, *, threads: int | None = None, workers: int = 1, safe_mode: bool = True) -> Loaded:
    """Open a file or version directory, after checking it against the manifest beside it, and run it once.

    Args:
        path: of the version.
        threads: see `kopt.measure.load`.
        workers: calls that run at once. A SavedModel is on as many GPUs as there are, up to one a worker.
        safe_mode: see `kopt.load_model`.

    Raises:
        LoadError: it is damaged, or not what its manifest describes.
        MeasurementError: a signature does not run.
    """
    artefact = artefact_in(path)
    verified = _verified(artefact)
    if not verified and format_of(artefact) in TRIED:
        require_harmless(artefact, threads=threads)
    crews = _crews(artefact, threads, workers, safe_mode)
    if not crews[0]:
        raise LoadError(f"{artefact} has no signature that could be called. Export the model with `kopt.export`.")
    for runner in {id(runner): runner for crew in crews for runner in crew.values()}.values():
        run_once(runner)
    methods = _methods(artefact)
    signatures = {
        name: Signature(runner, methods.get(name, PREDICT), tuple(crew[name] for crew in crews))
        for name, runner in crews[0].items()
    }
    return Loaded(signatures, verified=verified)


def _crews(artefact: Path, threads: int | None, workers: int, safe_mode: bool) -> list[dict[str, Runner]]:
    """Return the runners of each worker, by signature; workers share what takes several calls, on each device one."""
    places: list[str | None] = [None] * workers
    if (format_name := format_of(artefact)) in _SHARED:
        devices = import_runtime(format_name).devices()[:workers] if format_name == "saved_model" else ()
        places = list(devices) if len(devices) > 1 else [None]
    copies = [load_signatures(artefact, threads=threads, safe_mode=safe_mode, device=place) for place in places]
    return [copies[worker % len(copies)] for worker in range(workers)]


def from_runner(runner: Runner, *, workers: int = 1) -> Loaded:
    """Return a runner that is loaded already as a version with one signature.

    Raises:
        ConfigError: several workers, and a runner that takes one call at a time.
    """
    if workers > 1 and runner.format not in _SHARED:
        raise ConfigError(
            f"{runner.name} is loaded once and takes one call at a time. Pass its path for workers={workers}."
        )
    run_once(runner)
    return Loaded({DEFAULT_SIGNATURE: Signature(runner, PREDICT, (runner,) * workers)}, verified=False)


def artefact_in(path: Path) -> Path:
    """Return what is to be loaded of a version: the path itself, or the one model file in a version directory.

    Raises:
        LoadError: there is none, or several.
    """
    if not path.is_dir() or (path / _SAVED_MODEL).is_file():
        return path
    files = [child for child in sorted(path.iterdir()) if child.suffix.lower() in FORMATS]
    if len(files) != 1:
        raise LoadError(
            f"{path} holds no SavedModel and {len(files)} files of {', '.join(FORMATS)}; a version holds one model."
        )
    return files[0]


def has_manifest(path: Path) -> bool:
    """Return whether a manifest lies beside what would be loaded of a version."""
    try:
        return Path(f"{artefact_in(path)}.json").is_file()
    except LoadError:
        return False


def fingerprint(path: Path) -> tuple[Any, ...]:
    """Return what changes when somebody writes to a file or directory: names, sizes and times."""
    beside = [Path(f"{path}.json"), Path(f"{path}.data")]
    files = [path, *(sorted(path.rglob("*")) if path.is_dir() else ()), *beside]
    found = []
    for file in files:
        try:
            status = os.stat(file)
        except FileNotFoundError:
            continue
        found.append((str(file), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)


def signature_definition(signature: Signature) -> dict[str, Any]:
    """Return a signature as TF Serving's metadata API shows it."""
    runner = signature.runner
    return {
        "inputs": {info.name: _tensor_info(info) for info in runner.inputs},
        "outputs": {info.name: _tensor_info(info) for info in runner.outputs},
        "method_name": signature.method,
        "defaults": {},
    }


def wire_dtype(info: TensorInfo) -> str:
    """Return the type of an input or output in a request: real numbers where the file holds quantized ones."""
    return "float32" if info.scale is not None else info.dtype


def _verified(artefact: Path) -> bool:
    if not Path(f"{artefact}.json").is_file():
        return False
    # Here, not at the top: the room of exporters loads TensorFlow, and a client of this one needs none.
    from kopt.export.manifest import require_intact  # noqa: PLC0415

    require_intact(artefact)
    return True


def _methods(artefact: Path) -> dict[str, str]:
    if format_of(artefact) != "saved_model":
        return {}
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    proto = saved_model_pb2.SavedModel.FromString((artefact / _SAVED_MODEL).read_bytes())
    return {name: one.method_name for graph in proto.meta_graphs for name, one in graph.signature_def.items()}


def _tensor_info(info: TensorInfo) -> dict[str, Any]:
    dtype = wire_dtype(info)
    return {
        "dtype": f"DT_{_TYPES.get(dtype, np.dtype(dtype).name.upper())}",
        "tensor_shape": {
            "dim": [{"size": str(-1 if size is None else size), "name": ""} for size in info.shape],
            "unknown_rank": False,
        },
        "name": info.name,
    }
