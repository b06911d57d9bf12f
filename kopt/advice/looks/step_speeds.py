"""Training steps timed in several settings; the model is put back."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.advice.looks.subject import Subject
from kopt.core.circumstance_records import StepSpeeds
from kopt.data.step_timing import step_ms
from kopt.train.steps.jit import refusal

_SECONDS = 0.5
_MANY, _LARGER = 32, 4
_MOST_BYTES = 64 << 20  # of the larger batch


def step_speeds(subject: Subject) -> StepSpeeds:
    """Time a step as compiled, plain, with XLA, many in a call, and on a larger batch."""
    model, batch = subject.model, subject.batches[0]
    refused = refusal(model, model.distribute_strategy) or ""
    plain = _timed(model, batch)
    larger = tf.nest.map_structure(lambda leaf: np.concatenate([leaf] * _LARGER), batch)
    fits = sum(leaf.nbytes for leaf in tf.nest.flatten(larger)) <= _MOST_BYTES
    return StepSpeeds(
        batch_examples=len(tf.nest.flatten(batch)[0]),
        compiled_ms=plain if _is_plain(model) else step_ms(model, batch, _SECONDS),
        plain_ms=plain,
        jit_ms=None if refused else _timed(model, batch, jit=True),
        many_ms=_timed(model, batch, many=_MANY),
        many=_MANY,
        larger_ms=_timed(model, larger) if fits else None,
        larger=_LARGER,
        jit_refusal=refused,
    )


def _timed(model: keras.Model, batch: Any, *, jit: bool = False, many: int = 1) -> float:
    with _settings(model, jit, many):
        return step_ms(model, batch, _SECONDS)


def _is_plain(model: keras.Model) -> bool:
    return not model.run_eagerly and not model.jit_compile and int(model.steps_per_execution) == 1


@contextlib.contextmanager
def _settings(model: keras.Model, jit: bool, many: int) -> Iterator[None]:
    """Give the model other settings of `compile` for a moment."""
    before = model.run_eagerly, model.jit_compile, model.steps_per_execution, model.train_function
    model.run_eagerly, model.jit_compile, model.steps_per_execution, model.train_function = False, jit, many, None
    try:
        yield
    finally:
        model.run_eagerly, model.jit_compile, model.steps_per_execution, model.train_function = before
