"""Keras model to `.onnx`."""

import os
from pathlib import Path
from typing import Any

from kopt.core.errors import ConfigError
from kopt.core.randomness import preserved_random_state
from kopt.core.records import Artifact
from kopt.core.schemes import get_scheme
from kopt.export.assembly import Converted, assemble
from kopt.export.inspection import inspect_onnx
from kopt.export.manifest import check_target
from kopt.export.process import converter
from kopt.export.source import SIGNATURE, prepare, trace
from kopt.export.verification import examples

OPSETS = range(13, 19)  # what tf2onnx 1.17 writes and both ends were tested with


@preserved_random_state()
def onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    opset: int = 17,
    data: Any = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Artifact:
    """Export a model to an `.onnx` file for ONNX Runtime, TensorRT and others, in float32.

    Input and output names are the model's own and the batch size stays free. The file is opened in ONNX Runtime and
    compared with the model before it gets its name; a manifest lies beside it as `<path>.json`.

    Args:
        model: a built Keras model, the path of a `.keras`, `.h5` or SavedModel, or what `traced` yields.
        path: file to write.
        opset: ONNX operator set, 13 to 18.
        data: real inputs to compare on; seeded random ones if not given.
        seed: of the random inputs.
        overwrite: replace `path`.

    Returns:
        What was written, with the measured difference from the model.

    Raises:
        InputError: a setting or the model cannot be used; nothing was written.
        ExportError: the converter failed, or the file does not compute what the model computes.
        OutputError: `path` cannot be written or exists.
    """
    if opset not in OPSETS:
        raise ConfigError(f"`opset` must be in [{OPSETS.start}, {OPSETS.stop - 1}]. Received: {opset!r}.")
    model, inputs = prepare(model)
    compared = examples(data, inputs, seed)
    check_target(path, format="onnx", overwrite=overwrite)
    converter.start()
    source = trace(model)

    def convert(staged: Path) -> Converted:
        with source.as_saved_model() as directory:
            converter.run("onnx", saved_model=str(directory), signature=SIGNATURE, output=str(staged), opset=opset)
        return Converted(inspect_onnx(staged))

    return assemble(
        source,
        path,
        format="onnx",
        scheme=get_scheme("float32"),
        convert=convert,
        examples=compared,
        options={"opset": str(opset)},
        overwrite=overwrite,
    )
