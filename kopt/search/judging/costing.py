"""What files cost beyond their latency: memory and energy, where the budget asks or the report tells."""

import dataclasses
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kopt import measure
from kopt.core.errors import LoadError, MeasurementError
from kopt.core.files import gzip_bytes, scratch_directory, size_bytes
from kopt.core.records.artifacts import Artifact
from kopt.core.records.candidates import Candidate
from kopt.core.records.measurements import Measurement
from kopt.core.records.profiles.cost import ModelProfile
from kopt.core.records.search.budget import Budget
from kopt.core.schemes import get_scheme
from kopt.search.judging.examining import BASELINE, Examiner, opened, threads_for
from kopt.search.trials.records import Trials

# What takes more than timing single calls, and is measured of all candidates only where the budget asks.
EXTRA_COSTS = ("throughput_per_s", "peak_memory_bytes", "millijoules")
# TFLite operators with nearly all products of a network.
_MULTIPLYING = ("CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")
# Of a weight that a scheme stores.
_BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
_GZIP_LEVEL = 6
# To which latencies are known; times that differ by as little count as equal.
_PRECISION = 0.02
# Throughput is that of the best batch size.
_THROUGHPUT_BATCHES = (1, 32)


@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """Measures the model as given and files side by side, and keeps the numbers in the work directory.

    Attributes:
        model: as given, a Keras model or a path.
        model_sha256: by which files made from it are known.
        examiner: whose examples are timed.
        budget: that says what is asked.
        threads: see `kopt.measure.load`.
        profile: of the model as given; `None` if it is not known.
        trials: where numbers are kept.
    """

    model: Any
    model_sha256: str
    examiner: Examiner
    budget: Budget
    threads: int | None
    profile: ModelProfile | None
    trials: Trials

    def measure_all(self, candidates: Sequence[Candidate]) -> dict[str, Measurement]:
        """Return the measurements of the model as given and of all candidates, by name, from one interleaved round."""
        names = [BASELINE, *(candidate.name for candidate in candidates)]
        asked = [quantity for quantity in EXTRA_COSTS if self.budget.needs(quantity)]
        settings = f"threads={self.threads} costs={','.join(asked)}"
        kept = self.trials.measurements(names, settings)
        if kept is not None:
            return kept
        files = [None, *(candidate.artifact for candidate in candidates)]
        runners = [self._runner(file) for file in files]
        sizes = batch_sizes(self.budget, runners, self.examiner.count)
        timed = measure.latency(runners, self.examiner.inputs, batch_sizes=sizes, precision=_PRECISION)
        assert isinstance(timed, list)
        each = zip(names, timed, runners, files, self._works(files), strict=True)
        measured = {
            name: self._with_extra(known, runner, file, work, asked) for name, known, runner, file, work in each
        }
        self.trials.finish_measurements(names, settings, measured)
        return measured

    def complete(
        self, baseline: Candidate, candidates: tuple[Candidate, ...], chosen: str | None
    ) -> tuple[Candidate, tuple[Candidate, ...]]:
        """Add memory and energy of the model as given and of the chosen file, which the report sets side by side."""
        told = [baseline, *(candidate for candidate in candidates if candidate.name == chosen)]
        names, settings = [candidate.name for candidate in told], f"threads={self.threads} memory and energy"
        measured = self.trials.measurements(names, settings)
        if measured is None:
            files = [candidate.artifact for candidate in told]
            measured = {
                candidate.name: self._with_extra(_known(candidate), self._runner(file), file, work, EXTRA_COSTS)
                for candidate, file, work in zip(told, files, self._works(files), strict=True)
            }
            self.trials.finish_measurements(names, settings, measured)
        final = tuple(_completed(candidate, measured.get(candidate.name)) for candidate in candidates)
        return _completed(baseline, measured[baseline.name]), final

    def _runner(self, file: Artifact | None) -> measure.Runner:
        return opened(file.path, self.threads) if file else self.examiner.given

    def _works(self, files: Sequence[Artifact | None]) -> list[measure.Work | None]:
        """Return the work of every file, or of none, since estimates of two kinds cannot be compared."""
        alike = all(file is None or file.source_sha256 == self.model_sha256 for file in files)
        works = [work_of(self.profile, file) if alike else None for file in files]
        return works if all(works) else [None] * len(files)

    def _with_extra(
        self,
        known: Measurement,
        runner: measure.Runner,
        file: Artifact | None,
        work: measure.Work | None,
        asked: Sequence[str],
    ) -> Measurement:
        """Return a measurement with memory and energy where they are asked for and not known."""
        if "peak_memory_bytes" in asked and known.peak_memory_bytes is None:
            given = self.model if isinstance(self.model, Path) else None
            known = with_memory(known, Path(file.path) if file else given, self.model, self.threads)
        if "millijoules" in asked and known.energy is None:
            known = dataclasses.replace(known, energy=measure.energy(runner, self.examiner.inputs, work=work))
        return known


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
        try:
            peak = measure.memory(file, threads=threads_for(file, threads))
        except (MeasurementError, LoadError):
            # Classes of the user's own are not known to a fresh process. Tables show the number as not known, and a
            # constraint on it is missed.
            return measured
    return dataclasses.replace(measured, peak_memory_bytes=peak)


def work_of(profile: ModelProfile | None, artifact: Artifact | None) -> measure.Work | None:
    """Return what one example takes; `None` where the layers' cost is not known.

    Args:
        profile: of the model that the file was made from.
        artifact: the file; `None` for the model itself. Its scheme tells the width of the weights that are read, and
            the type and width of what moves between its layers. One that multiplies in float anywhere is taken to do so
            everywhere, which is more than it takes.
    """
    if profile is None or profile.unknown:
        return None
    dtype = get_scheme(artifact.scheme).activations if artifact and not _multiplies_in_float(artifact) else "float32"
    moved = [(layer.input_bytes, layer.activation_bytes) for layer in profile.layers]
    if any(None in pair for pair in moved):
        return None
    width = np.dtype(dtype).itemsize / 4
    between = int(width * sum(size or 0 for pair in moved for size in pair))
    stored = get_scheme(artifact.scheme).weights if artifact else "float32"
    weights = sum(layer.read_weight_bytes for layer in profile.layers) * _BITS[stored] // _BITS["float32"]
    return measure.Work(profile.macs, weights + between, dtype)


def _multiplies_in_float(artifact: Artifact) -> bool:
    return any(one.name in _MULTIPLYING and one.dtype == "float32" for one in artifact.operators)


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


def _known(candidate: Candidate) -> Measurement:
    assert candidate.measurement is not None
    return candidate.measurement


def _completed(candidate: Candidate, measured: Measurement | None) -> Candidate:
    """Return a candidate with the memory and energy of `measured`, and the latency that it was ranked by."""
    if measured is None:
        return candidate
    peak, energy = measured.peak_memory_bytes, measured.energy
    return dataclasses.replace(
        candidate, measurement=dataclasses.replace(_known(candidate), peak_memory_bytes=peak, energy=energy)
    )
