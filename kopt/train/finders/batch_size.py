"""The batch-size search: real training steps with growing batches, forgotten afterwards."""

import gc
import statistics
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, words_of
from kopt.core.records.training.finders import BatchSizeSearch, BatchTrial
from kopt.core.settings import choice, number, whole
from kopt.graph.internals import graph_of
from kopt.train.finders.batch_search import choose, fastest, predicted_growth, search
from kopt.train.finders.memory_meter import MemoryMeter
from kopt.train.finders.trial_steps import TrialSteps, check_compiled, unpack
from kopt.train.memory.estimate import explain_out_of_memory
from kopt.train.snapshot import preserved

_NO_MEMORY = ("out of memory", "oom when allocating", "alloc_failed", "failed to allocate", "bad_alloc")


def find_batch_size(
    model: keras.Model,
    data: Any,
    *,
    mode: str = "bisect",
    objective: str = "memory",
    start: int = 1,
    max_batch_size: int | None = None,
    memory_limit_bytes: int | None = None,
    headroom: float = 0.1,
    steps: int = 3,
    repeat: bool = False,
) -> BatchSizeSearch:
    """Run training steps with growing batches and return what each takes, the largest that fits and the fastest.

    Use it once before training, with the model, optimizer and loss that training will have. The steps are those of
    `fit`, of an accelerated model too; with accumulation the batch is that of one forward pass. Sizes double until one
    does not fit; then the interval between is halved, down to a sixteenth of the size.

    On a GPU, a batch does not fit when TensorFlow runs out of memory, or takes more than `memory_limit_bytes`. On a CPU
    there is no such error: the system ends the process. So resident memory is kept below a limit, and a batch whose
    memory is above it, as predicted from the smaller ones (`kopt.train.finders.batch_search.predicted_growth`), is not
    run.
    TensorFlow's CPU allocator keeps what it once had from the system: the process stays as large as the largest trial.

    The model comes out as it went in, bit for bit; see `kopt.train.preserved`. What that keeps of weights and optimizer
    stands in memory beside the steps; it is not counted in `peak_memory_bytes`, but it is in `resident_bytes`.

    Args:
        model: compiled; built or not.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, or a `tf.data.Dataset` of examples or of batches, which is
            batched anew; or a function without arguments that returns one of these. A data set is begun anew for every
            trial, which one that reshuffles counts; pass a function where that matters.
        mode: `"bisect"`, or `"power"` to end with the powers of two.
        objective: for `chosen`: `"memory"` is the largest batch, `"throughput"` the smallest that is as fast as the
            fastest, within 3 %.
        start: first size; the others are its doubles.
        max_batch_size: none larger is tried.
        memory_limit_bytes: on a CPU most resident memory of this process, on a GPU most that TensorFlow allocates.
            `None` means on a CPU what the process has and what the system or the container's limit leaves it, less
            `headroom`, on a GPU the device's memory.
        headroom: share of the memory that is left free, in [0, 1), where the limit is not given.
        steps: timed steps a trial, after one that is not.
        repeat: use rows again where a batch is larger than the data, e.g. when `data` is one example batch. Else such a
            batch ends the search.

    Returns:
        Record with every trial, in the order they were run.

    Raises:
        ConfigError: the model is not compiled, or a setting is out of range.
        DataError: fewer examples than `start`.
        OutOfMemoryError: not even the first batch fits; the message says what would help.
        MeasurementError: on a CPU, not on Linux.

    Example:
        >>> found = kopt.train.find_batch_size(model, (x_train, y_train), start=16, max_batch_size=64)
        >>> [trial.batch_size for trial in found.trials], found.chosen
        ([16, 32, 64], 64)
    """
    check_compiled(model)
    choice("mode", mode, ("bisect", "power"))
    choice("objective", objective, ("memory", "throughput"))
    whole("start", start)
    whole("steps", steps)
    _check_limits(start, max_batch_size, memory_limit_bytes, headroom)
    examples = _Examples(model, data, repeat)
    with preserved(model) as snapshot:
        meter = MemoryMeter(memory_limit_bytes, headroom, snapshot.size_bytes)
        trials = _Trials(model, examples, meter, steps)
        trials.warm_up(start)
        tried, stopped = search(trials.attempt, start=start, most=max_batch_size, bisect=mode == "bisect")
    return _result(tried, objective, stopped, meter)


