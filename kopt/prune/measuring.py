"""What pruning saved, measured: parameters, arithmetic, size of the file and time of a call, before and after."""

import dataclasses
from typing import Any, TypeVar

import keras
import numpy as np

from kopt.core.environment import machine
from kopt.core.errors import InputError
from kopt.core.files import scratch_directory
from kopt.core.records.artifacts import Artifact
from kopt.core.records.changes.channel_pruning import ChannelPruningReport
from kopt.core.records.changes.constant_channels import ConstantChannelsReport
from kopt.core.records.changes.footprint import Footprint, Footprints
from kopt.core.records.changes.iterative_pruning import IterativePruningReport
from kopt.core.records.changes.magnitude_pruning import MagnitudePruning
from kopt.core.records.changes.restructuring import RestructureReport
from kopt.core.records.measurements import Measurement
from kopt.core.settings import choice, number
from kopt.graph import copy_model, owned_variables, require_built
from kopt.graph.naming import is_kernel
from kopt.graph.values import values_of
from kopt.graph.wrapped_twin import is_wrapped
from kopt.measure import latency
from kopt.profile import model as profile
from kopt.prune.shipping import RUNTIMES, THREADS, shipped
from kopt.train.weight_constraints import constraints_of

# Reports with the parameters of the two models that they are of.
_Counted = ChannelPruningReport | ConstantChannelsReport | IterativePruningReport | RestructureReport
Report = TypeVar(
    "Report",
    ChannelPruningReport,
    ConstantChannelsReport,
    IterativePruningReport,
    MagnitudePruning,
    RestructureReport,
)


def measured(
    report: Report, before: keras.Model, after: keras.Model, *, runtime: str = "tflite", seconds: float = 2.0
) -> Report:
    """Return a report of pruning or restructuring with what it saved in the files that ship.

    Use it before believing in a speedup: multiply-accumulates that go are not always milliseconds that go, and zeros
    are hardly ever. Both models are exported in float32, compared with the files, and timed in turns with batches of
    one example and one thread. It takes as long as two exports and the timing, which pruning itself does not wait for.

    Args:
        report: of `channels`, `heads`, `constant_channels`, `iterative`, `magnitude`, `gradient` or `finalize`; or of
            a function of `kopt.restructure` that returns one with the model.
        before: the model that was given.
        after: what came of it, with masks or without.
        runtime: `"tflite"` (LiteRT) or `"onnx"` (ONNX Runtime).
        seconds: of timing each model.

    Returns:
        The report with `measured`, which its table shows.

    Raises:
        InputError: the report is of something else or of other models, or a model is not built.
        ConfigError: an unknown runtime, or no time.
        ExportError: a model cannot be exported.

    Example:
        >>> smaller, report = kopt.prune.channels(model, target_macs=0.5)
        >>> report = kopt.prune.measured(report, model, smaller, seconds=0.1)
        >>> report.measured.after.size_bytes < report.measured.before.size_bytes
        True
    """
    choice("runtime", runtime, RUNTIMES)
    number("seconds", seconds, least=0, open_below=True)
    if not isinstance(report, (_Counted, MagnitudePruning)):
        raise InputError(
            f"`report` must be one that counts what went: of `channels`, `heads`, `constant_channels`, `iterative`, "
            f"`magnitude`, `gradient` or `finalize` of `kopt.prune`, or of a function of `kopt.restructure` that "
            f"replaces layers. Received: {type(report).__module__}.{type(report).__qualname__}."
        )
    if isinstance(report, _Counted):
        _require_reported(report, before, after)
    models = {"before": _plain(before), "after": _plain(after)}
    with scratch_directory() as scratch:
        files = [shipped(model, scratch, name, runtime) for name, model in models.items()]
        size = files[0][1].fixed_batch or 1
        times: Any = latency([runner for _, runner in files], batch_sizes=(size,), max_seconds=seconds)
    sides = [
        _footprint(model, artifact, time)
        for model, (artifact, _), time in zip(models.values(), files, times, strict=True)
    ]
    pair = Footprints(sides[0], sides[1], runtime, files[0][1].runtime, THREADS, machine().processor)
    return dataclasses.replace(report, measured=pair)


def _require_reported(report: _Counted, before: keras.Model, after: keras.Model) -> None:
    found = (before.count_params(), after.count_params())
    if found != (report.parameters_before, report.parameters_after):
        raise InputError(
            f"The report is of a model of {report.parameters_before:,} parameters that came down to "
            f"{report.parameters_after:,}. Received: `before` of {found[0]:,} and `after` of {found[1]:,}."
        )


def _plain(model: keras.Model) -> keras.Model:
    """Return what ships: the masks of a model stay behind."""
    if is_wrapped(model):
        raise InputError(f"The model {model.name!r} is under tfmot's wrappers: `kopt.prune.finalize` it first.")
    require_built(model)
    return copy_model(model) if constraints_of(model) else model


def _footprint(model: keras.Model, artifact: Artifact, time: Measurement) -> Footprint:
    costs = profile(model)
    kernels = [values_of(one.variable) for one in owned_variables(model) if is_kernel(one.variable)]
    zeros = sum(kernel.size - int(np.count_nonzero(kernel)) for kernel in kernels)
    return Footprint(
        parameters=costs.parameters,
        nonzero_parameters=costs.parameters - zeros,
        macs=costs.macs,
        size_bytes=artifact.size_bytes,
        gzip_bytes=artifact.gzip_bytes,
        latency_ms=time.latency_ms,
        least_ms=time.latencies[0].min_ms,
    )
