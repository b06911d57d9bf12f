"""Keras model to a TensorRT engine, or to a SavedModel with engines in it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, UnsupportedModelError, nearest
from kopt.core.files import scratch_directory
from kopt.core.randomness import preserved_random_state
from kopt.core.records.artifacts import Artifact
from kopt.core.records.shipping.tensorrt import SCHEME_OF, SUFFIXES, EnginePlan, TFTRTPlan, shape_ranges
from kopt.core.schemes import get_scheme
from kopt.export.assembly import Converted, assemble
from kopt.export.inspection import inspect_onnx, inspect_saved_model
from kopt.export.integers import warn_of_few
from kopt.export.manifest import check_target
from kopt.export.process import converter
from kopt.export.source import SIGNATURE, Source, prepare, save_arrays, trace
from kopt.export.to_onnx import check_onnx_request, is_large, ranges_for, source_for, write_onnx
from kopt.export.trained import has_ranges
from kopt.export.verification import examples
from kopt.measure import tensorrt_support

_ONNX_NOTE = "The engine runs on GPUs of this kind with this version of TensorRT; build it anew for others."
_TF_TRT_NOTE = "The engines run on GPUs of this kind, in a TensorFlow that was built with this TensorRT."
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
    """What both ways need, checked."""

    precision: str
    plan: EnginePlan
    tf_trt: TFTRTPlan
    opset: int
    ranges: Arrays | None
    compared: Arrays
    overwrite: bool
    notes: tuple[str, ...]


@preserved_random_state()
def tensorrt(
    model: Any,
    path: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    engine: str = "auto",
    calibration: Any = None,
    samples: int = 100,
    batch_sizes: tuple[int, int, int] = (1, 8, 32),
    workspace_bytes: int = 0,
    optimization_level: int = 3,
    timing_cache: str | os.PathLike[str] = "",
    minimum_segment_size: int = 3,
    dynamic_shape: bool = True,
    opset: int = 17,
    data: Any = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Artifact:
    """Export a model to a TensorRT engine for the NVIDIA GPU of this machine.

    What is missing is found out before any work starts. The result is run and compared with the model before it gets
    its name; a manifest lies beside it as `<path>.json`.

    Args:
        model: a built Keras model, the path of a `.keras`, `.h5` or SavedModel, or what `traced` yields.
        path: `.engine` or `.plan` file to write; a directory with `engine="tf-trt"`.
        precision: `"fp32"`, `"fp16"` or `"int8"`.
        engine: `"onnx"`: Keras to ONNX to an engine file, by the package `tensorrt`. `"tf-trt"`: engines inside a
            SavedModel, by a TensorFlow that was built with TensorRT. `"auto"`: the second where TensorFlow can, else
            the first.
        calibration: real inputs from which `"int8"` learns the ranges of activations; a model of `kopt.quantize.aware`
            has ranges, which `engine="onnx"` uses.
        samples: how many examples of `calibration` are used.
        batch_sizes: the least, the usual and the largest number of examples a call.
        workspace_bytes: most scratch memory of a layer; 0 leaves it to TensorRT.
        optimization_level: 0 (builds fastest) to 5 (runs fastest); `"onnx"` only.
        timing_cache: file in which TensorRT remembers which kernels were fastest, so that later builds are shorter;
            `"onnx"` only.
        minimum_segment_size: fewer operators in a row stay TensorFlow's; `"tf-trt"` only.
        dynamic_shape: one engine for all batch sizes, instead of one for each; `"tf-trt"` only.
        opset: ONNX operator set, 13 to 18; `"onnx"` only.
        data: real inputs to compare on; those of `calibration`, or seeded random ones, if not given.
        seed: of the random inputs and of the choice of samples.
        overwrite: replace `path`.

    Returns:
        What was written, with the measured difference from the model.

    Raises:
        MissingDependencyError: TensorRT, its libraries, the driver or a GPU is not there; names all of it, and the
            ONNX export and the command that make the engine elsewhere.
        InputError: a setting, the model or the calibration data cannot be used; nothing was written.
        ExportError: the converter failed, or the engine does not compute what the model computes.
        OutputError: `path` cannot be written or exists.

    Example:
        >>> try:
        ...     made = kopt.export.tensorrt(model, "model.engine", precision="fp16", batch_sizes=(1, 16, 64))
        ...     print(made.format)
        ... except kopt.core.errors.MissingDependencyError:  # names every missing part
        ...     print("tensorrt cannot run here")
        tensorrt...
    """
    if precision not in SCHEME_OF:
        raise ConfigError(
            f"Unknown precision {precision!r}.{nearest(str(precision), SCHEME_OF)} Accepted: {', '.join(SCHEME_OF)}."
        )
    check_onnx_request(SCHEME_OF[precision], "tensorrt", opset)
    model, inputs = prepare(model)
    plan = EnginePlan(shape_ranges(inputs, batch_sizes), workspace_bytes, optimization_level, os.fspath(timing_cache))
    tf_trt = TFTRTPlan(precision, tuple(batch_sizes), workspace_bytes, minimum_segment_size, dynamic_shape)
    way = tensorrt_support().choose(engine, _instead(plan, precision))
    ranges = ranges_for(model, get_scheme(SCHEME_OF[precision]), calibration, samples, seed, inputs)
    compared = examples(ranges if data is None else data, inputs, seed)
    compared = {name: array[: batch_sizes[2]] for name, array in compared.items()}
    request = _Request(precision, plan, tf_trt, opset, ranges, compared, overwrite, warn_of_few(ranges))
    return (_engine if way == "onnx" else _tf_trt)(model, Path(path), request)


def _engine(model: Any, path: Path, request: _Request) -> Artifact:
    """Go by ONNX."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"An engine file ends in {' or '.join(SUFFIXES)}. Received: {os.fspath(path)!r}.")
    check_target(path, format="tensorrt", overwrite=request.overwrite)
    converter.start()
    scheme = SCHEME_OF[request.precision]
    source = source_for(model, get_scheme(scheme))
    if is_large(source):
        raise UnsupportedModelError(
            f"{source.name} has 2 GB of weights or more, which lie beside its ONNX file; engines are built of one file."
        )

    def convert(staged: Path) -> Converted:
        with scratch_directory() as scratch:
            onnx = scratch / "model.onnx"
            write_onnx(source, onnx, scheme=scheme, runtime="tensorrt", opset=request.opset, ranges=request.ranges)
            converter.run("tensorrt", onnx=str(onnx), output=str(staged), plan=request.plan.to_json())
            return Converted(inspect_onnx(onnx), notes=(_ONNX_NOTE,))

    return _assembled(source, path, "tensorrt", request, convert, {"engine": "onnx", "opset": str(request.opset)})


