"""A Keras model whose `fit` is fast and stable; the model inside stays the user's own."""

import dataclasses
import os
from typing import Any

import keras

from kopt.core.errors import ConfigError, InputError, UnsupportedModelError
from kopt.core.records.training.steps import AccelerationReport, StepConfig
from kopt.core.settings import whole
from kopt.train import internals
from kopt.train.acceleration.checkpoints import Checkpointing
from kopt.train.acceleration.fitting import Fit
from kopt.train.numerics.precision import needs_loss_scaling, scaled_optimizer
from kopt.train.optimizers.wrapper import chain
from kopt.train.steps.class_weights import weights_of_classes
from kopt.train.steps.engine import Engine, Remat, call, packed, require_plain_training

_EAGER = (
    "`run_eagerly` and acceleration exclude each other. Call `fit` of the model itself, or compile it with "
    "`run_eagerly=False`."
)


def accelerate(
    model: keras.Model,
    *,
    accumulate_steps: int = 1,
    remat: Remat = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    global_clip_norm: float | None = None,
    adaptive_clip: float | None = None,
    skip_nonfinite: bool = True,
    max_nonfinite_steps: int = 20,
    log_gradient_norm: bool = False,
    jit_compile: bool | str = "auto",
    checkpoint: "Checkpointing | str | os.PathLike[str] | None" = None,
) -> "AcceleratedModel":
    """Return a Keras model around `model` for `compile`, `fit`, `evaluate`, `predict` and `save`.

    Use it in the place of the model where training takes long or is fragile. `fit` runs many steps in one graph call
    (so many that a call takes about 0.15 s) and compiles them with XLA where that was measured to be faster; losses
    and weights are those of `model.fit`. Compile before or after: `model`'s own optimizer, loss and metrics are used.

    Args:
        model: Keras model that does not override `train_step`; its weights are the ones that are trained.
        accumulate_steps: batches whose gradients become one update. Equal to batches so many times larger, whatever
            their sizes (weighted by what the loss averages over); what is left at the end of an epoch is applied. Batch
            normalization still sees the small batches. The logs count batches, learning-rate schedules count updates.
        remat: keep less for the backward pass and compute it again: `"auto"`, a number of segments, or names of layers;
            see `kopt.train.rematerialized`.
        clip_norm: largest L2 norm of each gradient. At most one of the four clippings; all are applied to the
            accumulated gradient, added up over replicas, without the loss scale.
        clip_value: largest absolute value of an entry.
        global_clip_norm: largest L2 norm of all gradients together.
        adaptive_clip: largest ratio of the norm of a unit's gradient to that of its weights.
        skip_nonfinite: leave out a batch whose loss or gradient is NaN or infinite: weights, moving statistics and
            metrics stay as they were. From the first one on, the logs count them as `skipped_steps`.
        max_nonfinite_steps: so many in a row end the training with `DivergedError`, which names the first layer that
            is not finite. Steps that lower a loss scale above 1 do not count.
        log_gradient_norm: add `gradient_norm`, the mean over the epoch before clipping, to the logs.
        jit_compile: `True`, `False` or `"auto"`, which measures both on the first steps of a training that is long
            enough (10 seconds) for a compilation to pay.
        checkpoint: where and how often to save, so that the next `fit` goes on after a kill; see `Checkpointing`.

    Returns:
        The wrapper; `accelerated.model` is `model`.

    Raises:
        ConfigError: an impossible setting.
        UnsupportedModelError: `model` overrides `train_step`, or is no Keras model.

    Example:
        >>> fast = kopt.train.accelerate(model, accumulate_steps=4, global_clip_norm=1.0)
        >>> history = fast.fit(x_train, y_train, batch_size=16, epochs=3, verbose=0)
        >>> int(model.optimizer.iterations)  # 32 batches an epoch make 8 updates
        24
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
    return AcceleratedModel(model, config, remat=remat, checkpoint=checkpoint)


@keras.saving.register_keras_serializable(package="kopt")
class AcceleratedModel(keras.Model):
    """What `accelerate` returns: trains `model` fast, and is `model` in everything else.

    Optimizer, loss, metrics and weights are those of `model`; callbacks see `model`. `save` writes `model`, as a plain
    Keras file.

    Attributes:
        model: the user's own model.
        engine: runs the steps.
        checkpoint: where and how often `fit` saves; `None` does not.

    Example:
        >>> fast = kopt.train.accelerate(model)
        >>> history = fast.fit(x_train, y_train, epochs=2, verbose=0)
        >>> fast.report.steps_per_call >= 1, fast.model is model
        (True, True)
        >>> fast.save("trained.keras")  # a plain Keras file
    """

    def __init__(
        self,
        model: keras.Model,
        config: StepConfig | None = None,
        *,
        remat: Remat = None,
        checkpoint: "Checkpointing | str | os.PathLike[str] | None" = None,
        **kwargs: Any,
    ):
        """See `accelerate`."""
        if isinstance(model, AcceleratedModel):
            raise UnsupportedModelError(
                "The model is accelerated already. Pass `accelerated.model` for other settings."
            )
        require_plain_training(model)
        super().__init__(name=f"accelerated_{model.name}", **kwargs)
        self.model = model
        # A model round another one, as that of distillation, says which of them has the layers.
        body = None if remat is None else getattr(model, "rematerialized_body", None)
        self.engine = Engine(model, config or StepConfig(), remat, body)
        self.checkpoint = Checkpointing.of(checkpoint)
        self._fixed_steps: int | None = model.steps_per_execution if model.steps_per_execution > 1 else None
        self._notes: tuple[str, ...] = ()
        if model.compiled:
            self._adopt()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return what the model returns."""
        return call(self.model, inputs, training)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        steps_per_execution: int | str = "auto",
        jit_compile: bool | str | None = None,
        **settings: Any,
    ) -> None:
        """Compile `model`; arguments are those of `keras.Model.compile`, with two differences.

        Args:
            optimizer: of `model`. With float16 layers it is put into a `LossScaleOptimizer`.
            loss: of `model`.
            steps_per_execution: a number fixes how many steps a call of the graph takes, and so how often callbacks
                are called; `"auto"` measures, and takes single steps when a callback observes batches.
            jit_compile: replaces the setting that `accelerate` was given.
            **settings: other arguments of `keras.Model.compile`.
        """
        if settings.get("run_eagerly"):
            raise ConfigError(_EAGER)
        if jit_compile is not None:
            self.engine.config = dataclasses.replace(self.config, jit_compile=jit_compile)
        automatic = steps_per_execution == "auto"
        self._fixed_steps = None if automatic else whole("steps_per_execution", steps_per_execution)
        self.model.compile(optimizer, loss, **settings)
        self._adopt()

    def fit(self, x: Any = None, y: Any = None, **settings: Any) -> keras.callbacks.History:
        """Train `model`; arguments and history are those of `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`, with the keys of `model.fit`.

        Raises:
            DataError, NonFiniteError: the first batch does not fit the model; nothing was trained.
            DivergedError: `max_nonfinite_steps` in a row were NaN or infinite.
            OutOfMemoryError: a step does not fit into memory; what was trained so far is kept.
        """
        self.require_compiled("fit")
        fit = Fit(self.engine, x, y, checkpoint=self.checkpoint, fixed_steps=self._fixed_steps, **settings)
        try:
            return fit.run()
        finally:
            self._notes = fit.notes

    def evaluate(self, *args: Any, **settings: Any) -> Any:
        """Evaluate `model`; see `keras.Model.evaluate`."""
        self.require_compiled("evaluate")
        return self.model.evaluate(*args, **settings)

    def predict(self, *args: Any, **settings: Any) -> Any:
        """Predict with `model`; see `keras.Model.predict`."""
        return self.model.predict(*args, **settings)

    def test_on_batch(self, *args: Any, **settings: Any) -> Any:
        """See `keras.Model.test_on_batch`."""
        return self.model.test_on_batch(*args, **settings)

    def predict_on_batch(self, x: Any) -> Any:
        """See `keras.Model.predict_on_batch`."""
        return self.model.predict_on_batch(x)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Take one step; see `keras.Model.train_on_batch`. It takes `accumulate_steps` of them for an update."""
        self.require_compiled("train_on_batch")
        if class_weight is not None:
            if sample_weight is not None:
                raise ConfigError("`sample_weight` and `class_weight` cannot both be given.")
            sample_weight = weights_of_classes(y, class_weight)
        batch = packed(x, y, sample_weight)
        runner = self.engine.runner_for_batch(batch)
        self.model.reset_metrics()
        logs = internals.as_numbers(runner.take(batch).logs)
        return logs if return_dict else internals.in_order_of_metrics(self.model, logs)

    def make_train_function(self, force: bool = False) -> Any:
        """Make the step that `model.fit` takes, for tools that time single steps; `fit` does not use it."""
        self.model.make_train_function(force)
        self.train_function = self.model.train_function
        return self.train_function

    def save(self, filepath: Any, overwrite: bool = True, **settings: Any) -> None:
        """Save `model`, not the wrapper; see `keras.Model.save`."""
        self.model.save(filepath, overwrite=overwrite, **settings)

    def save_weights(self, filepath: Any, overwrite: bool = True, **settings: Any) -> None:
        """Save the weights of `model`; see `keras.Model.save_weights`."""
        self.model.save_weights(filepath, overwrite=overwrite, **settings)

    def load_weights(self, filepath: Any, **settings: Any) -> None:
        """Load weights into `model`; see `keras.Model.load_weights`."""
        self.model.load_weights(filepath, **settings)

    def export(self, *args: Any, **settings: Any) -> Any:
        """Export `model`; see `keras.Model.export`."""
        return self.model.export(*args, **settings)

    def summary(self, **settings: Any) -> None:
        """Print the summary of `model`."""
        self.model.summary(**settings)

    @property
    def metrics(self) -> list[Any]:
        """Metrics of `model`."""
        return list(self.model.metrics) if "model" in self.__dict__ else []

    def reset_metrics(self) -> None:
        """Reset the metrics of `model`."""
        self.model.reset_metrics()

    @property
    def history(self) -> Any:
        """History of the last `fit`."""
        return self.model.history

    @property
    def config(self) -> StepConfig:
        """How steps treat gradients."""
        return self.engine.config

    @property
    def report(self) -> AccelerationReport:
        """What the last `fit` chose and found, and why."""
        runner, remat = self.engine.runner, self.engine.rematerialized
        if runner is None:
            raise InputError("Nothing is known before training. Call `fit` first.")
        return AccelerationReport(
            jit=runner.decision,
            steps_per_call=self._fixed_steps or runner.steps_per_call(),
            loss_scaling=isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer),
            remat=remat.plan if remat else None,
            notes=self._notes,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the configuration: the model's and the settings."""
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "config": self.config.to_dict(),
            "remat": self.engine.remat,
            "checkpoint": self.checkpoint.to_dict() if self.checkpoint else None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "AcceleratedModel":
        """Build from what `get_config` returned."""
        checkpoint = config["checkpoint"]
        return cls(
            keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects),
            StepConfig.from_dict(config["config"]),
            remat=config["remat"],
            checkpoint=Checkpointing.from_dict(checkpoint) if checkpoint else None,
        )

    def _adopt(self) -> None:
        """Take over how `model` is compiled."""
        model = self.model
        if model.optimizer is None:
            raise ConfigError("Training needs an optimizer. Compile with one, e.g. `compile('adam', ...)`.")
        if model.run_eagerly:
            raise ConfigError(_EAGER)
        accumulates = chain(model.optimizer)[-1].gradient_accumulation_steps
        if accumulates and self.config.accumulate_steps > 1:
            raise ConfigError(
                f"The optimizer accumulates {accumulates} gradients already. Use "
                f"`accumulate_steps` or the optimizer's `gradient_accumulation_steps`, not both."
            )
        if needs_loss_scaling(model):
            with model.distribute_strategy.scope():
                model.optimizer = scaled_optimizer(model, model.optimizer)
        self.optimizer, self.loss, self.compiled = model.optimizer, model.loss, True
        self.engine.forget()

    def require_compiled(self, method: str) -> None:
        """Make sure that `model` is compiled, and take over how it is now.

        Raises:
            InputError: it is not.
        """
        if not self.model.compiled:
            raise InputError(f"Compile before `{method}`: `accelerated.compile(optimizer, loss, metrics=[...])`.")
        if getattr(self, "optimizer", None) is not self.model.optimizer:
            self._adopt()
