"""Training steps on a stream of batches: many in one graph call, plain or compiled, whichever was measured faster."""

import time
from typing import Any, NamedTuple

import tensorflow as tf

from kopt.core.errors import words_of
from kopt.core.records.training.steps import JitDecision
from kopt.train.steps.jit import JitTrial, refusal
from kopt.train.steps.label_checks import named_labels
from kopt.train.steps.update import Update

# Long enough that a call's own cost (about a millisecond) does not count, short enough for a progress bar.
_CALL_S, _TRIAL_CALL_S = 0.15, 0.05
_MOST_STEPS = 4096
_COMPILER_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.InternalError)


class Progress(NamedTuple):
    """Where training stands after a call.

    Attributes:
        taken: batches that the call took; 0 means that the data has ended.
        skipped: batches of this epoch that were left out because they were not finite.
        in_a_row: how many of them were the last ones.
        logs: the metrics as they stand, tensors.
    """

    taken: int
    skipped: int
    in_a_row: int
    logs: dict[str, Any]


class Runner:
    """Runs the steps of an `Update` on batches of one kind.

    A call of `run` is one call of a graph that takes batch after batch in a loop. With XLA, batches of the shape of the
    first are compiled; a batch of another shape, such as the remainder of an epoch, takes the plain step that stands
    beside it in the same graph, because compiling it would take seconds.

    Attributes:
        trial: the decision between plain and compiled steps.
        distributed: whether batches are spread over replicas. Then the caller has to know how many there are, or take
            them one at a time.
    """

    def __init__(self, update: Update, spec: Any, first_batch: Any):
        """Trace the step; only a call runs it.

        Args:
            update: the step.
            spec: `element_spec` of the iterators that are to come.
            first_batch: an element of them.
        """
        self.update, self.spec = update, spec
        self.trial = JitTrial(update.config.jit_compile, refusal(update.model, update.strategy))
        self._last_batch: Any = None
        self.distributed = any(isinstance(v, tf.distribute.DistributedValues) for v in tf.nest.flatten(first_batch))
        # A concrete function does not take distributed values from inside a loop.
        self._plain = tf.function(update.step, autograph=False) if self.distributed else _traced(update.step, spec)
        self._fixed_spec = _fixed_spec(spec, first_batch)
        self._compiled: Any = None
        self._loops: dict[bool, Any] = {}
        self._step_s: float | None = None
        self._taken_singly = False
        self._state = _traced(self._read_state)
        self._flush: Any = None

    @property
    def decision(self) -> JitDecision:
        """How steps run, and why."""
        return self.trial.decision or self.trial.undecided()

    def accepts(self, spec: Any, first_batch: Any) -> bool:
        """Return whether such batches are of the kind that this runner was made for."""
        return bool(spec == self.spec) and self._fixed_spec == _fixed_spec(spec, first_batch)

    def opened(self, spec: Any) -> Any:
        """Return the spec of the runner with those axes open that `spec` has otherwise; `None` of another structure."""
        try:
            tf.nest.assert_same_structure(self.spec, spec)
            return tf.nest.map_structure(_most_general, self.spec, spec)
        except (TypeError, ValueError):
            return None

    def steps_per_call(self) -> int:
        """Return how many steps the next call of `run` should take, from the time of the steps before it."""
        if self._step_s is None:
            return 1
        goal = _CALL_S if self.trial.decision else _TRIAL_CALL_S
        return max(1, min(_MOST_STEPS, int(goal / self._step_s)))

    def last_batch(self) -> Any:
        """Return the batch that was taken last; `None` if it is gone, as distributed ones are."""
        kept = self._last_batch
        if isinstance(kept, tf.experimental.Optional):
            return kept.get_value() if kept.has_value() else None
        return kept

    def take(self, batch: Any, steps_ahead: float | None = None) -> Progress:
        """Take one batch that is in the caller's hands.

        Args:
            batch: one that the runner accepts.
            steps_ahead: steps that the training still has, at least; `None` if unknown.
        """
        self._last_batch = batch
        jit = self.trial.next_form(steps_ahead) and self._has_fixed_shape(batch)
        start = time.perf_counter()
        with named_labels():
            if jit and self._compiled is None:
                self._take_first_compiled(batch)
            else:
                (self._compiled if jit else self._plain)(batch)
        skipped, in_a_row, logs = self._state()
        progress = Progress(1, int(skipped), int(in_a_row), logs)
        if self._taken_singly:
            self.trial.record(jit, time.perf_counter() - start, 1)
        self._taken_singly = True
        return progress

    def run(self, iterator: Any, steps: int, steps_ahead: float | None = None) -> Progress:
        """Take up to `steps` batches.

        It is less when the data ends, when `max_nonfinite_steps` is reached, and when a step is compiled for the first
        time.
        """
        jit = self.trial.next_form(steps_ahead)
        if jit and self._compiled is None and self.trial.decision is None:
            batch = next(iterator, None)
            if batch is not None:
                return self.take(batch, steps_ahead)
        fresh = jit not in self._loops
        if fresh:
            self._loops[jit] = _traced(self._loop(jit), iterator, tf.constant(steps))
        start = time.perf_counter()
        try:
            with named_labels():
                taken, skipped, in_a_row, logs, last = self._loops[jit](iterator, tf.constant(steps))
        except tf.errors.OutOfRangeError:  # Of distributed data only, see `_loop`.
            taken, last = 0, None
            skipped, in_a_row, logs = self._state()
        progress = Progress(int(taken), int(skipped), int(in_a_row), logs)
        self._last_batch = None if self.distributed else last
        if progress.taken and not fresh:
            seconds = time.perf_counter() - start
            self._step_s = seconds / progress.taken
            self.trial.record(jit, seconds, progress.taken)
        return progress

    def flush(self) -> dict[str, Any]:
        """Apply what is accumulated and return the metrics as they stand."""
        if self._flush is None:  # after the step, which shows what has gradients
            self._flush = _traced(self.update.flush)
        self._flush()
        return dict(self._state()[2])

    def _take_first_compiled(self, batch: Any) -> None:
        start = time.perf_counter()
        try:
            self._compile()
            self._compiled(batch)
        except _COMPILER_ERRORS as error:
            if self.update.config.jit_compile is True:
                raise
            self.trial.decline(f"XLA cannot compile this model: {words_of(error)[:200]}")
            self._plain(batch)
        else:
            self.trial.compiled(time.perf_counter() - start)
            self._taken_singly = False  # What follows in `take` is no measurement.

    def _compile(self) -> None:
        if self._compiled is None:
            self._compiled = _traced(self.update.step, self._fixed_spec, jit_compile=True)

    def _has_fixed_shape(self, batch: Any) -> bool:
        pairs = zip(tf.nest.flatten(batch), tf.nest.flatten(self._fixed_spec), strict=True)
        return all(tensor.shape == spec.shape for tensor, spec in pairs if isinstance(spec, tf.TensorSpec))

    def _read_state(self) -> tuple[Any, ...]:
        update = self.update
        return update.nonfinite_steps.read_value(), update.nonfinite_in_a_row.read_value(), update.logs()

    def _loop(self, jit: bool) -> Any:
        if jit:
            self._compile()
        step = self._compiled_or_plain if jit else self._plain
        counts, limit = self.update.nonfinite_in_a_row, self.update.config.max_nonfinite_steps
        # The batch travels with the loop, so that one that was not finite can be looked at afterwards.
        kept = [] if self.distributed else [tf.experimental.Optional.empty(self.spec)]

        def loop(iterator: Any, steps: tf.Tensor) -> tuple[Any, ...]:
            def go_on(taken: tf.Tensor, running: tf.Tensor, *_: Any) -> tf.Tensor:
                return running & (taken < steps) & (counts < limit)

            def body(taken: tf.Tensor, *_: Any) -> list[Any]:
                if self.distributed:
                    # A distributed optional does not work in a branch that runs replicas; `next` raises at the end.
                    step(iterator.get_next())
                    return [taken + 1, tf.constant(True)]
                batch = iterator.get_next_as_optional()
                there = batch.has_value()
                tf.cond(there, lambda: _then_zero(step, batch.get_value()), lambda: 0)
                return [taken + tf.cast(there, tf.int32), there, batch]

            state = [tf.constant(0), tf.constant(True), *kept]
            taken, _, *last = tf.while_loop(go_on, body, state, parallel_iterations=1)
            return taken, *self._read_state(), last[0] if last else tf.constant(0)

        return loop

    def _compiled_or_plain(self, batch: Any) -> None:
        """Take a batch in the graph: compiled if it has the shape that was compiled."""
        leaves = [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]
        specs = [spec for spec in tf.nest.flatten(self._fixed_spec) if spec is not None]
        varying = [(a, s.shape) for a, s in zip(leaves, specs, strict=True) if not a.shape.is_fully_defined()]
        if not varying:
            self._compiled(batch)
            return
        same = tf.reduce_all([tf.reduce_all(tf.shape(tensor) == shape) for tensor, shape in varying])

        def compiled() -> int:
            fixed = [_with_shape(tensor, spec.shape) for tensor, spec in zip(leaves, specs, strict=True)]
            return _then_zero(self._compiled, tf.nest.pack_sequence_as(batch, fixed))

        tf.cond(same, compiled, lambda: _then_zero(self._plain, batch))


