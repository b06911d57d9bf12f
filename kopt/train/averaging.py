"""Averages of the weights over training: stochastic weight averaging, and training with the averages of either kind."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kopt.core.errors import ConfigError
from kopt.core.settings import choice, number, whole
from kopt.train import batch_norm, internals
from kopt.train.optimizers.wrapper import OptimizerWrapper, chain, find

_FINISH = ("averaged", "trained")


@keras.saving.register_keras_serializable(package="kopt")
class StochasticWeightAveraging(OptimizerWrapper):
    """An optimizer that averages the weights along the last part of training (SWA).

    Use it with a constant or cyclic learning rate that is still large at `start_step`: averages over a wide region
    generalize better than its last point. The average is taken inside the graph and is part of the optimizer's state,
    so it is saved with the model and goes on after a resume. As with Keras' `use_ema`, `fit` ends with the averages in
    the model. Batch normalization then needs new statistics: `kopt.train.callbacks.AveragedWeights` estimates them, and
    evaluates with the averages meanwhile.

    Formula: after update t, if `t >= start_step` and `t - start_step` is a multiple of `every`:
    `average = average + (weights - average) / (n + 1)`, then `n = n + 1`. So the average is the plain mean of n
    snapshots.

    Args:
        inner_optimizer: any Keras optimizer but `LossScaleOptimizer`, which goes outside, and one with `use_ema=True`.
        start_step: updates after which the first snapshot is taken, at least 1. See `epochs` and `fraction`.
        every: updates between snapshots. Default 1.
        name: of the optimizer.

    Raises:
        ConfigError: a setting is out of range.

    Example:
        >>> sgd = keras.optimizers.SGD(0.01)
        >>> swa = kopt.train.StochasticWeightAveraging.epochs(sgd, steps_per_epoch=16, start_epoch=1)
        >>> model.compile(swa, "sparse_categorical_crossentropy")
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=32)
        >>> averaged = kopt.train.callbacks.AveragedWeights(batch_norm_data=train)
        >>> history = model.fit(train, epochs=3, callbacks=[averaged], shuffle=False, verbose=0)
        >>> swa.start_step, swa.every  # the mean of the weights after updates 32 and 48
        (32, 16)

    Source: P. Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018.
    """

    def __init__(self, inner_optimizer: Any, *, start_step: int, every: int = 1, name: str | None = None):
        first, period = whole("start_step", start_step), whole("every", every)
        super().__init__(inner_optimizer, name=name)
        self.start_step, self.every = first, period
        if any(getattr(link, "use_ema", False) for link in chain(self)):
            raise ConfigError("`use_ema=True` and StochasticWeightAveraging would both end `fit` with their averages.")

    @classmethod
    def epochs(
        cls, inner_optimizer: Any, *, steps_per_epoch: int, start_epoch: int, every_epochs: int = 1
    ) -> "StochasticWeightAveraging":
        """Return the optimizer with a snapshot at the end of epoch `start_epoch`, counted from 0, and of later ones."""
        steps, first = whole("steps_per_epoch", steps_per_epoch), whole("start_epoch", start_epoch, least=0)
        return cls(inner_optimizer, start_step=steps * (first + 1), every=steps * whole("every_epochs", every_epochs))

    @classmethod
    def fraction(
        cls, inner_optimizer: Any, *, total_steps: int, start: float = 0.75, every: int = 1
    ) -> "StochasticWeightAveraging":
        """Return the optimizer with snapshots from the part `start` of `total_steps` updates on; default 0.75."""
        part = number("start", start, least=0.0, most=1.0)
        return cls(inner_optimizer, start_step=max(1, math.ceil(part * whole("total_steps", total_steps))), every=every)

    def prepare(self, variables: list[keras.Variable]) -> None:
        """Add the average of every variable and the number of snapshots."""
        self.count = self.add_variable((), "zeros", "int32", name="count")
        self._averages = [self.add_variable_from_reference(variable, "swa") for variable in variables]
        # Past `__setattr__`: Keras would take the variables of the model for the state of this optimizer.
        object.__setattr__(self, "_averaged", tuple(variables))

    @property
    def averages(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Every trainable variable with its average."""
        return list(zip(self._averaged, self._averages, strict=True)) if self.built else []

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables, and their averages where a snapshot is due."""
        self.build_for(trainable_variables)
        before = tf.identity(self.iterations)
        self.inner_optimizer.apply(grads, trainable_variables)
        now = tf.convert_to_tensor(self.iterations)
        due = (now > before) & (now >= self.start_step) & ((now - self.start_step) % self.every == 0)
        ops.cond(due, self._take, lambda: None)

    def _take(self) -> None:
        self.count.assign(self.count + 1)
        for variable, average in self.averages:
            average.assign(running_mean(average, variable, self.count))

    def finalize_variable_values(self, var_list: Any) -> None:
        """Put the averages into the model, if there are any."""
        self.inner_optimizer.finalize_variable_values(var_list)
        if self.built and int(self.count.numpy()):
            for variable, average in self.averages:
                variable.assign(average)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as Keras serializes them."""
        return {**super().get_config(), "start_step": self.start_step, "every": self.every}


def running_mean(mean: Any, value: Any, count: Any) -> Any:
    """Return the mean of `count` values from that of the first `count - 1` and the last value."""
    return mean + (value - mean) / ops.cast(count, mean.dtype)


