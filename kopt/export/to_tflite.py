"""Keras model to `.tflite`, in six numeric schemes."""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, ExportError, UnsupportedModelError, nearest
from kopt.core.files import check_output
from kopt.core.optional import require
from kopt.core.records import Artifact, ExportConfig
from kopt.core.schemes import Scheme, get_scheme
from kopt.data import calibration as sample
from kopt.export.assembly import Converted, assemble
from kopt.export.fused_rnn import trace_fused
from kopt.export.inspection import TFLiteContent, inspect_tflite
from kopt.export.process import converter
from kopt.export.source import Source, open_model, trace, trace_with_integer_layers
from kopt.export.verification import EXAMPLES
from kopt.graph import GraphView
from kopt.measure import random_inputs

LOOP_NOTE = "The model holds a loop (an RNN); the file takes batches of exactly {} because TFLite loops need it fixed."

SMALL_NOTE = "No weights were quantized: the converter leaves arrays of fewer than 1,024 numbers in float."


def tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    scheme: str = "float32",
    calibration: Any = None,
    samples: int = 100,
    fallback: Sequence[str] = (),
    io_dtype: str | None = None,
    batch_size: int | None = None,
    select_ops: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Artifact:
    """Export a model to a `.tflite` file for LiteRT, on phones, microcontrollers and servers.

    The file is opened in LiteRT and compared with the model before it gets its name; a manifest lies beside it as
    `<path>.json`. The conversion runs in a child process, so that a crash of the converter is an error here.

    Args:
        model: a built Keras model, or the path of a `.keras`, `.h5` or SavedModel.
        path: file to write.
        scheme: `"float32"`, `"float16"` (half the size, float32 arithmetic), `"dynamic"` (int8 weights), `"int8"`
            (integers throughout), `"int16x8"` (int8 weights, 16-bit activations) or `"int4"` (4-bit weights).
        calibration: real inputs from which `"int8"` and `"int16x8"` learn the ranges of activations: arrays,
            `(x, y)` or a `tf.data.Dataset`; see `kopt.data.calibration`.
        samples: how many examples of `calibration` are used, balanced over classes where there are labels.
        fallback: names of layers that stay in float (`"int8"`, `"int16x8"`, `"int4"`).
        io_dtype: type of the file's inputs and outputs where the model's are float: `"float32"`, or with `"int8"` also
            `"int8"` and `"uint8"`, with `"int16x8"` also `"int16"`.
        batch_size: number of examples in every call; `None` keeps it free (a model with an RNN gets 1).
        select_ops: allow operators that need the TensorFlow runtime beside LiteRT. Off, because LiteRT alone refuses
            such files.
        seed: of the choice of samples.
        overwrite: replace `path`.

    Returns:
        What was written, with the measured difference from the model.

    Raises:
        InputError: a setting, the model or the calibration data cannot be used; nothing was written.
        ExportError: the converter failed, or the file does not compute what the model computes.
        OutputError: `path` cannot be written or exists.

    Example:
        >>> kopt.export.tflite(model, "model.tflite", scheme="int8", calibration=(x_train, y_train))
    """
    config = ExportConfig("tflite", scheme, io_dtype, tuple(fallback))
    kind = get_scheme(scheme)
    _check_request(kind, calibration, fallback, batch_size)
    model = open_model(model)
    check_output(path, overwrite=overwrite)
    converter.start()
    with tempfile.TemporaryDirectory(prefix="kopt-") as scratch:
        source, fused = _trace(model, Path(scratch), batch_size, kind)
        _check_source(source, kind)
        ranges = None
        if calibration is not None:
            ranges = sample(calibration, samples=samples, seed=seed, inputs=source.inputs)
        job = {
            "io_dtype": config.io_dtype or kind.io_dtypes[0],
            "calibration": _save_arrays(ranges, scratch) if ranges is not None and kind.needs_calibration else None,
            "keep_float": _tensor_patterns(source, fallback),
            "select_ops": select_ops,
            "fused_rnn": fused,
        }
        return assemble(
            source,
            path,
            format="tflite",
            scheme=kind,
            convert=lambda staged: _convert(source, staged, Path(scratch), kind, job),
            examples=_head(ranges) if ranges is not None else random_inputs(source.inputs, EXAMPLES, seed=seed),
            options=_options(config, batch_size, select_ops, samples if job["calibration"] else None),
            overwrite=overwrite,
        )


