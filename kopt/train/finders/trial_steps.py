"""Training steps of a compiled model, one at a time, for tests that are forgotten afterwards."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.train.acceleration.accelerate import AcceleratedModel
from kopt.train.internals import EpochData, build_on, without_optionals
from kopt.train.steps.input_checks import check_inputs


class TrialSteps:
    """Runs the model's own training step on one batch after the other; call it inside `preserved`.

    The step is that of `fit`: Keras' train function round the model's `train_step`, with the compiled loss and
    optimizer, `jit_compile`, `run_eagerly` and the model's distribution strategy. Of an accelerated model it is the
    accelerated step, with its clipping, accumulation and rematerialization; a step that is NaN or infinite is not left
    out, so that its loss is seen, and where XLA is to be decided by measuring, steps are plain.

    Attributes:
        batches: number of batches in one pass over the data, once its end was seen.
        passes: how often the data was begun.
        batches_a_step: batches that make one update of the weights.
    """

    def __init__(self, model: keras.Model, data: Any, *, batch_size: int | None = None, class_weight: Any = None):
        """Open the data; see `find_learning_rate` for what is accepted."""
        x, y, sample_weight = unpack(data() if callable(data) else data)
        is_array = not isinstance(x, (tf.data.Dataset, keras.utils.PyDataset)) and not hasattr(x, "__next__")
        self._inner = model.model if isinstance(model, AcceleratedModel) else model
        self._data = EpochData(
            self._inner.distribute_strategy,
            x=x,
            y=y,
            sample_weight=sample_weight,
            batch_size=batch_size if is_array else None,
            shuffle=is_array,
            class_weight=class_weight,
        )
        self._begins_again = not hasattr(x, "__next__")
        self._iterator: Any = None
        self._checked = False
        self._steps = 0
        self.batches: int | None = None
        self.passes = 0
        accumulated = model.config.accumulate_steps if isinstance(model, AcceleratedModel) else 1
        self.batches_a_step = max(accumulated, self._inner.optimizer.gradient_accumulation_steps or 1)
        self._train = _accelerated_step(model) if isinstance(model, AcceleratedModel) else _keras_step(model)

    def step(self) -> float | None:
        """Take the batches of one update and return the mean of their losses; `None` if the data ends before.

        Raises:
            UnsupportedModelError: the model's `train_step` gives no `"loss"`.
        """
        losses = [self.take() for _ in range(self.batches_a_step)]
        known = [loss for loss in losses if loss is not None]
        return sum(known) / len(losses) if len(known) == len(losses) else None

    def take(self) -> float | None:
        """Train on the next batch and return its loss; `None` if there is none. See `step`.

        Raises:
            DataError, NonFiniteError: the first batch does not fit the model.
        """
        if self._iterator is None:
            self._begin()
        batch = next(self._iterator, None)
        if batch is None and self._steps and self._begins_again:
            self.batches = self._steps
            self._data.end()
            self._begin()
            batch = next(self._iterator, None)
        if batch is None:
            return None
        if not self._checked:
            self._checked = True
            check_inputs(self._inner, *keras.utils.unpack_x_y_sample_weight(without_optionals(batch)))
            if type(self._inner).train_step is keras.Model.train_step:
                # Not inside the step: a strategy does not let variables be made there.
                build_on(self._inner, batch)
        self._steps += 1
        self._inner.reset_metrics()  # So that the loss in the logs is this batch's, not a mean over batches.
        # The batch is taken here, not inside the step: at the end of the data a step would still draw dropout seeds.
        return _loss(self._train(batch, self._data.dataset.element_spec), self._inner)

    def _begin(self) -> None:
        self._data.begin()
        self._iterator = iter(self._data.dataset)
        self._steps = 0
        self.passes += 1


def _keras_step(model: keras.Model) -> Callable[[Any, Any], Any]:
    model.steps_per_execution = 1
    model.make_train_function()  # Anew in each `preserved` block, which sets the old one aside.
    return lambda batch, spec: model.train_function(iter([batch]))


def _accelerated_step(model: AcceleratedModel) -> Callable[[Any, Any], Any]:
    jit_compile = model.config.jit_compile is True
    model.engine.config = dataclasses.replace(model.config, skip_nonfinite=False, jit_compile=jit_compile)

    def train(batch: Any, spec: Any) -> Any:
        return model.engine.runner_for(spec, batch).take(batch).logs

    return train


def unpack(data: Any) -> tuple[Any, Any, Any]:
    """Return `(x, y, sample_weight)` of arrays, or a data set as `x`.

    Raises:
        ConfigError: a tuple of another length.
    """
    if not isinstance(data, (tuple, list)):
        return data, None, None
    if not 1 <= len(data) <= 3:
        raise ConfigError(
            f"`data` is a data set, or (x, y) or (x, y, sample_weight). Received: {type(data).__name__} of {len(data)}."
        )
    x, y, sample_weight = (*data, None, None)[:3]
    return x, y, sample_weight


def check_compiled(model: Any) -> None:
    """Make sure that a model can be trained.

    Raises:
        ConfigError: it is no Keras model, or not compiled with an optimizer.
    """
    if not isinstance(model, keras.Model):
        raise ConfigError(
            f"A compiled `keras.Model` is needed. Received: {type(model).__module__}.{type(model).__qualname__}."
        )
    if isinstance(model, AcceleratedModel) and model.model.compiled:
        model.require_compiled("the test")  # it takes over what the model inside was compiled with
    if not model.compiled or model.optimizer is None:
        raise ConfigError(
            f"Model {model.name!r} is not compiled with an optimizer. Call `model.compile(optimizer, loss)` first: the "
            f"test runs the steps that `fit` would run."
        )


def _loss(logs: Any, model: keras.Model) -> float:
    if not isinstance(logs, dict) or "loss" not in logs:
        given = ", ".join(logs) if isinstance(logs, dict) else type(logs).__name__
        raise UnsupportedModelError(
            f"The `train_step` of {type(model).__qualname__} returns no 'loss' (it returns: {given}). Return the loss "
            f"to be judged under that name."
        )
    return float(logs["loss"])
