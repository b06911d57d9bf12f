"""Training steps timed in several settings, in turn, so that noise hits all alike; the model is put back."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.advice.looks.subject import Subject
from kopt.core.records.profiles.circumstances import StepSpeeds
from kopt.data.step_timing import unchanged
from kopt.train.steps.jit import refusal

_ROUNDS, _ROUND_S, _WARM_UP = 5, 0.1, 2
_MANY, _LARGER = 32, 4
_MOST_BYTES = 64 << 20  # of the larger batch


@dataclasses.dataclass
class _Variant:
    """A training function of Keras, traced, with the batch it takes again and again."""

    function: Any
    iterator: Any
    steps: int
    times_ms: list[float]

    def call(self) -> None:
        for value in tf.nest.flatten(self.function(self.iterator)):
            float(tf.reduce_sum(value))  # Waits for the accelerator.

    def time(self) -> None:
        calls, begin = 0, time.perf_counter()
        while not calls or time.perf_counter() - begin < _ROUND_S:
            self.call()
            calls += 1
        self.times_ms.append((time.perf_counter() - begin) * 1e3 / (calls * self.steps))

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times_ms)


def step_speeds(subject: Subject) -> StepSpeeds:
    """Time a step as compiled, plain, with XLA, many in a call, and on a larger batch."""
    model, batch = subject.model, subject.batches[0]
    refused = refusal(model, model.distribute_strategy) or ""
    larger = tf.nest.map_structure(lambda leaf: np.concatenate([leaf] * _LARGER), batch)
    fits = sum(leaf.nbytes for leaf in tf.nest.flatten(larger)) <= _MOST_BYTES
    with unchanged(model, batch):
        variants = {"plain": _variant(model, batch), "many": _variant(model, batch, many=_MANY)}
        if not refused:
            variants["jit"] = _variant(model, batch, jit=True)
        if fits:
            variants["larger"] = _variant(model, larger)
        if model.run_eagerly or model.jit_compile or int(model.steps_per_execution) != 1:
            variants["compiled"] = _traced(model, batch, int(model.steps_per_execution))
        for _ in range(_ROUNDS):
            for variant in variants.values():
                variant.time()
    times = {name: variant.median_ms for name, variant in variants.items()}
    return StepSpeeds(
        batch_examples=len(tf.nest.flatten(batch)[0]),
        compiled_ms=times.get("compiled", times["plain"]),
        plain_ms=times["plain"],
        jit_ms=times.get("jit"),
        many_ms=times["many"],
        many=_MANY,
        larger_ms=times.get("larger"),
        larger=_LARGER,
        jit_refusal=refused,
    )


def _variant(model: keras.Model, batch: Any, *, jit: bool = False, many: int = 1) -> _Variant:
    with _settings(model, jit, many):
        return _traced(model, batch, many)


def _traced(model: keras.Model, batch: Any, many: int) -> _Variant:
    """Return the function that `fit` would call, after calls that trace and compile it."""
    model.make_train_function(force=True)
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    iterator = iter(model.distribute_strategy.experimental_distribute_dataset(dataset))
    variant = _Variant(model.train_function, iterator, many, [])
    for _ in range(_WARM_UP):
        variant.call()
    return variant


@contextlib.contextmanager
def _settings(model: keras.Model, jit: bool, many: int) -> Iterator[None]:
    """Give the model other settings of `compile` for a moment."""
    before = model.run_eagerly, model.jit_compile, model.steps_per_execution
    model.run_eagerly, model.jit_compile, model.steps_per_execution = False, jit, many
    try:
        yield
    finally:
        model.run_eagerly, model.jit_compile, model.steps_per_execution = before
