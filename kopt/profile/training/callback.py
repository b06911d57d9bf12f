"""The callback that watches a training from inside the training step."""

import contextlib
import dataclasses
import math
import os
import sys
from typing import Any

import keras
import numpy as np

from kopt.core.errors import UnsupportedModelError
from kopt.core.records.profiles.gradients import GradientThresholds, VariableGradient
from kopt.core.records.profiles.training import (
    TrainingAdvice,
    TrainingEpoch,
    TrainingRun,
    TrainingSample,
    TrainingTrends,
    WeightSummary,
)
from kopt.core.settings import whole
from kopt.graph import OwnedVariable, layer_paths, owned_variables, require_built
from kopt.graph.internals import flatten_layers
from kopt.profile.gradient_flow.collection import Sums
from kopt.profile.gradient_flow.profile import cosine
from kopt.profile.tensorboard import EventFile, InTensorBoard
from kopt.profile.training.advice import training_advice
from kopt.profile.training.collection import EpochSums, UpdateStatistics
from kopt.profile.training.files import JsonLines, read_lines
from kopt.profile.training.steps import StepChoice
from kopt.report.profiles.training_profile import TRAINING
from kopt.train.internals import around_update, trained_variables
from kopt.train.optimizers.wrapper import chain

_CAPACITY = 512


@dataclasses.dataclass(frozen=True)
class Trends(InTensorBoard, TrainingTrends):
    """A training as it was seen, with ways to show it.

    Example:
        >>> watch = kopt.profile.TrainingProfile(every=8, log_path="training.jsonl")
        >>> history = model.fit(x_train[:256], y_train[:256], callbacks=[watch], verbose=0)
        >>> again = kopt.profile.Trends.from_jsonl("training.jsonl")
        >>> again.run.model, len(again.samples), len(again.epochs)
        ('digits', 1, 1)
    """

    look = TRAINING

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str]) -> "Trends":
        """Read what `TrainingProfile(log_path=...)` wrote, also of a training that was killed.

        Raises:
            LoadError: there is no such file, or it holds no training.
        """
        run, samples, epochs = read_lines(path)
        return cls(run, tuple(samples), tuple(epochs), training_advice(run, epochs))