def _check_request(scheme: Scheme, calibration: Any, fallback: Sequence[str], batch_size: int | None) -> None:
    if scheme.needs_calibration and calibration is None:
        raise ConfigError(
            f"Scheme {scheme.name!r} needs `calibration`: a hundred real inputs, as arrays or a tf.data.Dataset, "
            f"e.g. `calibration=(x_train, y_train)`."
        )
    if isinstance(fallback, str):
        raise ConfigError(f"`fallback` is a sequence of layer names. Received the string {fallback!r}.")
    if fallback and not (scheme.needs_calibration or scheme.name == "int4"):
        raise ConfigError(f"`fallback` goes with the schemes int8, int16x8 and int4. Received: scheme={scheme.name!r}.")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"`batch_size` must be at least 1, or None for any. Received: {batch_size!r}.")
    if scheme.name == "int4":
        require("ai_edge_quantizer.quantizer", "int4 export")


def _check_source(source: Source, scheme: Scheme) -> None:
    integers = [info.name for info in source.inputs if not info.dtype.startswith("float")]
    if scheme.name == "int16x8" and integers:
        raise UnsupportedModelError(
            f"Inputs {integers} of {source.name} are integers, for which the converter's 16-bit calibration has no "
            f"ranges. Choose another scheme, or take the embedding out of the model."
        )


def _trace(model: Any, scratch: Path, batch_size: int | None, scheme: Scheme) -> tuple[Source, bool]:
    """Return the source, and whether it is the fused twin of a model with an LSTM."""
    source = trace(model, scratch / "saved_model", batch_size=batch_size)
    if not source.has_loop:
        if scheme.needs_calibration:
            source = trace_with_integer_layers(source, scratch / "integer_layers", batch_size=batch_size)
        return source, False
    if scheme.needs_calibration:
        return trace_fused(source, scratch / "fused", scheme), True
    if source.inputs[0].shape[0] is None:
        if source.model is None:
            raise UnsupportedModelError(
                f"{source.name} holds a loop (an RNN) and takes any batch size; TFLite needs a fixed one. Export the "
                f"Keras model itself, or save the SavedModel with a fixed batch size."
            )
        source = trace(model, scratch / "fixed_batch", batch_size=1)
    return source, False


def _convert(source: Source, staged: Path, scratch: Path, scheme: Scheme, job: dict[str, Any]) -> Converted:
    if scheme.name == "int4":
        start = scratch / "float32.tflite"
        _run_tflite(source, start, {**job, "scheme": "float32", "keep_float": []})
        converter.run("int4", float_model=str(start), output=str(staged), keep_float=job["keep_float"])
    else:
        _run_tflite(source, staged, {**job, "scheme": scheme.name})
    content = inspect_tflite(staged)
    if scheme.name == "int8" and not job["keep_float"]:
        _require_integers(content)
    return Converted(content.operators, content.output_step, _notes(source, scheme, content))


def _notes(source: Source, scheme: Scheme, content: TFLiteContent) -> tuple[str, ...]:
    notes = []
    if source.has_loop:
        notes.append(LOOP_NOTE.format(source.inputs[0].shape[0]))
    if scheme.name == "dynamic" and not any("int8" in operator.dtype for operator in content.operators):
        notes.append(SMALL_NOTE)
    return tuple(notes)


def _run_tflite(source: Source, output: Path, job: dict[str, Any]) -> None:
    converter.run("tflite", saved_model=str(source.directory), signature=source.signature, output=str(output), **job)


def _require_integers(content: TFLiteContent) -> None:
    if content.float_operators:
        shown = "; ".join(content.float_operators[:5])
        raise ExportError(
            f"{len(content.float_operators)} operator(s) of the int8 file still compute in float: {shown}. Name their "
            f"layers in `fallback` if that is acceptable, or choose another scheme."
        )


def _tensor_patterns(source: Source, layers: Sequence[str]) -> list[str]:
    """Return a regular expression for the tensors that each layer writes.

    Keras opens a layer's name scope twice, so that the operators of layer `conv` stand under `conv_1`.
    """
    if source.model is not None and layers:
        known = [path for path, _ in GraphView.of(source.model).walk()]
        for layer in layers:
            if layer not in known:
                raise ConfigError(f"`fallback` names no layer {layer!r}.{nearest(layer, known)}")
    scopes = ["/".join(f"{re.escape(part)}(_[0-9]+)?" for part in layer.split("/")) for layer in layers]
    return [f"(^|/|;){scope}(/|$)" for scope in scopes]


def _save_arrays(arrays: Mapping[str, np.ndarray], directory: str) -> str:
    path = os.path.join(directory, "calibration.npz")
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def _head(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array[:EXAMPLES] for name, array in arrays.items()}


def _options(config: ExportConfig, batch_size: int | None, select_ops: bool, samples: int | None) -> dict[str, str]:
    chosen = {
        "io_dtype": config.io_dtype,
        "fallback": ", ".join(config.fallback) or None,
        "batch_size": batch_size,
        "select_ops": select_ops or None,
        "calibration_samples": samples,
    }
    return {key: str(value) for key, value in chosen.items() if value is not None}
