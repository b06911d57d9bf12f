"""Keras model to `.onnx`, in three numeric schemes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kopt.core.errors import ConfigError, ExportError, UnsupportedModelError, nearest
from kopt.core.files import scratch_directory
from kopt.core.randomness import preserved_random_state
from kopt.core.records.artifacts import Artifact
from kopt.core.schemes import Scheme, get_scheme
from kopt.data import calibration as sample
from kopt.export.assembly import Converted, assemble
from kopt.export.inspection import inspect_onnx, onnx_float_weights, onnx_grids
from kopt.export.integers import warn_of_few
from kopt.export.manifest import check_target
from kopt.export.process import converter
from kopt.export.source import SIGNATURE, Source, prepare, save_arrays, trace
from kopt.export.trained import layers_without_range, trained_for, with_function_of
from kopt.export.twins import trained_twin
from kopt.export.verification import examples
from kopt.graph.internals import flatten_layers

OPSETS = range(13, 19)  # what tf2onnx 1.17 writes and both ends were tested with
SCHEMES = ("float32", "float16", "int8")
RUNTIMES = ("onnxruntime", "tensorrt")
_LARGEST_BYTES = 2**31 - 2**20  # protobuf writes no message of 2 GB; the graph itself takes some of them
FLOAT_WEIGHTS_NOTE = "Weights of {} stayed in float, for which the runtime has no integer operator."
Arrays = Mapping[str, np.ndarray]


@preserved_random_state()
def onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    scheme: str = "float32",
    calibration: Any = None,
    samples: int = 100,
    runtime: str = "onnxruntime",
    opset: int = 17,
    data: Any = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Artifact:
    """Export a model to an `.onnx` file for ONNX Runtime, TensorRT and others.

    Input and output names are the model's own, their types float32, and the batch size stays free. The file holds the
    shapes of its inner tensors and passed the checker of ONNX; it is opened in ONNX Runtime and compared with the model
    before it gets its name. A manifest lies beside it as `<path>.json`; weights of 2 GB and more, which no message of
    protobuf holds, lie in `<path>.data`.

    Args:
        model: a built Keras model, the path of a `.keras`, `.h5` or SavedModel, or what `traced` yields.
        path: file to write.
        scheme: `"float32"`, `"float16"` (weights and arithmetic of half precision, where the runtime has it) or
            `"int8"` (pairs of QuantizeLinear and DequantizeLinear; masks on scores and the moments of normalizations
            stay in float). A model of `kopt.quantize.aware` or `kopt.quantize.post_training` goes with `"int8"` and
            brings its own ranges.
        calibration: real inputs from which `"int8"` of any other model learns the ranges of activations: arrays,
            `(x, y)` or a `tf.data.Dataset`.
        samples: how many examples of `calibration` are used.
        runtime: whose form of int8: `"onnxruntime"`, or `"tensorrt"`, which has zero at 0 in every grid and biases in
            float. A trained range that is not symmetric, as behind a ReLU, gets steps up to twice as large there.
        opset: ONNX operator set, 13 to 18.
        data: real inputs to compare on; those of `calibration`, or seeded random ones, if not given.
        seed: of the random inputs and of the choice of samples.
        overwrite: replace `path`.

    Returns:
        What was written, with the measured difference from the model.

    Raises:
        InputError: a setting or the model cannot be used; nothing was written.
        ExportError: the converter failed, or the file does not compute what the model computes.
        OutputError: `path` cannot be written or exists.

    Warns:
        UserWarning: ranges come from fewer than 20 examples.

    Example:
        >>> made = kopt.export.onnx(model, "model.onnx", scheme="int8", calibration=x_train)
        >>> made.format, made.scheme, made.parity.argmax_agreement > 0.95
        ('onnx', 'int8', True)
    """
    check_onnx_request(scheme, runtime, opset)
    kind = get_scheme(scheme)
    model, inputs = prepare(model)
    ranges = ranges_for(model, kind, calibration, samples, seed, inputs)
    compared = examples(ranges if data is None else data, inputs, seed)
    check_target(path, format="onnx", overwrite=overwrite)
    converter.start()
    source = source_for(model, kind)
    require_distinct_names(source)

    def convert(staged: Path) -> Converted:
        write_onnx(source, staged, scheme=scheme, runtime=runtime, opset=opset, ranges=ranges)
        if scheme != "int8":
            return Converted(inspect_onnx(staged))
        grids, in_float = onnx_grids(staged), onnx_float_weights(staged)
        if not grids:
            raise UnsupportedModelError(
                f"{source.name} has nothing that {runtime} computes in integers: it would be float32. Its weights are "
                f"of {', '.join(in_float) or 'no operator'}. Export it as float32 or float16, or to TFLite."
            )
        notes = (FLOAT_WEIGHTS_NOTE.format(", ".join(in_float)),) if in_float else ()
        return Converted(inspect_onnx(staged), notes=notes, quantization=grids)

    few = warn_of_few(ranges)
    options = {"opset": str(opset)}
    if scheme == "int8":
        options |= {"runtime": runtime}
    if ranges is not None:
        options |= {"calibration_samples": str(len(next(iter(ranges.values()))))}
    return assemble(
        source,
        path,
        format="onnx",
        scheme=kind,
        convert=convert,
        examples=compared,
        options=options,
        overwrite=overwrite,
        calibration=ranges,
        notes=few,
    )


def require_distinct_names(source: Source) -> None:
    """Raise if an output has the name of an input, or two inputs one name: in ONNX both are one tensor.

    On the way there names of inputs are in small letters.

    Raises:
        UnsupportedModelError: names it.
    """
    inputs = [info.name.lower() for info in source.inputs]
    both = set(inputs) & {info.name for info in source.outputs}
    if both:
        raise UnsupportedModelError(
            f"{source.name} has an input and an output of one name, {', '.join(sorted(map(repr, both)))}, which are "
            f"one tensor in ONNX. Give the output another key or layer name."
        )
    twice = sorted({name for name in inputs if inputs.count(name) > 1})
    if twice:
        raise UnsupportedModelError(
            f"{source.name} has inputs that differ in capital letters alone, {', '.join(map(repr, twice))}, which the "
            f"converter takes for one. Give one another name."
        )


def check_onnx_request(scheme: str, runtime: str, opset: int) -> None:
    """Raise unless these are settings of an ONNX file.

    Raises:
        ConfigError: one is unknown.
    """
    if opset not in OPSETS:
        raise ConfigError(f"`opset` must be in [{OPSETS.start}, {OPSETS.stop - 1}]. Received: {opset!r}.")
    if get_scheme(scheme).name not in SCHEMES:
        raise ConfigError(f"ONNX files have the schemes {', '.join(SCHEMES)}. Received: scheme={scheme!r}.")
    if runtime not in RUNTIMES:
        raise ConfigError(f"Unknown runtime {runtime!r}.{nearest(runtime, RUNTIMES)} Accepted: {', '.join(RUNTIMES)}.")


def ranges_for(model: Any, scheme: Scheme, calibration: Any, samples: int, seed: int, inputs: Any) -> Arrays | None:
    """Return the examples that show the ranges of activations; `None` where no ranges are needed, or are there.

    Raises:
        ConfigError: there are none where they are needed, or some where they are not.
    """
    trained = trained_for(model, scheme)
    if scheme.name != "int8" or trained is not None:
        if calibration is not None and trained is not None and layers_without_range(trained):
            raise ConfigError(
                f"Model {trained.name!r} has no ranges yet, and an ONNX file takes those of training. Received: "
                f"`calibration`. Give it to `kopt.quantize.aware` instead, or train the model (one step of `fit` is "
                f"enough)."
            )
        if calibration is not None:
            reason = "the model has trained ranges" if trained else f"scheme {scheme.name!r} has no ranges to learn"
            raise ConfigError(f"`calibration` is of no use: {reason}. Leave it out; `data` is what is compared on.")
        return None
    if calibration is None:
        raise ConfigError(
            "Scheme 'int8' needs `calibration`: real inputs from which it learns the ranges of activations, or a model "
            "of `kopt.quantize.aware`, which has ranges."
        )
    return sample(calibration, samples=samples, seed=seed, inputs=inputs)


def source_for(model: Any, scheme: Scheme) -> Source:
    """Trace a model from `prepare`; the converter gets the fixed ranges of one that was trained for integers.

    Raises:
        UnsupportedModelError: its weights do not fit into one file, which only `"float32"` can do without.
    """
    source = trace(model)
    if is_large(source) and scheme.name != "float32":
        raise UnsupportedModelError(
            f"{source.name} has 2 GB of weights or more, which lie beside an ONNX file; scheme {scheme.name!r} is made "
            "of weights in the file. Use scheme='float32', or make the model smaller."
        )
    trained = trained_for(model, scheme)
    return source if trained is None else with_function_of(source, trained_twin(trained))


def is_large(source: Source) -> bool:
    """Return whether the weights do not fit into one ONNX file."""
    size = sum(variable.shape.num_elements() * variable.dtype.size for variable in source.concrete.variables)
    return bool(size > _LARGEST_BYTES)


def write_onnx(source: Source, output: Path, *, scheme: str, runtime: str, opset: int, ranges: Arrays | None) -> None:
    """Convert in the child process.

    Raises:
        ExportError: the converter failed.
        UnsupportedModelError: ONNX has no counterpart of an operator.
    """
    _require_unrolled(source)
    with source.as_saved_model() as directory, scratch_directory() as scratch:
        job = {
            "saved_model": str(directory),
            "signature": SIGNATURE,
            "output": str(output),
            "opset": opset,
            "inputs": [info.name for info in source.inputs],
            "scheme": scheme,
            "runtime": runtime,
            "calibration": None if ranges is None else save_arrays(ranges, scratch),
            "external": is_large(source),
        }
        try:
            converter.run("onnx", **job)
        except ExportError as error:
            missing = _missing_operators(error.details)
            if missing is None:
                raise
            raise UnsupportedModelError(
                f"{source.name} needs operators that ONNX does not have: {missing}. Export a SavedModel, or take the "
                f"layers that use them out, and do their work before the file is called."
            ) from error


def _missing_operators(log: str) -> str | None:
    """Return the operators that the log of a failed conversion says ONNX has no counterpart for."""
    named = re.search(r"TensorFlow operators without a counterpart: (.*)", log)
    if named:
        return named.group(1).strip()
    return "LookupTableFindV2" if "Could not determine table shared name" in log else None


def _require_unrolled(source: Source) -> None:
    """Raise if the converter would meet a convolution in a loop, whose shape it does not see.

    Raises:
        UnsupportedModelError: names the layers.
    """
    layers = flatten_layers(source.model) if isinstance(source.model, keras.Model) else []
    kinds = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)
    looping = [layer.name for layer in layers if isinstance(layer, kinds) and not layer.unroll]
    if looping:
        raise UnsupportedModelError(
            f"{source.name} has convolutions in a loop, {', '.join(looping)}, which the ONNX converter cannot read. "
            f"Set `unroll` of {'these layers' if len(looping) > 1 else 'this layer'} to True (it changes no weight), "
            f"or export to TFLite or a SavedModel."
        )