def _check_limits(start: int, most: int | None, limit_bytes: int | None, headroom: float) -> None:
    if most is not None and whole("max_batch_size", most) < start:
        raise ConfigError(f"`max_batch_size` must be at least `start`. Received: max_batch_size={most}, start={start}.")
    if limit_bytes is not None:
        whole("memory_limit_bytes", limit_bytes)
    if number("headroom", headroom, least=0.0, most=1.0) == 1.0:
        raise ConfigError("`headroom` is a share of the memory below 1. Received: 1.0, which leaves nothing.")


def _result(trials: list[BatchTrial], objective: str, stopped: str, meter: MemoryMeter) -> BatchSizeSearch:
    chosen, why = choose(trials, objective)
    return BatchSizeSearch(
        trials=tuple(trials),
        largest=max(trial.batch_size for trial in trials if trial.fits),
        fastest=fastest(trials).batch_size,
        chosen=chosen,
        objective=objective,
        why=why,
        limit_bytes=meter.limit_bytes,
        stopped=stopped,
        device=meter.device,
    )


class _Trials:
    """Tries batch sizes on the model, with one train function for all."""

    def __init__(self, model: keras.Model, examples: "_Examples", meter: MemoryMeter, steps: int):
        self._model, self._examples, self._meter, self._steps = model, examples, meter, steps
        self._grown: dict[int, int] = {}

    def warm_up(self, size: int) -> None:
        """Build the optimizer and trace the step, so that their memory is not taken for the batch's.

        Raises:
            DataError: there are fewer examples.
            OutOfMemoryError: a batch of that size does not fit.
        """
        batch = self._examples.take(size)
        if batch is None:
            raise DataError(
                f"The data has fewer than `start={size}` examples. Pass more data, `repeat=True` to use rows again, or "
                f"a smaller `start`."
            )
        try:
            self._run(batch, 1)
        except _FAILURES as error:
            if not _is_out_of_memory(error):
                raise
            raise explain_out_of_memory(error, self._model, batch) from error

    def attempt(self, size: int) -> BatchTrial | None:
        """Return the trial of a batch size; `None` if there are fewer examples."""
        before = self._meter.start()
        smaller = sorted(pair for pair in self._grown.items() if pair[0] < size)
        if smaller:
            predicted = before + predicted_growth(smaller, size)
            if self._meter.exceeds(needed := self._meter.predict(predicted)):
                reason = (
                    f"{_mib(needed)} predicted from smaller batches, above the limit of {self._meter.limit}; not run."
                )
                return BatchTrial(size, False, False, *self._meter.both(predicted, needed), reason=reason)
        batch = self._examples.take(size)
        if batch is None:
            return None
        try:
            times, peak = self._run(batch, self._steps)
        except _FAILURES as error:
            if not _is_out_of_memory(error):
                raise
            gc.collect()  # The traceback held on to the tensors of the step.
            return BatchTrial(size, False, True, None, reason=f"out of memory ({words_of(error)[:120]}).")
        self._grown[size] = max(0, peak - before)
        needed = self._meter.needed(peak)
        fits = not self._meter.exceeds(needed)
        step_ms = statistics.median(times)
        return BatchTrial(
            size,
            fits,
            True,
            *self._meter.both(peak, needed),
            step_ms=step_ms,
            examples_per_s=1000 * size / step_ms,
            reason="" if fits else f"{_mib(needed)} taken, above the limit of {self._meter.limit}.",
        )

    def _run(self, batch: Any, steps: int) -> tuple[list[float], int]:
        trial = TrialSteps(self._model, tf.data.Dataset.from_tensors(batch).repeat())
        trial.take()
        self._meter.start()
        times = []
        for _ in range(steps):
            began = time.perf_counter()
            trial.take()
            times.append(1000 * (time.perf_counter() - began))
        return times, self._meter.peak()


