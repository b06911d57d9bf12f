"""Export a model to .tflite, .onnx, a TensorRT .engine or a SavedModel directory, verified against the model."""

import argparse
from pathlib import Path
from typing import Any

import kopt
from kopt.cli.common import EXAMPLES, calibration_from, one_step, show, show_text
from kopt.core.errors import ConfigError
from kopt.core.records.shipping.tensorrt import SCHEME_OF
from kopt.core.schemes import SCHEMES, get_scheme

_FORMATS = {".tflite": "tflite", ".onnx": "onnx", ".engine": "tensorrt", ".plan": "tensorrt", "": "saved_model"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=".keras, .h5 (Keras 3 or legacy) or SavedModel directory")
    parser.add_argument("output", metavar="OUTPUT", help="x.tflite, x.onnx, x.engine, or a directory for a SavedModel")
    # No `choices`: the library's own error names the nearest scheme.
    parser.add_argument(
        "--scheme", default="float32", help=f"{', '.join(SCHEMES)} (.onnx and .engine: float32, float16, int8)"
    )
    parser.add_argument("--data", help=f"calibration data: {EXAMPLES}")
    parser.add_argument("--samples", type=int, default=100, help="calibration examples")
    parser.add_argument("--io-dtype", help="type of inputs and outputs: float32, int8, uint8 or int16")
    parser.add_argument("--fallback", nargs="+", default=(), metavar="LAYER", help="layers that stay in float")
    parser.add_argument(
        "--block-size", type=int, help="inputs of dense layers that share a scale: 32, 64, 128 or 256 (int4)"
    )
    parser.add_argument("--batch-size", type=int, help="fixed number of examples a call (.tflite)")
    parser.add_argument("--opset", type=int, help="ONNX operator set, 17 by default")
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    with one_step(options, f"{Path(options.model).name} to {Path(options.output).name}"):
        artifact = _export(options)
    if options.json:
        show_text(artifact.to_json())
    else:
        show(kopt.report.artifact_table(artifact))
    return 0


def _export(options: argparse.Namespace) -> kopt.core.records.artifacts.Artifact:
    format = _FORMATS.get(Path(options.output).suffix)
    if format is None:
        raise ConfigError(
            f"OUTPUT ends in .tflite, .onnx, .engine or .plan, or is a directory name. Received: {options.output!r}."
        )
    get_scheme(options.scheme)
    for option, given, *wanted in (
        ("--io-dtype", options.io_dtype is not None, "tflite"),
        ("--fallback", bool(options.fallback), "tflite"),
        ("--block-size", options.block_size is not None, "tflite"),
        ("--batch-size", options.batch_size is not None, "tflite"),
        ("--opset", options.opset is not None, "onnx", "tensorrt"),
    ):
        if given and format not in wanted:
            raise ConfigError(
                f"{option} goes with .{wanted[0]} files only. Received: {options.output!r}. Leave it out."
            )
    if format == "saved_model" and options.scheme != "float32":
        raise ConfigError(
            f"--scheme goes with files only, not with a SavedModel. Received: {options.output!r}. Leave it out."
        )
    model = kopt.export.open_model(options.model, safe_mode=not options.unsafe)
    data = None
    if options.data:
        data = calibration_from(options, model)
    if format == "saved_model":
        return kopt.export.saved_model(model, options.output, data=data, overwrite=options.force)
    if format in ("onnx", "tensorrt"):
        return _export_by_onnx(model, data, options)
    return kopt.export.tflite(
        model,
        options.output,
        scheme=options.scheme,
        calibration=data,
        samples=options.samples,
        fallback=options.fallback,
        io_dtype=options.io_dtype,
        block_size=options.block_size,
        batch_size=options.batch_size,
        overwrite=options.force,
    )


def _export_by_onnx(model: Any, data: Any, options: argparse.Namespace) -> kopt.core.records.artifacts.Artifact:
    """Export; examples calibrate where ranges are to be learned, and are only compared on elsewhere."""
    needs_ranges = options.scheme == "int8" and not kopt.export.has_ranges(model)
    settings = {
        "calibration": data if needs_ranges else None,
        "samples": options.samples,
        "data": data,
        "opset": options.opset or 17,
        "overwrite": options.force,
    }
    if Path(options.output).suffix == ".onnx":
        return kopt.export.onnx(model, options.output, scheme=options.scheme, **settings)
    precisions = {scheme: precision for precision, scheme in SCHEME_OF.items()}
    precision = precisions.get(options.scheme, options.scheme)
    return kopt.export.tensorrt(model, options.output, precision=precision, engine="onnx", **settings)