@keras.saving.register_keras_serializable(package="kopt")
class AveragedWeights(keras.callbacks.Callback):
    """Evaluate with averaged weights during training, and end with them.

    Works with `StochasticWeightAveraging` and with `use_ema=True` of any Keras optimizer, wrapped or not. The averages
    are variables of the optimizer; this callback has no state to lose. The trained weights come back bit for bit after
    every evaluation.

    What is saved or restored between epochs (`ModelCheckpoint`, `EarlyStopping(restore_best_weights=True)`) are the
    trained weights with the averages beside them in the optimizer.

    Args:
        evaluate: validation in `fit` uses the averages. Default true.
        finish: `"averaged"` (default) or `"trained"`: the weights that the model has after `fit`. Keras itself ends
            with the averages. `"trained"` keeps a copy of the weights of the last epoch in memory.
        batch_norm_data: `tf.data.Dataset` of batches, as for `fit`; batch normalization gets new statistics from it
            wherever the averages are used. `False`: keep the moving statistics. `None` (default) is refused when the
            model has batch normalization and averages by SWA, which moving statistics do not fit.
        batch_norm_batches: how many batches to read each time. Default `None`: all.

    Raises:
        ConfigError: a setting is out of range; when training begins: the optimizer keeps no averages, training is too
            short to take one, or `batch_norm_data` is needed.

    Example:
        >>> model.compile(keras.optimizers.Adam(use_ema=True, ema_momentum=0.9), "sparse_categorical_crossentropy")
        >>> average = kopt.train.callbacks.AveragedWeights(batch_norm_data=False, finish="trained")
        >>> history = model.fit(x_train, y_train, validation_split=0.1, callbacks=[average], verbose=0)
        >>> trained = model.get_weights()
        >>> with average.averaged():
        ...     all(np.array_equal(a, b) for a, b in zip(trained, model.get_weights()))
        False

    Source: B. Polyak and A. Juditsky, "Acceleration of stochastic approximation by averaging", 1992; Izmailov et al.,
    2018, for batch normalization.
    """

    def __init__(
        self,
        *,
        evaluate: bool = True,
        finish: str = "averaged",
        batch_norm_data: Any = None,
        batch_norm_batches: int | None = None,
    ):
        super().__init__()
        self.evaluate = evaluate
        self.finish = choice("finish", finish, _FINISH)
        self.batch_norm_data = batch_norm_data
        self.batch_norm_batches = (
            None if batch_norm_batches is None else whole("batch_norm_batches", batch_norm_batches)
        )
        self._evaluation: contextlib.ExitStack | None = None
        self._trained: list[tuple[Any, Any]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse what cannot work, and put back what an evaluation that was interrupted has left."""
        self.on_test_end()
        averaging = find(self.model.optimizer, StochasticWeightAveraging)
        if averaging is None and not any(getattr(link, "use_ema", False) for link in chain(self.model.optimizer)):
            raise ConfigError(
                "The optimizer keeps no averages. Pass `use_ema=True` to it, or wrap it: "
                "`kopt.train.StochasticWeightAveraging(optimizer, start_step=...)`, and compile again."
            )
        if averaging is not None:
            self._check_length(averaging)
            if self.batch_norm_data is None and batch_norm.layers_of(self.model):
                raise ConfigError(
                    "The model has batch normalization, whose moving statistics do not fit averaged weights. Pass "
                    "`batch_norm_data=dataset` to estimate new ones, or `batch_norm_data=False` to keep them."
                )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the trained weights, which Keras overwrites after the last epoch."""
        if self.finish == "trained":
            self._trained = [(variable, variable.numpy()) for variable in self.model.trainable_variables]

    def on_test_begin(self, logs: Any = None) -> None:
        """Put the averages into the model."""
        if self.evaluate and self._evaluation is None:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self.averaged())
                self._evaluation = stack.pop_all()

    def on_test_end(self, logs: Any = None) -> None:
        """Put the trained weights back."""
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None

    def on_train_end(self, logs: Any = None) -> None:
        """End with the weights that were asked for."""
        if self.finish == "trained":
            for variable, value in self._trained:
                variable.assign(value)
            self._trained = []
            return
        self._put_averages()
        averaging = find(self.model.optimizer, StochasticWeightAveraging)
        if averaging is not None and not self._pairs():
            # Known only now: where gradients are accumulated or steps skipped, there are more batches than updates.
            warnings.warn(
                f"No average was taken, and the model has the weights that were trained: the optimizer has made "
                f"{_made(averaging)} updates, and `start_step` is {averaging.start_step}.",
                stacklevel=2,
            )

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Hold the averages in the model inside the block; before the first one was taken, change nothing."""
        kept = [(variable, variable.numpy()) for variable in self.model.weights]
        try:
            self._put_averages()
            yield
        finally:
            for variable, value in kept:
                variable.assign(value)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor but for the data, which no config can hold."""
        names = ("evaluate", "finish", "batch_norm_batches")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AveragedWeights":
        """Return the callback that `get_config` describes."""
        return cls(**config)

    def _put_averages(self) -> None:
        pairs = self._pairs()
        for variable, average in pairs:
            variable.assign(average)
        if pairs and self.batch_norm_data is not None and self.batch_norm_data is not False:
            batch_norm.reestimate_in_place(self.model, self.batch_norm_data, batches=self.batch_norm_batches)

    def _pairs(self) -> list[tuple[Any, Any]]:
        averaging = find(self.model.optimizer, StochasticWeightAveraging)
        if averaging is not None:
            return averaging.averages if averaging.built and int(averaging.count.numpy()) else []
        base = chain(self.model.optimizer)[-1]
        return internals.ema_pairs(base) if _made(base) else []

    def _check_length(self, averaging: StochasticWeightAveraging) -> None:
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        if epochs and steps and _made(averaging) + epochs * steps < averaging.start_step:
            raise ConfigError(
                f"No average would be taken: {epochs} epochs of {steps} steps end before `start_step` "
                f"{averaging.start_step}."
            )


def _made(optimizer: Any) -> int:
    """Return the updates that `optimizer` made, also under `tf.distribute`."""
    return int(ops.convert_to_numpy(optimizer.iterations))