class TrainingProfile(keras.callbacks.Callback):
    """Watch gradients, updates and weights while a model trains, and say what to change.

    Works in `fit` and in `kopt.train.accelerate(model).fit`, compiled or not, with several steps a call. Every `every`
    updates the optimizer's own update is looked at from inside the step: the gradients as they are applied, clipped and
    accumulated, and the change of each weight. There is no second pass. `fit` has its step in two versions, each traced
    (and compiled) once, so that the other steps pay nothing; those of `accelerate` pay for one condition, 0.05 to
    0.1 ms. Weights are summarized at the end of an epoch. Two copies of the weights stand in memory meanwhile.

    Afterwards `trends` has everything, with `.table()`, `.plot(path)` and `.to_json()`, and `advice` what follows.

    Args:
        every: updates between two samples. Default 50.
        log_path: file to append a line of JSON to for every sample and epoch; `Trends.from_jsonl` reads it.
        tensorboard: directory for event files with scalars and, each epoch, histograms of the weights. The package
            `tensorboard` is only needed to look at them. An active run of Weights & Biases gets the same numbers.
        thresholds: of verdicts on gradients.

    Raises:
        UnsupportedModelError: when training begins, of a model that is spread over several devices.
        InputError: when training begins, of a model that is not built.

    Example:
        >>> watch = kopt.profile.TrainingProfile(every=8, log_path="training.jsonl")
        >>> history = model.fit(x_train, y_train, epochs=2, callbacks=[watch], verbose=0)
        >>> [sample.step for sample in watch.trends.samples]  # of 32 updates
        [0, 8, 16, 24]
        >>> path = watch.trends.plot("training.svg")
    """

    def __init__(
        self,
        every: int = 50,
        *,
        log_path: str | os.PathLike[str] | None = None,
        tensorboard: str | os.PathLike[str] | None = None,
        thresholds: GradientThresholds | None = None,
    ):
        super().__init__()
        self.every = whole("every", every)
        self._log_path, self._tensorboard = log_path, tensorboard
        self._thresholds = thresholds or GradientThresholds()
        self._hook = contextlib.ExitStack()
        self._files = contextlib.ExitStack()
        self._lines: JsonLines | None = None
        self._events: EventFile | None = None
        self._run: TrainingRun | None = None
        self._samples: list[TrainingSample] = []
        self._epochs: list[TrainingEpoch] = []
        self._unread = 0

    @property
    def trends(self) -> Trends:
        """Everything seen so far."""
        run = self._run or TrainingRun("", "", self.every, ())
        return Trends(run, tuple(self._samples), tuple(self._epochs), self.advice)

    @property
    def advice(self) -> tuple[TrainingAdvice, ...]:
        """What to change; empty of a healthy training."""
        return () if self._run is None else training_advice(self._run, self._epochs, self._thresholds)

    def set_model(self, model: keras.Model) -> None:
        """Stand round the update of the optimizer; `fit` calls this before it traces a step."""
        super().set_model(model)
        self._hook.close()  # Of a training that failed.
        require_built(model)
        if model.distribute_strategy.num_replicas_in_sync > 1:
            raise UnsupportedModelError(
                f"The model {model.name!r} trains on {model.distribute_strategy.num_replicas_in_sync} replicas. "
                f"`TrainingProfile` looks at one: train without a strategy to watch."
            )
        optimizer = chain(model.optimizer)[-1]
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        owned = {id(one.variable): one for one in owned_variables(model)}
        self._owned: list[OwnedVariable] = [owned[id(variable)] for variable in trained_variables(optimizer)]
        self._statistics = UpdateStatistics(self._owned, optimizer, self.every, _CAPACITY)
        self._steps = StepChoice(model, optimizer, self._statistics, self.every)
        self._optimizer = optimizer
        run = TrainingRun(model.name, type(optimizer).__name__, self.every, tuple(one.path for one in self._owned))
        if run != self._run:
            self._forget()
        self._run = run
        self._hook.enter_context(around_update(optimizer, self._statistics.around))
        model.train_function = None  # It may have been traced without.

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the files."""
        if self._log_path is not None and self._run is not None:
            self._lines = JsonLines(self._log_path)
            self._files.callback(self._lines.close)
            self._lines.write(self._run)
        if self._tensorboard is not None:
            self._events = EventFile(self._tensorboard)
            self._files.callback(self._events.close)
        self._norms = self._batch_norms()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the coming step, or not."""
        self._steps.choose(batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Read samples before there is no room for more."""
        if batch - self._unread >= self.every * _CAPACITY // 2:
            self._read_samples()
            self._unread = batch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count batches from 0 again."""
        if self._epochs and epoch <= self._epochs[-1].epoch:  # Another training, not the next epochs of the last.
            self._forget()
        self._unread = 0
        self._steps.begin_epoch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the epoch together."""
        self._read_samples()
        seen = self._epoch(epoch, self._statistics.end_epoch(), logs or {})
        self._epochs.append(seen)
        if self._lines is not None:
            self._lines.write(seen)
        self._publish({f"epoch/{name}": value for name, value in seen.logs.items()}, seen.step)
        if self._events is not None:
            for one in self._owned:
                self._events.histogram(f"weights/{one.path}", one.variable.numpy(), seen.step)
            self._events.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the optimizer as it was."""
        self._hook.close()
        self._files.close()
        self._lines = self._events = None
        self.model.train_function = None

    def _forget(self) -> None:
        self._samples.clear()
        self._epochs.clear()

    def _read_samples(self) -> None:
        for step, rate, numbers in self._statistics.read_samples():
            columns = [tuple(map(float, numbers[:, column])) for column in range(4)]
            sample = TrainingSample(step, rate, *columns)
            self._samples.append(sample)
            if self._lines is not None:
                self._lines.write(sample)
            values = {"learning_rate": rate}
            for place, one in enumerate(self._owned):
                values[f"gradient_norm/{one.path}"] = sample.norms[place]
                values[f"update_ratio/{one.path}"] = sample.update_ratios[place]
            self._publish(values, step)

    def _publish(self, values: dict[str, float], step: int) -> None:
        if self._events is not None:
            self._events.scalars(values, step)
        wandb = sys.modules.get("wandb")
        if wandb is not None and getattr(wandb, "run", None) is not None:
            wandb.log(values, step=step)

    def _epoch(self, epoch: int, sums: EpochSums, logs: dict[str, Any]) -> TrainingEpoch:
        steps = max(1, sums.steps)
        norms = self._batch_norms()
        shifts = {
            path: float(np.sqrt(np.mean((mean - self._norms[path][0]) ** 2 / (variance + 1e-12))))
            for path, (mean, variance) in norms.items()
        }
        self._norms = norms
        pairs = zip(self._owned, sums.gradients, strict=True)
        dead = {one.path: share for one, share in zip(self._owned, sums.dead, strict=True) if share is not None}
        return TrainingEpoch(
            epoch=epoch,
            step=int(self._optimizer.iterations),
            logs={name: float(value) for name, value in logs.items()},
            sampled_steps=sums.steps,
            gradients=tuple(_gradient(one, Sums(*row), steps) for one, row in pairs),
            update_ratios=tuple(float(value) / steps for value in sums.updates),
            dead_units=dead if sums.steps else {},
            weights=tuple(_summary(one) for one in self._owned),
            batch_norm_shifts=shifts,
        )

    def _batch_norms(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        paths = layer_paths(self.model)
        layers = [one for one in flatten_layers(self.model) if isinstance(one, keras.layers.BatchNormalization)]
        return {paths[id(one)]: (one.moving_mean.numpy(), one.moving_variance.numpy()) for one in layers}


def _gradient(one: OwnedVariable, sums: Sums, steps: int) -> VariableGradient:
    entries = max(1, math.prod(one.variable.shape))
    weight_norm = float(np.linalg.norm(one.variable.numpy().astype(np.float32)))
    norm = float(sums.norm) / steps
    return VariableGradient(
        path=one.path,
        layer=one.layer_path,
        layer_type=type(one.layer).__name__,
        shape=tuple(one.variable.shape),
        trainable=one.trainable,
        connected=True,
        norm=norm,
        rms=math.sqrt(float(sums.square) / (steps * entries)),
        mean=float(sums.entry) / steps,
        variance=float(sums.deviation) / (max(1, steps - 1) * entries),
        zero_fraction=float(sums.zeros) / steps,
        weight_norm=weight_norm,
        ratio=norm / weight_norm if weight_norm else None,
        cosine=cosine(sums, steps) if steps > 1 else None,
        noise_scale=None,
    )


def _summary(one: OwnedVariable) -> WeightSummary:
    values = one.variable.numpy().astype(np.float32)
    return WeightSummary(
        path=one.path,
        mean=float(values.mean()),
        std=float(values.std()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        zero_fraction=float((values == 0).mean()),
    )
