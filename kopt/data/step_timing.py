"""How long one training step of a compiled model takes on a batch that is at hand."""

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.core.randomness import preserved_random_state

_COLORS = re.compile(r"\x1b\[\d*m")
_WARM_UP = 2
_LEAST = 3


def check_compiled(model: Any) -> None:
    """Refuse what cannot be trained.

    Raises:
        ConfigError: no Keras model, or not compiled.
    """
    if not isinstance(model, keras.Model):
        raise ConfigError(
            f"`model` must be a Keras model. Received: {type(model).__module__}.{type(model).__qualname__}."
        )
    if not model.compiled:
        raise ConfigError(
            f"The model {model.name!r} is not compiled, so it has no training step. Call "
            f"`model.compile(optimizer, loss)` first."
        )


def step_ms(model: keras.Model, batch: Any, seconds: float) -> float:
    """Return milliseconds of one training step, as `fit` runs it, and leave the model as it was.

    Weights, optimizer, metrics and the states of random layers are put back. An optimizer that was not built is built,
    as `fit` would do first.

    Args:
        model: compiled.
        batch: `(x, y)` or `(x, y, sample_weight)`.
        seconds: how long to measure, after two steps that are not counted.

    Raises:
        ConfigError: the batch has no targets.
        DataError: the model cannot be trained on it.
    """
    if not isinstance(batch, tuple) or len(batch) < 2:
        raise ConfigError(
            "The data set yields inputs without targets, so the model cannot be trained on it. Pass a data set of "
            "(x, y), or `model=None` to diagnose the pipeline alone."
        )
    with unchanged(model, batch):
        model.make_train_function()
        dataset = tf.data.Dataset.from_tensors(batch).repeat()
        iterator = iter(model.distribute_strategy.experimental_distribute_dataset(dataset))
        try:
            for _ in range(_WARM_UP):
                _run(model, iterator)
        except (ValueError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            raise DataError(_untrainable(model, batch, error)) from error
        calls, begin = 0, time.perf_counter()
        while calls < _LEAST or time.perf_counter() - begin < seconds:
            _run(model, iterator)
            calls += 1
        spent = time.perf_counter() - begin
        return spent * 1e3 / (calls * int(model.steps_per_execution))


@contextlib.contextmanager
def unchanged(model: keras.Model, batch: Any) -> Iterator[None]:
    """Put everything that training steps change in `model` back at the end of the block."""
    with preserved_random_state():
        if not model.built:
            model(tf.nest.map_structure(lambda part: part[:1], batch[0]))
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        before = {id(variable): (variable, variable.numpy()) for variable in _variables(model)}
        function = model.train_function
        try:
            yield
        finally:
            model.train_function = function
            for variable in _variables(model):
                if id(variable) in before:
                    variable.assign(before[id(variable)][1])
            if any(id(variable) not in before for variable in model.metrics_variables):
                model.reset_metrics()  # They did not exist before, so nothing was counted.


def _untrainable(model: keras.Model, batch: Any, error: Exception) -> str:
    shapes = ", ".join(str(tuple(part.shape)) for part in tf.nest.flatten(batch))
    lines = [_COLORS.sub("", line).strip() for line in str(error).splitlines() if line.strip()]
    # The first line is a headline, in TensorFlow's errors and in those of Keras.
    words = next((line for line in lines if "Received a label" in line or "shape" in line), lines[0] if lines else "")
    return (
        f"The model {model.name!r} cannot be trained on a batch of this data set, with parts of shapes {shapes}: "
        f"{words[:300].rstrip('.')}. Batch the data set if it gives single examples; "
        f"`kopt.train.check_inputs(model, x, y)` of one batch says more."
    )


def _run(model: keras.Model, iterator: Any) -> None:
    for value in tf.nest.flatten(model.train_function(iterator)):
        float(tf.reduce_sum(value))  # Waits for the accelerator.


def _variables(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]
