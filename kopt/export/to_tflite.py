"""Keras model to `.tflite`, in six numeric schemes."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ConfigError, ExportError, UnsupportedModelError
from kopt.core.files import SCRATCH_REMEDY, scratch_directory, writing_to
from kopt.core.optional import require
from kopt.core.randomness import preserved_random_state
from kopt.core.records.artifacts import Artifact
from kopt.core.records.candidates import ExportConfig
from kopt.core.records.changes.fallback import FallbackPlan, fallback_type
from kopt.core.schemes import Scheme, get_scheme
from kopt.core.settings import whole
from kopt.data import calibration as sample
from kopt.export.assembly import Converted, assemble
from kopt.export.float_layers import (
    float_outputs_of,
    has_float_operations,
    patterns_of,
    patterns_of_float_layers,
    patterns_of_outputs,
    require_free,
    tensor_patterns,
)
from kopt.export.fused_rnn import fused_source
from kopt.export.inspection import DenseOperator, TFLiteContent, dense_operators, inspect_tflite
from kopt.export.integers import integer_notes, warn_of_few
from kopt.export.manifest import check_target
from kopt.export.process import converter
from kopt.export.source import SIGNATURE, Source, prepare, save_arrays, trace
from kopt.export.trained import integer_outputs, ranges_from, trained_for, with_function_of
from kopt.export.twins import has_normalization, integer_normalization, is_trained_for_integers, trained_twin
from kopt.export.verification import examples
from kopt.graph import GraphView
from kopt.graph.checks import require_unquantized
from kopt.graph.internals import graph_of
from kopt.graph.masks import masked_attention

LOOP_NOTE = "The model holds a loop (an RNN); the file takes batches of exactly {} because TFLite loops need it fixed."
SMALL_NOTE = "No weights were quantized: the converter leaves arrays of fewer than 1,024 numbers in float."
FLEX_NOTE = (
    "NOT compared with the model: the file holds operators of TensorFlow, which LiteRT from the package index does not "
    "run. Check it in the runtime it is meant for."
)
_BLOCK_SIZES = (32, 64, 128, 256)
# Schemes of which only weights are rounded, with their bits.
_WEIGHT_BITS = {"weight_only": 8, "int4": 4}


@preserved_random_state()
def tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    scheme: str = "float32",
    calibration: Any = None,
    samples: int = 100,
    fallback: Sequence[str] | FallbackPlan = (),
    fallback_dtype: str = "float32",
    io_dtype: str | None = None,
    block_size: int | None = None,
    batch_size: int | None = None,
    select_ops: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Artifact:
    """Export a model to a `.tflite` file for LiteRT, on phones, microcontrollers and servers.

    The file is opened in LiteRT and compared with the model before it gets its name; a manifest lies beside it as
    `<path>.json`. The conversion runs in a child process, so that a crash of the converter is an error here.

    Args:
        model: a built Keras model, the path of a `.keras`, `.h5` or SavedModel, or what `traced` yields.
        path: file to write.
        scheme: `"float32"`, `"float16"` (half the size, float32 arithmetic), `"dynamic"` (int8 weights), `"int8"`
            (integers throughout), `"int16x8"` (int8 weights, 16-bit activations), `"weight_only"` (int8 weights,
            float32 arithmetic) or `"int4"` (4-bit weights, likewise).
        calibration: real inputs from which `"int8"` and `"int16x8"` learn the ranges of activations: arrays,
            `(x, y)` or a `tf.data.Dataset`; see `kopt.data.calibration`. A model of `kopt.quantize.aware` has ranges,
            and takes those that training has not seen from here.
        samples: how many examples of `calibration` are used, balanced over classes where there are labels.
        fallback: names of layers that stay in float (`"int8"`, `"int16x8"`, `"weight_only"`, `"int4"`), or a plan of
            `kopt.quantize.fallback`.
        fallback_dtype: of their weights: `"float32"`, or with `"int8"` and `"int16x8"` `"float16"`, of half the size;
            both compute in float32. A plan says it itself.
        io_dtype: type of the file's inputs and outputs where the model's are float: `"float32"`, or with `"int8"` also
            `"int8"` and `"uint8"`, with `"int16x8"` also `"int16"`.
        block_size: with `"int4"`, so many inputs of a dense layer share a scale: 32, 64, 128 or 256. `None` for a scale
            per output. Weights in blocks lose less; their layers round what comes in to 8 bits on the fly.
        batch_size: number of examples in every call; `None` keeps it free (a model with an RNN gets 1).
        select_ops: allow operators that need the TensorFlow runtime beside LiteRT. Off, because LiteRT alone refuses
            such files, so that they cannot be verified here either; a note in the manifest says so.
        seed: of the choice of samples.
        overwrite: replace `path`.

    Returns:
        What was written, with the measured difference from the model.

    Raises:
        InputError: a setting, the model or the calibration data cannot be used; nothing was written.
        ExportError: the converter failed, or the file does not compute what the model computes.
        OutputError: `path` cannot be written or exists.

    Warns:
        UserWarning: ranges come from fewer than 20 examples.

    Example:
        >>> made = kopt.export.tflite(model, "int8.tflite", scheme="int8", calibration=(x_train, y_train))
        >>> made.size_bytes < artifact.size_bytes, made.parity.argmax_agreement > 0.95
        (True, True)
        >>> made.manifest_path.name, kopt.measure.evaluate("int8.tflite", (x_val, y_val)).examples
        ('int8.tflite.json', 269)
    """
    if isinstance(fallback, FallbackPlan):
        fallback, fallback_dtype = _planned(fallback, scheme)
    kind = get_scheme(scheme)
    is_half = _is_half(fallback_dtype, kind)
    batch_size = None if batch_size is None else whole("batch_size", batch_size)
    model, inputs = prepare(model)
    if isinstance(model, keras.Model):
        require_unquantized(model)
    trained = trained_for(model, kind)
    _check_request(kind, calibration, fallback, trained is not None)
    masked = _masked(model, fallback) if kind.needs_calibration and trained is None else ()
    fallback = (*fallback, *masked)
    config = ExportConfig("tflite", scheme, io_dtype, fallback)
    _check_blocks(block_size, kind)
    ranges = None if calibration is None else sample(calibration, samples=samples, seed=seed, inputs=inputs)
    compared = examples(ranges, inputs, seed, name="calibration")
    keep_float = tensor_patterns(model, fallback) if trained is None else patterns_of_float_layers(trained)
    # The tensors of operations of `keras.ops` do not carry their names.
    in_float = (fallback, keep_float) if trained is None else (getattr(trained, "float_layers", ()),) * 2
    float_outputs = float_outputs_of(model if trained is None else trained, *in_float)
    may_be_float = [*keep_float, *patterns_of_outputs(float_outputs or {})]
    if trained is not None and has_float_operations(trained):
        may_be_float = [""]
    check_target(path, format="tflite", overwrite=overwrite)
    converter.start()
    io_dtype = config.io_dtype or kind.io_dtypes[0]
    rounds_outputs = trained is not None and io_dtype != "float32"
    with scratch_directory() as scratch, ranges_from(trained, ranges) as borrowed:
        with integer_outputs(trained) if rounds_outputs else contextlib.nullcontext():
            source, fused = _convertible(trace(model, batch_size=batch_size), kind)
        if fused:
            require_free(source, fallback)
        used = ranges if kind.needs_calibration and (trained is None or borrowed) else None
        few = warn_of_few(used)
        job = {
            "signature": SIGNATURE,
            "io_dtype": io_dtype,
            "keep_float": keep_float,
            "float_outputs": float_outputs,
            "half_weights": is_half,
            "narrow_kernels": [] if trained is None else patterns_of(trained, _narrow_layers(trained)),
            "select_ops": select_ops,
            "block_size": block_size,
            "fused_rnn": fused,
            "trained": trained is not None,
            "batch_size": source.batch_size or 1,
            "calibration": None if used is None or borrowed else save_arrays(used, scratch),
        }
        return assemble(
            source,
            path,
            format="tflite",
            scheme=kind,
            convert=lambda staged: _convert(source, staged, kind, job, may_be_float, ranges and compared),
            notes=(*few, *_notes_of_ranges(borrowed), *_notes_of_masks(masked)),
            examples=compared,
            options=_options(
                config, fallback_dtype, block_size, batch_size, select_ops, used and len(next(iter(used.values())))
            ),
            overwrite=overwrite,
            calibration=used,
        )


def _notes_of_ranges(borrowed: Sequence[str]) -> tuple[str, ...]:
    if not borrowed:
        return ()
    return (f"{len(borrowed)} range(s) come from `calibration`, as no training of the model has seen them.",)


def _masked(model: Any, fallback: Sequence[str]) -> tuple[str, ...]:
    """Return attention layers that are called with a mask, beside those of `fallback`.

    A mask is a large negative number that is added to scores. Their integers would reach to it, and be too coarse to
    tell the scores from each other, so that every position would count alike.
    """
    model = model.model if isinstance(model, Source) else model
    graph = graph_of(model) if isinstance(model, keras.Model) else None
    found = [] if graph is None else masked_attention(GraphView.of(graph))
    return tuple(name for name in found if name not in fallback)


def _notes_of_masks(masked: Sequence[str]) -> tuple[str, ...]:
    if not masked:
        return ()
    return (
        f"{', '.join(masked)}: in float, as if named in `fallback`, because integers of masked scores reach to the "
        f"number that stands for the mask, and cannot tell the scores apart.",
    )


def _planned(plan: FallbackPlan, scheme: str) -> tuple[tuple[str, ...], str]:
    """Return the layers of a plan and their type.

    Raises:
        ConfigError: it was made for another scheme.
    """
    if plan.scheme != scheme:
        raise ConfigError(f"The plan is for the scheme {plan.scheme!r}. Received: scheme={scheme!r}.")
    return plan.layers, plan.to


def _is_half(fallback_dtype: str, scheme: Scheme) -> bool:
    is_half = fallback_type(fallback_dtype) == "float16"
    if is_half and not scheme.needs_calibration:
        raise ConfigError(
            f"`fallback_dtype` goes with the schemes int8 and int16x8. Received: {fallback_dtype!r} with "
            f"scheme={scheme.name!r}."
        )
    return is_half


def _narrow_layers(trained: Any) -> list[str]:
    """Return the names of layers whose kernels were trained on 4 bits."""
    return [layer.name for layer in trained.layers if getattr(layer, "kernel_bits", 8) == 4]


def _check_request(scheme: Scheme, calibration: Any, fallback: Sequence[str], trained: bool) -> None:
    if trained and fallback:
        raise ConfigError(
            f"A model that was trained for integers has its float layers already. Received: fallback={fallback!r}. "
            f"Name them as `skip` of `kopt.quantize.aware`."
        )
    if scheme.needs_calibration and calibration is None and not trained:
        raise ConfigError(
            f"Scheme {scheme.name!r} needs `calibration`: a hundred real inputs, as arrays or a tf.data.Dataset, "
            f"e.g. `calibration=(x_train, y_train)`; on the command line, `--data`."
        )
    if isinstance(fallback, str):
        raise ConfigError(f"`fallback` is a sequence of layer names. Received the string {fallback!r}.")
    if fallback and not (scheme.needs_calibration or scheme.name in _WEIGHT_BITS):
        accepted = ", ".join(("int8", "int16x8", *_WEIGHT_BITS))
        raise ConfigError(f"`fallback` goes with the schemes {accepted}. Received: scheme={scheme.name!r}.")
    if scheme.name in _WEIGHT_BITS:
        require("ai_edge_quantizer.quantizer", f"{scheme.name} export")


def _check_blocks(block_size: int | None, scheme: Scheme) -> None:
    if block_size is not None and scheme.name != "int4":
        raise ConfigError(f"`block_size` goes with the scheme int4. Received: scheme={scheme.name!r}.")
    if block_size not in (None, *_BLOCK_SIZES):
        accepted = ", ".join(map(str, _BLOCK_SIZES))
        raise ConfigError(f"`block_size` is one of {accepted}, or None. Received: {block_size!r}.")


def _convertible(source: Source, scheme: Scheme) -> tuple[Source, bool]:
    """Return what the converter gets, and whether it is the fused twin of a model with an LSTM."""
    if source.model is not None and is_trained_for_integers(source.model):
        fixed = trace(source, batch_size=1) if source.has_loop and source.batch_size is None else source
        return with_function_of(fixed, trained_twin(source.model)), False
    others = {info.name: info.dtype for info in source.inputs if not info.dtype.startswith("float")}
    if scheme.name == "int16x8" and others:
        named = ", ".join(f"{name!r} ({dtype})" for name, dtype in others.items())
        raise UnsupportedModelError(
            f"Inputs of {source.name} are no floats: {named}. The converter's 16-bit calibration has no ranges for "
            f"them. Choose another scheme, or take the embedding out of the model."
        )
    if source.has_loop and scheme.needs_calibration:
        return fused_source(source, scheme), True
    if source.has_loop and source.batch_size is None:
        return trace(source, batch_size=1), False
    if scheme.needs_calibration and source.model is not None and has_normalization(source.model):
        with integer_normalization():
            return with_function_of(source, source.model), False
    return source, False


def _convert(
    source: Source,
    staged: Path,
    scheme: Scheme,
    job: dict[str, Any],
    may_be_float: Sequence[str],
    real: Mapping[str, np.ndarray] | None,
) -> Converted:
    with source.as_saved_model() as directory:
        job = {**job, "saved_model": str(directory)}
        block_size: int | None = job.pop("block_size")
        unblocked: tuple[str, ...] = ()
        if scheme.name in _WEIGHT_BITS:
            unblocked = _convert_weights(source, staged, job, block_size, _WEIGHT_BITS[scheme.name])
        else:
            _run_tflite(source, staged, {**job, "scheme": scheme.name})
    content = inspect_tflite(staged)
    if scheme.name == "int8" and (job["trained"] or not job["keep_float"]):
        _require_integers(content, may_be_float, trained=job["trained"])
    notes = (*_notes(source, scheme, content), *unblocked)
    runs_here = FLEX_NOTE not in notes
    if scheme.needs_calibration and runs_here:
        notes = (*notes, *integer_notes(staged, content, real))
    return Converted(content.operators, content.output_step, notes, content.quantization, runs_here)


def _convert_weights(
    source: Source, staged: Path, job: dict[str, Any], block_size: int | None, bits: int
) -> tuple[str, ...]:
    """Write the file, and return what is to be said of the dense layers that have no blocks."""
    with scratch_directory() as scratch:
        start = scratch / "float32.tflite"
        with writing_to(scratch, SCRATCH_REMEDY):
            _run_tflite(source, start, {**job, "scheme": "float32", "keep_float": []})
        dense = [] if block_size is None else dense_operators(start)
        dense = [one for one in dense if not any(re.search(part, one.output) for part in job["keep_float"])]
        blocks = [] if block_size is None else _in_blocks(dense, block_size)
        chosen = {"keep_float": job["keep_float"], "block_size": block_size, "in_blocks": blocks}
        converter.run("weights", float_model=str(start), output=str(staged), bits=bits, **chosen)
    rest = ", ".join(f"{one.kernel} ({one.inputs} inputs)" for one in dense if one.output not in blocks)
    return (f"Kernels with a scale per output, as {block_size} does not divide their inputs: {rest}.",) if rest else ()


def _in_blocks(dense: Sequence[DenseOperator], block_size: int) -> list[str]:
    """Return what dense layers write whose inputs blocks divide.

    Raises:
        ConfigError: there are none.
    """
    found = [one.output for one in dense if one.inputs % block_size == 0]
    if not found:
        there = ", ".join(str(count) for count in sorted({one.inputs for one in dense})) or "there is no dense layer"
        raise ConfigError(
            f"`block_size` must divide the number of inputs of a dense layer. Received: {block_size}, and they have: "
            f"{there}. Leave it out for a scale per output."
        )
    return found


def _notes(source: Source, scheme: Scheme, content: TFLiteContent) -> tuple[str, ...]:
    notes = []
    if source.has_loop:
        notes.append(LOOP_NOTE.format(source.batch_size))
    if scheme.name == "dynamic" and not any("int8" in operator.dtype for operator in content.operators):
        notes.append(SMALL_NOTE)
    if any(operator.name.startswith("Flex") for operator in content.operators):
        notes.append(FLEX_NOTE)
    return tuple(notes)


def _run_tflite(source: Source, output: Path, job: dict[str, Any]) -> None:
    try:
        converter.run("tflite", output=str(output), **job)
    except ExportError as error:
        missing = re.search(r"TF Select ops: (.*)", error.details)
        if missing is None:
            raise
        operators = missing.group(1).strip()
        others = "a SavedModel" if re.search("Lookup|String", operators) else "ONNX or SavedModel"  # ONNX has no text
        raise UnsupportedModelError(
            f"{source.name} needs operators that TFLite does not have: {operators}. Replace the layers "
            f"that use them, export to {others}, or pass `select_ops=True` if the runtime has TensorFlow's "
            f"operators built in (LiteRT from the package index has not)."
        ) from error


def _require_integers(content: TFLiteContent, may_be_float: Sequence[str], *, trained: bool) -> None:
    """Raise if operators compute in float whose output tensors match none of these patterns."""
    floats = [name for name in content.float_operators if not any(re.search(part, name) for part in may_be_float)]
    if floats:
        shown = "; ".join(floats[:5])
        where = "`skip` of `kopt.quantize.aware` or `post_training`, whichever it is of," if trained else "`fallback`"
        raise ExportError(
            f"{len(floats)} operator(s) of the int8 file still compute in float: {shown}. Name their "
            f"layers in {where} if that is acceptable, or choose another scheme."
        )


def _options(
    config: ExportConfig,
    fallback_dtype: str,
    block_size: int | None,
    batch_size: int | None,
    select_ops: bool,
    samples: int | None,
) -> dict[str, str]:
    chosen = {
        "io_dtype": config.io_dtype,
        "fallback": ", ".join(config.fallback) or None,
        "fallback_dtype": None if fallback_dtype == "float32" else fallback_dtype,
        "block_size": block_size,
        "batch_size": batch_size,
        "select_ops": select_ops or None,
        "calibration_samples": samples,
    }
    return {key: str(value) for key, value in chosen.items() if value is not None}