def _tf_trt(model: Any, path: Path, request: _Request) -> Artifact:
    """Go by TensorFlow's own converter."""
    if has_ranges(model):
        raise UnsupportedModelError(
            "TF-TRT learns ranges from examples and cannot be given those of a trained copy. Take engine='onnx', or "
            "export the float model."
        )
    check_target(path, format="saved_model", overwrite=request.overwrite)
    converter.start()
    source = trace(model)

    def convert(staged: Path) -> Converted:
        with source.as_saved_model() as directory, scratch_directory() as scratch:
            job: dict[str, Any] = {"examples": save_arrays(request.compared, scratch), "calibration": None}
            if request.ranges is not None:
                (scratch / "ranges").mkdir()
                job["calibration"] = save_arrays(request.ranges, scratch / "ranges")
            converter.run(
                "tf_trt",
                saved_model=str(directory),
                signature=SIGNATURE,
                output=str(staged),
                plan=request.tf_trt.to_json(),
                **job,
            )
        return Converted(inspect_saved_model(staged), notes=(_TF_TRT_NOTE,))

    return _assembled(source, path, "saved_model", request, convert, {"engine": "tf-trt"})


def _assembled(
    source: Source, path: Path, format: str, request: _Request, convert: Any, options: dict[str, str]
) -> Artifact:
    sizes = ", ".join(map(str, request.tf_trt.batch_sizes))
    return assemble(
        source,
        path,
        format=format,
        scheme=get_scheme(SCHEME_OF[request.precision]),
        convert=convert,
        examples=request.compared,
        options={**options, "precision": request.precision, "batch_sizes": sizes},
        overwrite=request.overwrite,
        notes=request.notes,
    )


def _instead(plan: EnginePlan, precision: str) -> str:
    """Return the nearest thing that works: a file for ONNX Runtime, and the command that builds an engine of it."""
    scheme = SCHEME_OF[precision]
    extra = ", calibration=..., runtime='tensorrt'" if precision == "int8" else ""
    return (
        f"What works here: `kopt.export.onnx(model, 'model.onnx', scheme={scheme!r}{extra})` writes a file that ONNX "
        f"Runtime runs; on a machine with TensorRT, `{plan.command('model.onnx', 'model.engine')}` builds the engine."
    )
