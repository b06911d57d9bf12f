"""Models as the files that ship, opened in their runtime: for those who measure what pruning saved."""

from pathlib import Path
from typing import Any

import keras

from kopt.core.records import Artifact
from kopt.export import onnx, tflite
from kopt.measure import Runner, load

# float32, LiteRT for the one, ONNX Runtime for the other.
RUNTIMES = ("tflite", "onnx")
THREADS = 1


def shipped(model: keras.Model, directory: Path, name: str, runtime: str) -> tuple[Artifact, Runner]:
    """Export a model to a file in `directory` and open it with one thread.

    Args:
        model: built, with inputs of known size but for the batch.
        directory: of the file.
        name: of the file, without its ending.
        runtime: one of `RUNTIMES`.
    """
    export: Any = tflite if runtime == "tflite" else onnx
    artifact = export(model, directory / f"{name}.{runtime}")
    return artifact, load(artifact.path, threads=THREADS)
