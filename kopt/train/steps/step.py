"""The training step for custom loops: the same that `accelerate` runs inside `fit`."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, UnsupportedModelError
from kopt.core.records.training.steps import JitDecision, StepConfig
from kopt.core.settings import whole
from kopt.train.numerics.precision import scaled_optimizer
from kopt.train.steps.class_weights import weights_of_classes
from kopt.train.steps.engine import Engine, Remat, call, packed, require_plain_training
from kopt.train.steps.input_checks import check_inputs
from kopt.train.steps.nonfinite import diverged
from kopt.train.steps.runner import Progress


def make_train_step(
    model: keras.Model,
    optimizer: Any,
    loss: Any,
    *,
    metrics: Sequence[Any] | None = None,
    loss_weights: Any = None,
    class_weight: dict[int, float] | None = None,
    jit_compile: bool | str = "auto",
    accumulate_steps: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    global_clip_norm: float | None = None,
    adaptive_clip: float | None = None,
    skip_nonfinite: bool = True,
    max_nonfinite_steps: int = 20,
    log_gradient_norm: bool = False,
    remat: Remat = None,
) -> "TrainStep":
    """Return a traced training step for a loop of your own.

    Use it where `fit` does not suit. The step computes what `fit` computes: losses with their regularization terms,
    metrics, sample and class weights, loss scaling where layers compute in float16, accumulation and clipping.

    Args:
        model: Keras model; it is trained, but neither compiled nor changed otherwise.
        optimizer: as for `compile`; with float16 layers it is put into a `LossScaleOptimizer`.
        loss: as for `compile`: one, or one an output.
        metrics: as for `compile`.
        loss_weights: as for `compile`.
        class_weight: weight by class label, for one output; multiplied with `sample_weight`.
        jit_compile: `True`, `False`, or `"auto"`, which measures both once 10 seconds of training show that a
            compilation can pay.
        accumulate_steps: see `accelerate`, as for the arguments below. Call `flush` at the end of an epoch.
        clip_norm: largest L2 norm of each gradient.
        clip_value: largest absolute value of an entry.
        global_clip_norm: largest L2 norm of all gradients together.
        adaptive_clip: largest ratio of the norm of a unit's gradient to that of its weights.
        skip_nonfinite: leave out batches whose loss or gradient is NaN or infinite.
        max_nonfinite_steps: so many of them in a row end `run` with `DivergedError`, which names the first layer that
            is not finite.
        log_gradient_norm: add `gradient_norm` to the metrics.
        remat: keep less for the backward pass and compute it again.

    Returns:
        The step: `step(x, y=None, sample_weight=None)`, and `step.run(dataset, steps)` for many in one graph.

    Raises:
        ConfigError: an impossible setting.
        UnsupportedModelError: `model` is no Keras model or overrides `train_step`, or its `compute_loss`,
            `compute_metrics` or `metrics`, which take loss and metrics from `compile`: `accelerate` has those.

    Example:
        >>> step = kopt.train.make_train_step(model, "adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> for epoch in range(2):
        ...     step.reset_metrics()
        ...     for x, y in kopt.data.from_arrays(x_train, y_train, batch_size=64):
        ...         logs = step(x, y)
        >>> sorted(logs)
        ['accuracy', 'loss']
    """
    config = StepConfig(
        accumulate_steps=accumulate_steps,
        clip_norm=clip_norm,
        clip_value=clip_value,
        global_clip_norm=global_clip_norm,
        adaptive_clip=adaptive_clip,
        skip_nonfinite=skip_nonfinite,
        max_nonfinite_steps=max_nonfinite_steps,
        log_gradient_norm=log_gradient_norm,
        jit_compile=jit_compile,
    )
    require_plain_training(model)
    _require_plain_loss(model)
    with model.distribute_strategy.scope():
        carrier = _Carrier(model)
        optimizer = scaled_optimizer(model, keras.optimizers.get(optimizer))
        carrier.compile(optimizer, loss, metrics=metrics, loss_weights=loss_weights, auto_scale_loss=False)
    return TrainStep(carrier, config, class_weight, remat)


class TrainStep:
    """What `make_train_step` returns.

    Attributes:
        model: the model that is trained.
        optimizer: the one that trains it, perhaps inside a `LossScaleOptimizer`.
        notes: what is worth knowing about the first batch and no reason to stop; see `check_inputs`.

    Example:
        >>> step = kopt.train.make_train_step(model, "adam", "sparse_categorical_crossentropy")
        >>> logs = step.run(kopt.data.from_arrays(x_train, y_train, batch_size=32), steps=16)
        >>> sorted(logs), int(step.optimizer.iterations), int(step.skipped_steps)
        (['loss'], 16, 0)
    """

    def __init__(self, carrier: "_Carrier", config: StepConfig, class_weight: Any, remat: Any):
        """See `make_train_step`."""
        self.model, self.optimizer = carrier.model, carrier.optimizer
        self.notes: tuple[str, ...] = ()
        self._engine, self._class_weight = Engine(carrier, config, remat, body=carrier.model), class_weight
        self._taken = 0  # batches since `reset_metrics`

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, tf.Tensor]:
        """Take one batch.

        Args:
            x: inputs, arrays or tensors in the structure of the model's inputs.
            y: targets; `None` for a loss of the inputs alone.
            sample_weight: of shape (batch,), or one an output.

        Returns:
            Scalars by name: means since `reset_metrics`. `loss` is there always; `skipped_steps` once a batch was left
            out because it was not finite.

        Raises:
            DataError, NonFiniteError, ConfigError: the first batch does not fit model and loss, see `check_inputs`.
        """
        batch = self._weighted_batch(*packed(x, y, sample_weight))
        self._check(batch)
        return self._logs(self._engine.runner_for_batch(batch).take(batch))

    def run(self, data: Any, steps: int | None = None) -> dict[str, tf.Tensor]:
        """Take many batches in calls of one graph, without Python between them.

        Args:
            data: batched `tf.data.Dataset` of `(x, y)` or `(x, y, sample_weight)`, or an iterator over one, which goes
                on where it stands.
            steps: at most so many batches, at least 1; all if `None`.

        Returns:
            As a call.

        Raises:
            DivergedError: `max_nonfinite_steps` in a row were NaN or infinite.
            DataError: there was no batch, or `data` is of another kind; and as a call, of the first batch.
            ConfigError: an iterator where classes have weights, which belong into its data set, or impossible `steps`.
        """
        if steps is not None:
            whole("steps", steps)
        if not hasattr(data, "element_spec"):
            received = f"{type(data).__module__}.{type(data).__qualname__}"
            raise DataError(
                f"`data` must be a tf.data.Dataset of batches, or an iterator over one. Received: {received}. Make "
                f"one of arrays with `kopt.data.from_arrays`, or call the step with each batch."
            )
        if isinstance(data, tf.data.Iterator) and self._class_weight is not None:
            raise ConfigError("`class_weight` cannot be applied to an iterator. Pass the data set, or weights in it.")
        if steps is None and isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ConfigError("The data set never ends. Pass `steps`, or leave out `repeat()`.")
        iterator = data if isinstance(data, tf.data.Iterator) else iter(self._weighted(data))
        first = next(iterator, None)
        if first is None:
            raise DataError("The data has no batches left. Pass a dataset, or a new iterator.")
        self._check(first)
        runner, limit = self._engine.runner_for(iterator.element_spec, first), self._engine.config.max_nonfinite_steps
        progress, taken = runner.take(first), 1
        while (steps is None or taken < steps) and progress.in_a_row < limit:
            call = runner.steps_per_call()
            following = runner.run(iterator, call if steps is None else min(call, steps - taken))
            if not following.taken:
                break
            progress, taken = following, taken + following.taken
        if progress.in_a_row >= limit:
            raise diverged(self._engine.model, runner.last_batch(), progress.in_a_row, f"step {taken} of this run")
        return self._logs(progress, taken)

    def flush(self) -> None:
        """Apply the gradients that are accumulated and not applied yet."""
        if self._engine.runner is not None:
            self._engine.runner.flush()

    def reset_metrics(self) -> None:
        """Begin the means anew."""
        self._engine.model.reset_metrics()
        self._taken = 0
        if self._engine.runner is not None:
            self._engine.runner.update.reset_counts()

    @property
    def decision(self) -> JitDecision | None:
        """Whether steps are compiled, and why; `None` before the first."""
        return self._engine.runner.decision if self._engine.runner else None

    @property
    def skipped_steps(self) -> int:
        """Batches left out since `reset_metrics` because they were not finite."""
        return int(self._engine.runner.update.nonfinite_steps) if self._engine.runner else 0

    def _check(self, batch: tuple[Any, ...]) -> None:
        """Hold the very first batch against model and loss."""
        if not self._engine.has_update:
            parts = keras.utils.unpack_x_y_sample_weight(batch)
            self.notes = check_inputs(self.model, *parts, loss=self._engine.model.loss).notes

    def _logs(self, progress: Progress, taken: int = 1) -> dict[str, tf.Tensor]:
        self._taken += taken
        if not progress.skipped:
            return dict(progress.logs)
        # A mean over no batch at all is not 0.
        means = (
            dict.fromkeys(progress.logs, tf.constant(math.nan)) if progress.skipped >= self._taken else progress.logs
        )
        return {**means, "skipped_steps": tf.constant(progress.skipped)}

    def _weighted_batch(self, x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, ...]:
        if self._class_weight is not None:
            weight = weights_of_classes(y, self._class_weight)
            sample_weight = weight if sample_weight is None else weight * tf.cast(sample_weight, weight.dtype)
        return packed(x, y, sample_weight)

    def _weighted(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        if self._class_weight is None:
            return dataset
        weighted = tf.autograph.experimental.do_not_convert(self._weighted_batch)
        return dataset.map(weighted, num_parallel_calls=tf.data.AUTOTUNE)


def _require_plain_loss(model: keras.Model) -> None:
    for name in ("compute_loss", "compute_metrics", "metrics"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise UnsupportedModelError(
                f"{type(model).__module__}.{type(model).__qualname__} overrides `{name}`, which works with what "
                f"`compile` was given, and a step has a loss of its own. Compile the model and train it with "
                f"`kopt.train.accelerate`, whose `train_on_batch` takes single steps."
            )


class _Carrier(keras.Model):
    """Carries loss, metrics and optimizer for a model that is not to be compiled."""

    def __init__(self, model: keras.Model):
        super().__init__(name=f"step_of_{model.name}")
        self.model = model
        self.output_names = getattr(model, "output_names", None)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return call(self.model, inputs, training)
