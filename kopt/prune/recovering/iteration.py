"""Channels pruned in rounds, with training between them."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from kopt.core.errors import ConfigError
from kopt.core.records.changes.iterative_pruning import IterativePruningReport, PruningRound
from kopt.core.settings import whole
from kopt.graph import copy_model, from_tf_keras, require_built
from kopt.profile import model as profile
from kopt.prune.channel_removal.pruning import channels
from kopt.prune.recovering.recovery import recover
from kopt.prune.recovering.rounds_on_disk import RoundsOnDisk
from kopt.report.changes.iterative_pruning import ITERATIVE_PRUNING
from kopt.report.look import Shown
from kopt.train.batch_norm import settle_statistics
from kopt.train.judging import Aim, aim_of, evaluated
from kopt.train.labelled_batches import labelled_dataset

FineTune = Callable[[keras.Model], keras.Model | None]


@dataclasses.dataclass(frozen=True)
class IterativePruning(Shown, IterativePruningReport):
    """What `iterative` did, with ways to show it.

    Example:
        >>> report = kopt.prune.iterative(model, target_macs=0.5, rounds=2, fine_tune=lambda smaller: None)[1]
        >>> [(turn.number, turn.macs <= turn.target) for turn in report.rounds]
        [(1, True), (2, True)]
    """

    look = ITERATIVE_PRUNING


def iterative(
    model: keras.Model,
    *,
    target_macs: float | None = None,
    target_params: float | None = None,
    rounds: int = 4,
    train: Any = None,
    validation: Any = None,
    fine_tune: FineTune | None = None,
    epochs: int = 2,
    learning_rate: float = 1e-3,
    distill: bool = False,
    loss: Any = None,
    metric: str | None = None,
    batch_size: int = 32,
    workdir: str | os.PathLike[str] | None = None,
    **pruning: Any,
) -> tuple[keras.Model, IterativePruning]:
    """Return a smaller model whose channels went in rounds, with training after each, and a report of the rounds.

    Use it for targets at which one cut with `channels` loses what no training brings back: which channels matter is
    asked again of the model that has adapted. Each round prunes with `channels`, estimates the statistics of batch
    normalizations anew and trains, by `recover` on `train` or by a function of your own; then the statistics once more.

    Formula: round `k` of `n` comes down to `before (target / before)^(k / n)`, so that every round takes the same share
    of what is left.

    Args:
        model: built Functional or Sequential model; not changed.
        target_macs: multiply-accumulates to come down to, as a share of those of `model` below 1, as a count above; or
        target_params: parameters, in the same way.
        rounds: how many.
        train: data as `recover` takes it. With `fine_tune` it is read for the statistics alone.
        validation: the same; what rounds and the epochs of `recover` are judged on.
        fine_tune: called with the model of each round, not compiled, to compile and train it in place; it may return
            another model of the same graph. The same function and data are up to you when a run goes on.
        epochs: of `recover` in each round.
        learning_rate: of `recover`.
        distill: let `recover` learn from the given model, too.
        loss: as for `recover`; the compiled one by default.
        metric: as for `recover`.
        batch_size: of arrays.
        workdir: a directory where each finished round is written in one step. The same call goes on there after the
            last of them; another model (other names of layers make one) or other settings begin anew
            beside it. The model must load as a `.keras` file.
        **pruning: further settings of `channels`, e.g. `criterion` or `protect`; `train` stands in for its `data`.

    Returns:
        The model, not compiled, and the report with one row a round, with `.table()` and `.plot(path)`.

    Raises:
        ConfigError: neither `train` nor `fine_tune`, a setting of `channels` or `recover` is wrong, or the target
            cannot be reached; all before any training.
        DataError: data that does not fit the model.
        InputError: the model is not built, or has no channels that can be removed.
        NonFiniteError: a weight is NaN or infinite.
        OutputError: `workdir` cannot be written.
        UnsupportedModelError: a subclassed model, or one that does not rebuild from its config.

    Example:
        >>> smaller, report = kopt.prune.iterative(
        ...     model, target_macs=0.5, rounds=2, train=(x_train, y_train), validation=(x_val, y_val), epochs=1
        ... )
        >>> [turn.macs <= turn.target for turn in report.rounds]
        [True, True]

    Source: Han et al., "Learning both weights and connections for efficient neural networks", 2015,
    https://arxiv.org/abs/1506.02626; Molchanov et al., 2017, https://arxiv.org/abs/1611.06440.
    """
    for name, value in (("rounds", rounds), ("epochs", epochs), ("batch_size", batch_size)):
        whole(name, value)
    if train is None and fine_tune is None:
        raise ConfigError("Give `train` or `fine_tune`: rounds without training between them are one `channels`.")
    if fine_tune is not None and not callable(fine_tune):
        raise ConfigError(f"`fine_tune` must be a function of a model. Received: {fine_tune!r}.")
    unknown = sorted(pruning.keys() - inspect.signature(channels).parameters.keys())
    if unknown:
        raise ConfigError(f"`channels` has no setting {', '.join(map(repr, unknown))}.")
    model = from_tf_keras(model)
    require_built(model)
    # What may be an iterator is gone through in every round.
    pruning = {name: tuple(value) if isinstance(value, Iterator) else value for name, value in pruning.items()}
    pruning = {"batch_size": batch_size, "data": train, "loss": loss, **pruning}
    goal = _Goal.of(model, target_macs, target_params, pruning)
    is_judged = fine_tune is None or validation is not None
    aim = aim_of((model,), loss, metric) if is_judged or (loss is None and model.compiled) else None
    judge = _Judge(validation, batch_size, aim if is_judged else None)
    how = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    training = _Training(model if distill else None, train, validation, fine_tune, judge, how)
    settings = {"goal": dataclasses.astuple(goal), "rounds": rounds, "distill": distill, "metric": metric, **how}
    weights = None if aim is None else repr(aim.loss_weights)
    disk = None if workdir is None else RoundsOnDisk(workdir, model, {**settings, "loss_weights": weights, **pruning})
    current, records, resumed, metric_before = model, [], 0, judge.value(model)
    for number in range(1, rounds + 1):
        found = None if disk is None else disk.finished(number)
        if found is None:
            found = _round(current if aim is None else _compiled(current, aim), goal, number, rounds, pruning, training)
            if disk is not None:
                disk.finish(*found)
        else:
            resumed += 1
        current = found[0]
        records.append(found[1])
    before = profile(model)
    report = IterativePruning(
        model=model.name,
        goal=f"{goal.quantity}={goal.final:,}",
        metric=judge.metric,
        macs_before=before.macs,
        parameters_before=before.parameters,
        metric_before=metric_before,
        rounds=tuple(records),
        resumed=resumed,
    )
    return current, report


@dataclasses.dataclass(frozen=True)
class _Goal:
    """A count to come down to: `quantity` is `"target_macs"` or `"target_params"`."""

    quantity: str
    final: int
    before: int

    @classmethod
    def of(cls, model: keras.Model, target_macs: Any, target_params: Any, pruning: Mapping[str, Any]) -> "_Goal":
        """Return the goal, after a try whether it can be reached, whatever the criterion."""
        given = {"target_macs": target_macs, "target_params": target_params}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(f"Give one of `target_macs` and `target_params`. Received: {', '.join(given) or 'none'}.")
        ((quantity, value),) = given.items()
        _, report = channels(model, **given, **{**pruning, "criterion": "random", "data": None})
        before = report.macs_before if quantity == "target_macs" else report.parameters_before
        return cls(quantity, round(value * before) if value < 1 else round(value), before)

    def after(self, number: int, rounds: int) -> int:
        """Return the count that a round comes down to."""
        return round(self.before * (self.final / self.before) ** (number / rounds))

    def cost(self, model: keras.Model) -> int:
        """Return what a model has now."""
        found = profile(model)
        return found.macs if self.quantity == "target_macs" else found.parameters


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Evaluates models on the validation data, if there is any."""

    validation: Any
    batch_size: int
    aim: Aim | None

    @property
    def metric(self) -> str:
        return (self.aim and self.aim.metric) or "loss"

    def value(self, model: keras.Model) -> float | None:
        if self.validation is None or self.aim is None:
            return None
        copy = copy_model(model)
        self.aim.compile(copy)
        loss, metric = evaluated(copy, labelled_dataset(self.validation, self.batch_size), self.aim.metric)
        return loss if metric is None else metric


