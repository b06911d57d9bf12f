"""Which operations of a step take the time."""

import dataclasses
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kopt.core.environment import machine
from kopt.core.errors import ConfigError
from kopt.core.files import atomic_write
from kopt.core.records.profiles.time import OpProfile, OpTime, ThreadTimeline
from kopt.core.settings import whole
from kopt.profile.tensorboard import InTensorBoard
from kopt.profile.timing.attribution import Attribution, attribute
from kopt.profile.timing.chrome import chrome_trace
from kopt.profile.timing.intervals import Interval, divided, innermost, sums
from kopt.profile.timing.scopes import numbered_paths
from kopt.profile.timing.sizes import output_sizes, size_of
from kopt.profile.timing.steps import Step, check_request, make_batch, make_step, time_ms
from kopt.profile.timing.trace import Trace, record
from kopt.report.profiles.times import OPS
from kopt.train import preserved

_LEAST_PLAIN = 3


@dataclasses.dataclass(frozen=True)
class Ops(InTensorBoard, OpProfile):
    """What `ops` found, with ways to show it.

    Example:
        >>> found = kopt.profile.ops(model, x_train, training=False, steps=2)
        >>> sorted({op.layer for op in found.ops if op.layer})
        ['classes', 'conv1', 'conv2', 'norm1', 'relu1']
    """

    look = OPS

    def to_chrome_trace(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write what ran when in every thread, for `chrome://tracing` or https://ui.perfetto.dev; return the path.

        Raises:
            OutputExistsError: the file exists and `overwrite` is false.
            OutputError: the path cannot be written.
        """
        return atomic_write(path, chrome_trace(self), overwrite=overwrite)


def ops(
    model: keras.Model,
    data: Any = None,
    *,
    training: bool | None = None,
    steps: int = 10,
    batch_size: int = 32,
    jit_compile: bool | None = None,
) -> Ops:
    """Run TensorFlow's profiler round some steps and say which operations take the time. TensorBoard is not needed.

    Use it when a step is slower than it should be: it shows the kernels that ran, how often, in which layer, and how
    busy they kept the threads.

    The step is one traced function on a batch that is at hand: the `train_step` of the model, or a call for inference.
    Reading the input is no part of it (`kopt.data.diagnose` times that). Nothing else should run in the process.

    Times on a processor. Operations that do not depend on each other run in parallel, and a large one divides its work
    among helper threads. So there are two sums. `busy_ms` adds up the time of all threads: at most `step_ms` times
    their number, waiting for a core included where there are more threads than cores. `wall_ms` divides every moment
    equally among what runs in it, so that all operations and `rest_ms` make exactly `step_ms`; `share` is of that.

    The profiler itself takes time, mostly in models of many small operations: compare `step_ms` with `plain_step_ms`.

    Args:
        model: built. It is left as it was: weights, optimizer, metrics, random states.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays or tensors, `x` alone, a batched `tf.data.Dataset` or a
            `keras.utils.PyDataset` of these; several inputs as a list or dict. Made up for inference if not given.
        training: profile a training step, else inference. `None`: training if the model is compiled and `data` has
            targets.
        steps: that are profiled; as many again are timed without the profiler.
        batch_size: examples to take from arrays; a data set has batches of its own.
        jit_compile: compile the step with XLA; `None` does as `fit` would for training, and does not for inference.
            A compiled step is one program, of which no operations are listed.

    Returns:
        The operations with `.table(width, rows=20, sort="self")`, `.plot(path)` and `.to_chrome_trace(path)`.

    Raises:
        InputError: the model is not built.
        ConfigError: an impossible setting, or training without `compile` or targets.
        DataError: `data` does not fit the model.
        UnsupportedModelError: the model is spread over several devices by a strategy.
        MeasurementError: a profiler is running in this process already; it goes on undisturbed.

    Example:
        >>> found = kopt.profile.ops(model, (x_train, y_train), steps=2)
        >>> found.step, found.batch_examples, found.step_ms > found.ops_ms
        ('training', 32, True)
        >>> path = found.to_chrome_trace("step.json")

    Source: https://www.tensorflow.org/guide/profiler
    """
    training = check_request(model, data, training)
    whole("steps", steps)
    whole("batch_size", batch_size)
    if jit_compile not in (None, True, False):
        raise ConfigError(f"`jit_compile` must be True, False or None. Received: {jit_compile!r}.")
    with preserved(model):
        batch = make_batch(model, data, batch_size, training)
        jit = bool(model.jit_compile) if jit_compile is None and training else bool(jit_compile)
        step = make_step(model, batch, training=training, jit=jit)
        plain = time_ms(step, max(_LEAST_PLAIN, steps // 2))
        trace = record(step.run, steps)
        plain += time_ms(step, max(_LEAST_PLAIN, steps // 2))
    return _profile(model, step, trace, plain)


def _profile(model: keras.Model, step: Step, trace: Trace, plain: Sequence[float]) -> Ops:
    durations = [end - start for start, end in trace.steps]
    step_us = statistics.fmean(durations)
    rows, fused = ([], []) if step.jitted else _rows(model, step, trace, step_us)
    order = sorted(range(len(rows)), key=lambda key: -rows[key].wall_ms)
    return Ops(
        model=model.name,
        step="training" if step.training else "inference",
        batch_examples=step.examples,
        steps=len(trace.steps),
        step_ms=step_us / 1e3,
        plain_step_ms=statistics.median(plain),
        step_start_us=tuple(start for start, _ in trace.steps),
        step_duration_us=tuple(durations),
        ops=tuple(rows[key] for key in order),
        timelines=() if step.jitted else _timelines(trace, order),
        notes=_notes(step, rows, fused),
        machine_cores=machine().cores,
    )


def _rows(model: keras.Model, step: Step, trace: Trace, step_us: float) -> tuple[list[OpTime], list[Attribution]]:
    """Return the row of every operation, by its position in `trace.operations`."""
    count = len(trace.steps)
    every = [one for thread in trace.threads for one in thread.intervals]
    own = [one for one in every if not one.helper]
    pieces = [innermost(thread.intervals) for thread in trace.threads]
    busy = sums(one for thread in pieces for one in thread)
    alone = sums(one for thread in pieces for one in thread if not one.helper)
    total, wall = sums(own), divided(pieces)
    calls: dict[int, int] = {}
    for one in own:
        calls[one.key] = calls.get(one.key, 0) + 1
    paths, sizes = numbered_paths(model), output_sizes(step.graph)
    rows, found = [], []
    for key, operation in enumerate(trace.operations):
        found.append(attribute(step.graph, operation.name, operation.type, paths))
        place = found[-1].place
        rows.append(
            OpTime(
                name=place.name,
                type=operation.type,
                layer=place.layer,
                phase=place.phase,
                device=operation.device,
                count=calls.get(key, 0),
                total_ms=total.get(key, 0.0) / count / 1e3,
                self_ms=alone.get(key, 0.0) / count / 1e3,
                busy_ms=busy.get(key, 0.0) / count / 1e3,
                wall_ms=wall.get(key, 0.0) / count / 1e3,
                share=wall.get(key, 0.0) / count / step_us,
                output_bytes=size_of(sizes, operation.name),
                allocated_bytes=None
                if key not in trace.allocated
                else round(trace.allocated[key] / max(calls[key], 1)),
            )
        )
    return rows, found


def _timelines(trace: Trace, order: Sequence[int]) -> tuple[ThreadTimeline, ...]:
    position = {key: place for place, key in enumerate(order)}

    def timeline(name: str, intervals: Sequence[Interval]) -> ThreadTimeline:
        return ThreadTimeline(
            thread=name,
            ops=tuple(position[one.key] for one in intervals),
            helper=tuple(one.helper for one in intervals),
            start_us=tuple(one.start for one in intervals),
            duration_us=tuple(one.length for one in intervals),
        )

    return tuple(timeline(thread.name, thread.intervals) for thread in trace.threads)


def _notes(step: Step, rows: Sequence[OpTime], fused: Sequence[Attribution]) -> tuple[str, ...]:
    notes = []
    if step.jitted:
        notes.append(
            "XLA compiles this step into one program, whose operations cannot be told apart. Pass `jit_compile=False` "
            "to see them as TensorFlow runs them without XLA; their times are not those of the compiled step."
        )
    if any(row.type.startswith(("_Xla", "Xla")) for row in rows):
        notes.append("Parts of this step are compiled with XLA: each is one operation here.")
    pairs = dict.fromkeys(
        f"{', '.join(one.fused_layers)} in {one.place.layer or one.place.name}" for one in fused if one.fused_layers
    )
    if pairs:
        notes.append(f"TensorFlow fused operations of several layers; the time is with the first: {'; '.join(pairs)}.")
    if not step.jitted and tf.config.list_logical_devices("GPU"):
        notes.append("Operations on `cpu` start those on the GPU; their own time is the launch.")
    return tuple(notes)
