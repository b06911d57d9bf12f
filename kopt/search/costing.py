"""What files cost beyond their latency: memory and energy, where the budget asks or the report tells."""

import dataclasses
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kopt import measure
from kopt.core.budget_records import Budget
from kopt.core.cost_records import ModelProfile
from kopt.core.errors import LoadError, MeasurementError
from kopt.core.files import gzip_bytes, scratch_directory, size_bytes
from kopt.core.records import Artifact, Measurement
from kopt.core.schemes import get_scheme

# What takes more than timing single calls, and is measured of all candidates only where the budget asks.
EXTRA_COSTS = ("throughput_per_s", "peak_memory_bytes", "millijoules")
_GZIP_LEVEL = 6
# Throughput is that of the best batch size.
_THROUGHPUT_BATCHES = (1, 32)


def batch_sizes(budget: Budget, runners: Sequence[measure.Runner], examples: int) -> tuple[int, ...]:
    """Return the batch sizes at which files are timed: larger ones where throughput counts and every file takes any."""
    fixed = {runner.fixed_batch for runner in runners} - {None}
    if fixed:
        return tuple(sorted(size for size in fixed if size is not None))
    if not budget.needs("throughput_per_s"):
        return (1,)
    return tuple(dict.fromkeys(min(size, examples) for size in _THROUGHPUT_BATCHES))


def with_memory(measured: Measurement, file: Path | None, model: Any, threads: int | None) -> Measurement:
    """Return a measurement with the peak memory of loading and running.

    Args:
        measured: what is known.
        file: what is loaded; `None` for a model in memory, which is saved to a temporary file.
        model: that model.
        threads: see `kopt.measure.load`.
    """
    with scratch_directory() as folder:
        if file is None:
            file = folder / "model.keras"
            model.save(file)
        known = threads if file.suffix in (".tflite", ".onnx") else None
        try:
            peak = measure.memory(file, threads=known)
        except (MeasurementError, LoadError):
            # Classes of the user's own are not known to a fresh process. Tables show the number as not known, and a
            # constraint on it is missed.
            return measured
    return dataclasses.replace(measured, peak_memory_bytes=peak)


def with_energy(
    measured: Measurement, runner: measure.Runner, inputs: Mapping[str, np.ndarray], work: measure.Work | None
) -> Measurement:
    """Return a measurement with the energy of an example."""
    return dataclasses.replace(measured, energy=measure.energy(runner, inputs, work=work))


def work_of(profile: ModelProfile | None, artifact: Artifact | None) -> measure.Work | None:
    """Return what one example takes; `None` where the layers' cost is not known.

    Args:
        profile: of the model that the file was made from.
        artifact: the file; `None` for the model itself. Its bytes are its weights, its scheme tells the type and width
            of what moves between its layers.
    """
    if profile is None or profile.unknown:
        return None
    dtype = get_scheme(artifact.scheme).activations if artifact else "float32"
    moved = [(layer.input_bytes, layer.activation_bytes) for layer in profile.layers]
    if any(None in pair for pair in moved):
        return None
    width = np.dtype(dtype).itemsize / 4
    between = int(width * sum(size or 0 for pair in moved for size in pair))
    weights = artifact.size_bytes if artifact else sum(layer.read_weight_bytes for layer in profile.layers)
    return measure.Work(profile.macs, weights + between, dtype)


def reference_sizes(model: Any) -> tuple[int, int]:
    """Return the bytes of the model as given, plain and after gzip: of its weights as float32, or of its file.

    What is saved beside the weights, such as the state of an optimizer, would flatter every export.
    """
    if isinstance(model, (str, os.PathLike)):
        return size_bytes(model), gzip_bytes(model)
    packer, plain, packed = zlib.compressobj(_GZIP_LEVEL, wbits=31), 0, 0
    for weight in model.weights:
        values = np.asarray(weight.numpy(), np.float32)
        plain, packed = plain + values.nbytes, packed + len(packer.compress(values.tobytes()))
    return plain, packed + len(packer.flush())
