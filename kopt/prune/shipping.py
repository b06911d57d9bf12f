"""Models as the files that ship, opened in their runtime: for those who measure what pruning saved."""

from pathlib import Path
from typing import Any

import keras

from kopt.core.records.artifacts import Artifact
from kopt.export import onnx, tflite
from kopt.measure import Runner, load
from kopt.measure.timing import paired_rounds

# float32, LiteRT for the one, ONNX Runtime for the other.
RUNTIMES = ("tflite", "onnx")
THREADS = 1
# Of timing two files: at least 20 turns of either are taken, whatever they need.
_SECONDS = 1.0


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


def quickest_turns(a: Runner, b: Runner) -> tuple[float, float]:
    """Return the milliseconds of a call with one example of each, in the quickest of at least 20 turns.

    A turn is the median of about 10 ms of calls, and turns of the two alternate. What else runs on the machine makes a
    turn longer, never shorter, and long calls more often than short ones: with four processes on each core the ratio of
    the medians of two files lay between 0.17 and 0.66, that of the quickest turns between 0.66 and 0.70.
    """
    first, second = paired_rounds(a, b, None, batch_size=1, seconds=_SECONDS).min(axis=0)
    return float(first), float(second)
