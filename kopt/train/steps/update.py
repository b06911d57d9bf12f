"""One training step of a compiled Keras model as a graph: forward, backward, guard, accumulation, update."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.training.steps import StepConfig
from kopt.train import internals
from kopt.train.steps import gradients as clipping

_HALF = 0.5  # what a loss scale is multiplied with that was too large


class _Batch(NamedTuple):
    """What the forward and backward pass of one batch gave, on one replica."""

    x: Any
    y: Any
    sample_weight: Any
    y_pred: Any
    loss: tf.Tensor
    gradients: list[Any]
    size: tf.Tensor
    weight: tf.Tensor
    statistics: list[tf.Tensor]


class Update:
    """The step, for a model whose variables and optimizer exist.

    `Update.step(data)` is traced in the cross-replica context of the model's strategy (which is the usual context when
    there is no strategy). Only there may a condition decide whether the optimizer runs: inside a replica Keras'
    optimizers call `merge_call`, which TensorFlow forbids in a branch.

    Attributes:
        nonfinite_steps: steps left out since `reset_counts`, an int32 variable.
        nonfinite_in_a_row: those since the last good one, an int32 variable.
        pending: batches that are accumulated and not applied yet, an int32 variable.
    """

    def __init__(self, model: keras.Model, config: StepConfig, forward: Callable[[Any], Any] | None = None):
        """Make the variables of the step.

        Args:
            model: built and compiled, its optimizer built.
            config: of the step.
            forward: gives `y_pred` of a batch `x` in training; the model's own call by default.
        """
        self.model, self.config = model, config
        self.strategy = model.distribute_strategy
        self._forward = forward or self._call
        self._variables = list(model.trainable_variables)
        self._compiled = internals.compile_state(model)
        # What a forward pass may write. Not the states of random generators, which move on with every draw.
        written = [*model.non_trainable_variables, *internals.variables_of_own_metrics(model)]
        self._statistics = [v for v in written if not v.dtype.startswith("uint")]
        self._weighting = weighting_of(model) if config.accumulate_steps > 1 else None
        self.nonfinite_steps, self.nonfinite_in_a_row, self.pending = (_counter() for _ in range(3))
        with self.strategy.scope():
            self._accumulators = [_accumulator(v) for v in self._variables] if config.accumulate_steps > 1 else []
            self._norm = keras.metrics.Mean(name="gradient_norm") if config.log_gradient_norm else None
        self._with_gradient: set[int] = set()  # accumulators of those that had one as the step was traced
        self._accumulated_weight = tf.Variable(0.0, trainable=False)

    def fits(self, model: keras.Model) -> bool:
        """Return whether the step is the one that `model` takes now: compiled alike, the same weights trained."""
        same = len(self._variables) == len(model.trainable_variables) and all(
            ours is theirs for ours, theirs in zip(self._variables, model.trainable_variables, strict=True)
        )
        return same and self._compiled == internals.compile_state(model)

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint has to keep besides the variables of model and optimizer."""
        norm = [v.value for v in self._norm.variables] if self._norm else []
        counters = [self.nonfinite_steps, self.nonfinite_in_a_row, self.pending, self._accumulated_weight]
        return [*counters, *self._accumulators, *norm]

    def step(self, data: Any) -> None:
        """Take one batch: update the weights, or accumulate, or leave the batch out; update the metrics."""
        batch = self.strategy.run(self._differentiate, args=(data,))
        if not self.config.skip_nonfinite:
            self._accept(batch)
            return
        finite = tf.math.is_finite(self._sum(self.strategy.run(_size_of_gradients, args=(batch,))))
        tf.cond(finite, lambda: self._accept(batch), lambda: self._reject(batch))

    def flush(self) -> None:
        """Apply what is accumulated, be it less than `accumulate_steps` batches; nothing if there is nothing."""
        if self._accumulators:
            tf.cond(self.pending > 0, self._apply_accumulated, lambda: None)

    def drop(self) -> None:
        """Forget what is accumulated."""
        for variable in (self.pending, self._accumulated_weight, *self._accumulators):
            variable.assign(tf.zeros_like(variable))

    def logs(self) -> dict[str, tf.Tensor]:
        """Return the metrics as they stand."""
        extra = {"gradient_norm": self._norm.result()} if self._norm else {}
        return {**self.model.get_metrics_result(), **extra}

    def reset_counts(self) -> None:
        """Begin an epoch: forget skipped steps and the mean of the gradient norm."""
        self.nonfinite_steps.assign(0)
        if self._norm:
            self._norm.reset_state()

    def _call(self, x: Any) -> Any:
        return self.model(x, training=True) if internals.call_takes_training(self.model) else self.model(x)

    def _differentiate(self, data: Any) -> _Batch:
        """Run in a replica: forward and backward."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(internals.without_optionals(data))
        statistics = [v.value.read_value() for v in self._statistics] if self.config.skip_nonfinite else []
        with tf.GradientTape() as tape:
            y_pred = self._forward(x)
            loss = internals.compute_loss(self.model, x, y, y_pred, sample_weight)
            scaled = self.model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self._variables)
        size = tf.shape(next(leaf for leaf in tf.nest.flatten(x) if leaf is not None))[0]
        weight = self._weighting(size, y, y_pred, sample_weight) if self._weighting else tf.constant(1.0)
        return _Batch(x, y, sample_weight, y_pred, loss, gradients, size, weight, statistics)

    def _accept(self, batch: _Batch) -> None:
        self.nonfinite_in_a_row.assign(0)
        if self._accumulators:
            self._accumulate(batch)
        else:
            self.strategy.run(self._apply, args=(batch.gradients,))
        self.strategy.run(self._track, args=(batch,))

    def _reject(self, batch: _Batch) -> None:
        """Leave the batch out: of weights, of metrics and, since the forward pass wrote them, of what layers keep."""
        self.nonfinite_steps.assign_add(1)
        optimizer = self.model.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            # As the optimizer itself does. Its scale was too large, which is no reason to give up while it can fall.
            searching = optimizer.dynamic_scale.value > 1.0
            optimizer.step_counter.assign(0)
            optimizer.dynamic_scale.assign(optimizer.dynamic_scale.value * _HALF)
            self.strategy.run(self._scale_accumulated, args=(_HALF,))
            self.nonfinite_in_a_row.assign_add(tf.where(searching, 0, 1))
        else:
            self.nonfinite_in_a_row.assign_add(1)
        self.strategy.run(self._restore, args=(batch.statistics,))

    def _scale_accumulated(self, factor: float) -> None:
        """Run in a replica: follow the loss scale with what was accumulated under another one."""
        for accumulator in self._accumulators:
            accumulator.assign(accumulator.read_value() * tf.cast(factor, accumulator.dtype))

    def _restore(self, statistics: list[tf.Tensor]) -> None:
        for variable, value in zip(self._statistics, statistics, strict=True):
            variable.assign(value)

    def _track(self, batch: _Batch) -> None:
        internals.track_loss(self.model, batch.loss, batch.size)
        found = self.model.compute_metrics(batch.x, batch.y, batch.y_pred, batch.sample_weight)
        unknown = sorted(set(found or ()) - set(self.model.get_metrics_result()))
        if unknown:
            raise UnsupportedModelError(
                f"`compute_metrics` of {type(self.model).__qualname__} returns {', '.join(unknown)}, of which there is "
                f"no metric, and steps in one call of a graph hand over nothing else. Make each a "
                f"`keras.metrics.Mean` of the model, updated there."
            )

    def _accumulate(self, batch: _Batch) -> None:
        total = self._sum(batch.weight)
        self.strategy.run(self._add, args=(batch,))
        self._accumulated_weight.assign_add(total)
        self.pending.assign_add(1)
        tf.cond(self.pending >= self.config.accumulate_steps, self._apply_accumulated, lambda: None)

    def _add(self, batch: _Batch) -> None:
        # Each replica's loss is a mean over its own examples, divided by the number of replicas.
        weight = batch.weight * self.strategy.num_replicas_in_sync
        for accumulator, gradient in zip(self._accumulators, batch.gradients, strict=True):
            if gradient is not None:
                self._with_gradient.add(id(accumulator))
                accumulator.assign_add(clipping.dense(gradient) * tf.cast(weight, gradient.dtype))

    def _apply_accumulated(self) -> None:
        divisor = tf.constant(1.0) if self._weighting is _sum_of_losses else self._accumulated_weight.read_value()
        self.strategy.run(self._apply_divided, args=(divisor,))
        self._accumulated_weight.assign(0.0)
        self.pending.assign(0)

    def _apply_divided(self, divisor: tf.Tensor) -> None:
        # No gradient is not one of zeros: an optimizer would decay the weight.
        known = [a if id(a) in self._with_gradient else None for a in self._accumulators]
        self._apply([None if a is None else a.read_value() / tf.cast(divisor, a.dtype) for a in known])
        for accumulator in self._accumulators:
            accumulator.assign(tf.zeros_like(accumulator))

    def _apply(self, gradients: list[Any]) -> None:
        """Run in a replica: clip and hand over to the optimizer."""
        optimizer = self.model.optimizer
        if self._clips or self._norm:
            replicas = self.strategy.num_replicas_in_sync
            unscaled, scale = _unscaled(self._reduced(gradients), optimizer)
            if self._norm:
                self._norm.update_state(tf.sqrt(clipping.squared_norm(unscaled)))
            # The optimizer adds up the gradients of all replicas and takes the loss scale away.
            factor = scale / replicas
            gradients = [None if g is None else g * tf.cast(factor, g.dtype) for g in self._clipped(unscaled)]
        optimizer.apply(gradients, self._variables)

    @property
    def _clips(self) -> bool:
        config = self.config
        return any((config.clip_norm, config.clip_value, config.global_clip_norm, config.adaptive_clip))

    def _clipped(self, gradients: list[Any]) -> list[Any]:
        config = self.config
        if config.clip_norm:
            return clipping.clip_by_norm(gradients, config.clip_norm)
        if config.clip_value:
            return clipping.clip_by_value(gradients, config.clip_value)
        if config.global_clip_norm:
            return clipping.clip_by_global_norm(gradients, config.global_clip_norm)
        if config.adaptive_clip:
            return clipping.clip_adaptively(gradients, self._variables, config.adaptive_clip)
        return gradients

    def _reduced(self, gradients: list[Any]) -> list[Any]:
        """Return gradients as tensors, added up over the replicas."""
        values = [clipping.dense(g) for g in gradients]
        if self.strategy.num_replicas_in_sync == 1:
            return values
        context = tf.distribute.get_replica_context()
        present = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, [g for g in values if g is not None]))
        return [None if g is None else next(present) for g in values]

    def _sum(self, per_replica: Any) -> tf.Tensor:
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)


def weighting_of(model: keras.Model) -> Callable[..., tf.Tensor]:
    """Return what the loss of a batch is divided by, so that means of several batches add up to that of all of them.

    `sum_over_batch_size` divides by the examples (with a mask, by the valid entries), `mean_with_sample_weight` by the
    sum of the weights, `sum` by nothing. A model that overrides `compute_loss` is taken to give a mean over examples.

    Raises:
        ConfigError: losses with different reductions, or one without. What is returned raises it where outputs are
            averaged over different numbers of entries, so that no one divisor is right.
    """
    found = {_reduction(loss) for loss in internals.compiled_losses(model)}
    if not found:
        return lambda size, y, y_pred, sample_weight: tf.cast(size, tf.float32)
    reductions = set(found)
    reduction = reductions.pop() if len(reductions) == 1 else None
    if reduction is None:
        raise ConfigError(
            f"Gradients of several batches can be added up when all losses reduce alike. Received reductions: "
            f"{', '.join(sorted(map(str, found)))}. Give every loss the same `reduction`."
        )
    classes = (getattr(loss, "ignore_class", None) for loss in internals.compiled_losses(model))
    ignored = [one for one in classes if one is not None]
    if ignored and reduction == "sum_over_batch_size":
        return functools.partial(_by_kept_labels, frozenset(ignored))
    return _WEIGHTINGS[reduction]


def _reduction(loss: Any) -> str | None:
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    return {"mean": "sum_over_batch_size", "none": None}.get(reduction, reduction)


def _by_examples(size: tf.Tensor, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
    mask = _only([internals.mask_of(one) for one in tf.nest.flatten(y_pred)], "masks of outputs")
    return tf.cast(size, tf.float32) if mask is None else tf.reduce_sum(tf.cast(mask, tf.float32))


def _by_weights(size: tf.Tensor, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
    weight = _only(tf.nest.flatten(sample_weight), "sample weights of outputs")
    if weight is None:
        return _by_examples(size, y, y_pred, sample_weight)
    return tf.reduce_sum(tf.cast(weight, tf.float32))


def _by_kept_labels(ignored: frozenset[int], size: tf.Tensor, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
    """Count the labels that a loss with `ignore_class` averages over."""
    labels = _only(tf.nest.flatten(y), "targets, of which some ignore a class")
    kept = tf.reduce_all([labels != tf.cast(one, labels.dtype) for one in ignored], axis=0)
    mask = internals.mask_of(tf.nest.flatten(y_pred)[0])
    if mask is not None:
        kept &= tf.reshape(mask, tf.shape(kept))
    return tf.reduce_sum(tf.cast(kept, tf.float32))


def _only(values: list[Any], what: str) -> Any:
    """Return the value that all outputs share, perhaps `None`."""
    if all(value is values[0] for value in values):
        return values[0]
    raise ConfigError(
        f"Gradients of several batches can be added up when all outputs are averaged over as many entries. Received "
        f"{len(values)} {what}. Train with larger batches, or with losses whose `reduction` is 'sum'."
    )


def _sum_of_losses(size: tf.Tensor, y: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
    # Sums add up as they are; Keras divides them by the number of replicas too, and so they stay divided.
    return tf.constant(1.0 / tf.distribute.get_strategy().num_replicas_in_sync)


_WEIGHTINGS = {
    "sum_over_batch_size": _by_examples,
    "mean_with_sample_weight": _by_weights,
    "sum": _sum_of_losses,
}


def _size_of_gradients(batch: _Batch) -> tf.Tensor:
    """Return a number that is finite if the loss and all gradients are."""
    return tf.cast(batch.loss, tf.float32) + clipping.sum_of_entries(batch.gradients)


def _unscaled(gradients: list[Any], optimizer: Any) -> tuple[list[Any], tf.Tensor]:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = tf.convert_to_tensor(optimizer.dynamic_scale)
    elif optimizer.loss_scale_factor is not None:
        scale = tf.constant(optimizer.loss_scale_factor, tf.float32)
    else:
        return gradients, tf.constant(1.0)
    return [None if g is None else g / tf.cast(scale, g.dtype) for g in gradients], scale


def _counter() -> tf.Variable:
    return tf.Variable(0, dtype=tf.int32, trainable=False)


def _accumulator(variable: Any) -> tf.Variable:
    # Every replica adds up its own gradients; they meet once, in the optimizer.
    return tf.Variable(
        tf.zeros(variable.shape, variable.dtype),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