# MemoryError is what `std::bad_alloc` becomes in Python; the others are looked at before they are believed.
_FAILURES = (tf.errors.ResourceExhaustedError, tf.errors.InternalError, tf.errors.UnknownError, MemoryError)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)):
        return True
    return any(words in str(error).lower() for words in _NO_MEMORY)


def _as_arrays(structure: Any) -> Any:
    """Return the structure of arrays, with tuples for lists of them, which TensorFlow would make one array of."""
    if isinstance(structure, dict):
        return {key: _as_arrays(one) for key, one in structure.items()}
    if isinstance(structure, tuple) or (
        isinstance(structure, list) and any(hasattr(one, "shape") for one in structure)
    ):
        return tuple(_as_arrays(one) for one in structure)
    return np.asarray(structure)


class _Examples:
    """Gives batches of any size from the first examples of the data."""

    def __init__(self, model: keras.Model, data: Any, repeat: bool):
        data = data() if callable(data) else data
        self._repeat = repeat
        self._arrays: Any = None
        self._dataset: Any = None
        if isinstance(data, tf.data.Dataset):
            self._dataset = data.unbatch() if _is_batched(model, data) else data
        else:
            parts = tuple(part for part in unpack(data) if part is not None)
            if any(isinstance(part, keras.utils.PyDataset) or hasattr(part, "__next__") for part in parts):
                raise DataError(
                    f"Batches of any size are cut of arrays or of a `tf.data.Dataset`. Received: "
                    f"{type(parts[0]).__module__}.{type(parts[0]).__qualname__}. Pass the arrays."
                )
            self._arrays = _as_arrays(parts)
            _check_lengths(self._arrays)

    def take(self, size: int) -> Any:
        """Return `(x,)`, `(x, y)` or `(x, y, sample_weight)` of `size` examples, or `None` if there are fewer."""
        if self._arrays is not None:
            length = len(tf.nest.flatten(self._arrays)[0])
            return self._rows(self._arrays, size, length)
        batch = next(iter(self._dataset.batch(size)), None)
        if batch is None:
            return None
        batch = batch if isinstance(batch, tuple) else (batch,)
        return self._rows(batch, size, int(tf.nest.flatten(batch)[0].shape[0]))

    def _rows(self, batch: Any, size: int, length: int) -> Any:
        if length < size and not self._repeat:
            return None
        rows = np.arange(size) % length
        return tf.nest.map_structure(lambda array: _taken(array, rows), batch)


def _taken(array: Any, rows: Any) -> Any:
    if isinstance(array, tf.Tensor):
        return tf.gather(array, rows)
    taken = array[: len(rows)] if len(rows) <= len(array) else array[rows]
    return taken.astype("float32") if taken.dtype == np.float64 else taken  # As `fit` does with arrays.


def _check_lengths(arrays: Any) -> None:
    lengths = {array.shape[0] if array.ndim else 0 for array in tf.nest.flatten(arrays)}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(
            f"All arrays must have the same number of examples, at least one. Received lengths {sorted(lengths)}."
        )


def _is_batched(model: keras.Model, dataset: tf.data.Dataset) -> bool:
    """Tell batches from examples by the rank of the first input; a model without known inputs takes batches."""
    if graph_of(model) is None:
        return True
    spec = dataset.element_spec
    given = tf.nest.flatten(spec[0] if isinstance(spec, tuple) else spec)[0].shape.rank
    wanted = len(keras.tree.flatten(model.inputs)[0].shape)
    if given not in (wanted, wanted - 1):
        raise DataError(
            f"The data set's first input has {given} axes; the model takes {wanted} with the batch axis. Pass examples "
            f"or batches of the shape {tuple(model.inputs[0].shape)}."
        )
    return given == wanted


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