@dataclasses.dataclass(frozen=True)
class _Training:
    """What comes between two rounds."""

    teacher: keras.Model | None
    train: Any
    validation: Any
    fine_tune: FineTune | None
    judge: _Judge
    how: Mapping[str, Any]

    def __call__(self, model: keras.Model) -> keras.Model:
        """Return the trained model, not compiled."""
        if self.fine_tune is None:
            assert self.judge.aim is not None
            model, metric = _compiled(model, self.judge.aim), self.judge.aim.metric
            return recover(model, self.train, self.validation, teacher=self.teacher, metric=metric, **self.how)[0]
        model = self._with_statistics(model)
        tuned = self.fine_tune(model)
        if tuned is not None and not isinstance(tuned, keras.Model):
            raise ConfigError(f"`fine_tune` must return a model, or nothing. It returned: {tuned!r}.")
        return self._with_statistics(model if tuned is None else tuned)

    def _with_statistics(self, model: keras.Model) -> keras.Model:
        """Return a copy, not compiled, whose batch normalizations fit the training data, if there is any."""
        copy = copy_model(model)
        if self.train is not None:
            dataset = labelled_dataset(self.train, self.how["batch_size"])
            settle_statistics(copy, dataset)
        return copy


def _compiled(model: keras.Model, aim: Aim) -> keras.Model:
    """Return a copy that is compiled for an aim."""
    copy = copy_model(model)
    aim.compile(copy)
    return copy


def _round(
    model: keras.Model, goal: _Goal, number: int, rounds: int, pruning: Mapping[str, Any], training: _Training
) -> tuple[keras.Model, PruningRound]:
    """Return the model after a round, and what happened."""
    target, note = goal.after(number, rounds), ""
    if goal.cost(model) > target:
        asked: dict[str, Any] = {goal.quantity: target, **pruning}
        smaller, _ = channels(model, **asked)
    else:
        smaller, note = copy_model(model), "it was small enough already"
    pruned = training.judge.value(smaller)
    trained = training(smaller)
    found = profile(trained)
    return trained, PruningRound(
        number=number,
        target=target,
        macs=found.macs,
        parameters=found.parameters,
        pruned=pruned,
        recovered=training.judge.value(trained),
        note=note,
    )