def _traced(function: Any, *arguments: Any, jit_compile: bool | None = None) -> Any:
    """Return the graph of a function; a concrete one, so that making many of them is not taken for retracing."""
    return tf.function(function, autograph=False, jit_compile=jit_compile).get_concrete_function(*arguments)


def _then_zero(step: Any, batch: Any) -> int:
    step(batch)
    return 0


def _with_shape(tensor: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Return the tensor, known to have this shape. `tf.ensure_shape` would check it in the branch not taken, too."""
    known = tf.identity(tensor)
    known.set_shape(shape)
    return known


def _most_general(a: tf.TypeSpec, b: tf.TypeSpec) -> tf.TypeSpec:
    if a == b:  # also of ragged and sparse tensors
        return a
    if not (isinstance(a, tf.TensorSpec) and isinstance(b, tf.TensorSpec)):
        raise ValueError("These are no batches of one kind.")
    if a.dtype != b.dtype or a.shape.rank != b.shape.rank:
        raise ValueError("These are no batches of one kind.")
    return tf.TensorSpec([m if m == n else None for m, n in zip(a.shape, b.shape, strict=True)], a.dtype)


def _fixed_spec(spec: Any, batch: Any) -> Any:
    """Return `spec` with the shapes that `batch` has."""

    def fixed(part: Any, value: Any) -> Any:
        return tf.TensorSpec(value.shape, part.dtype) if isinstance(part, tf.TensorSpec) else part

    return tf.nest.map_structure(fixed, spec, batch)
