"""The learning-rate range test: a few steps with a growing rate, forgotten afterwards."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, NonFiniteError
from kopt.core.records.training.finders import LearningRateCurve
from kopt.core.settings import number, whole
from kopt.report import LEARNING_RATES, Shown
from kopt.train.finders import rate_curve
from kopt.train.finders.trial_steps import TrialSteps, check_compiled
from kopt.train.internals import rate_variable
from kopt.train.snapshot import preserved

_LEAST_STEPS = 10


@dataclasses.dataclass(frozen=True)
class LearningRateRange(Shown, LearningRateCurve):
    """What `find_learning_rate` found; `suggestion` is the rate to train with.

    Example:
        >>> found = kopt.train.LearningRateRange(
        ...     rates=(1e-4, 1e-3, 1e-2, 1e-1),
        ...     losses=(2.3, 2.0, 0.9, 4.0),
        ...     smoothed=(2.3, 1.9, 1.1, 3.6),
        ...     steepest=1e-3,
        ...     valley=1e-3,
        ...     minimum=1e-3,
        ...     stopped="diverged",
        ...     passes=1,
        ... )  # as `find_learning_rate` returns it
        >>> found.suggestion == found.steepest
        True
        >>> path = found.plot("rates.svg")
    """

    look = LEARNING_RATES


def find_learning_rate(
    model: keras.Model,
    data: Any,
    *,
    min_rate: float = 1e-7,
    max_rate: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.8,
    stop_factor: float | None = 4.0,
    batch_size: int = 32,
    class_weight: dict[int, float] | None = None,
) -> LearningRateRange:
    """Run training steps with a growing learning rate and read off which one to train with.

    Use it once before training, with the model, optimizer, loss and batch size that training will have. The steps are
    those of `fit`: the model's `train_step` with its loss, regularization, mixed precision and sample weights; of an
    accelerated model its own step. With accumulation a step takes the batches of one update.

    Formula: step `i` of `n` has the rate `min_rate * (max_rate / min_rate) ** (i / (n - 1))`. The test ends early once
    a running average of the loss exceeds `stop_factor` times its lowest value. `suggestion` is `steepest`, the rate at
    which the smoothed loss falls fastest: of the three rules it came closest to the best rate for an MLP and a CNN with
    Adam and SGD. `valley` is the middle of the longest fall, `minimum` a tenth of the rate where the loss is lowest;
    both are more careful. `kopt.train.finders.rate_curve` states each as a function of arrays.

    The model comes out as it went in, bit for bit: weights, optimizer (its learning rate or schedule too), metrics,
    compiled functions, random state; see `kopt.train.preserved`. Callbacks are not run. Data sets are another matter:
    one that reshuffles keeps count inside TensorFlow of how often it was begun, which nobody can set back, and a
    generator is used up. Where the order of a later `fit` must not depend on this test, pass arrays, or a function that
    makes the data set.

    Args:
        model: compiled; built or not.
        data: what `fit` takes: a `tf.data.Dataset` of batches, `(x, y)` or `(x, y, sample_weight)` of arrays, a
            `PyDataset` or generator; or a function without arguments that returns one of these. One that ends before
            the last step is begun again, which `notes` says; a generator that ends ends the test.
        min_rate: rate of the first step, so low that nothing is learned.
        max_rate: rate of the last step, so high that training would diverge.
        steps: steps between them, at least 10; more steps give a finer curve.
        smoothing: how much the neighbors of a step count, in [0, 1): `smoothing ** distance`.
        stop_factor: greater than 1; `None` runs all steps.
        batch_size: for arrays.
        class_weight: as in `fit`.

    Returns:
        Record of rates and losses with the suggestions, which are `None` if the loss did not fall by more than chance.

    Raises:
        ConfigError: the model is not compiled or has no optimizer, or a setting is out of range.
        DataError: the data gave no batch.
        NonFiniteError: the loss of the first step is NaN or infinite: no rate is to blame for that.

    Example:
        >>> fresh, _ = kopt.restructure.reinitialize(model)
        >>> fresh.compile("adam", "sparse_categorical_crossentropy")
        >>> found = kopt.train.find_learning_rate(fresh, (x_train, y_train), min_rate=1e-5)
        >>> 1e-4 < found.suggestion < 1
        True
        >>> path = found.plot("rates.svg")
        >>> fresh.optimizer.learning_rate = found.suggestion

    References:
        Smith: Cyclical learning rates for training neural networks (arXiv:1506.01186), section 3.3.
    """
    check_compiled(model)
    rates = _checked_rates(min_rate, max_rate, steps)
    number("smoothing", smoothing, least=0.0, most=0.999)
    if stop_factor is not None:
        number("stop_factor", stop_factor, least=1.0, open_below=True)
    whole("batch_size", batch_size)
    divergence = None if stop_factor is None else rate_curve.Divergence(smoothing, stop_factor)
    with preserved(model):
        trial = TrialSteps(model, data, batch_size=batch_size, class_weight=class_weight)
        losses, stopped = _run(trial, rate_variable(model.optimizer), rates, divergence)
    return _result(rates[: len(losses)], np.asarray(losses), smoothing, stopped, trial)


def _checked_rates(min_rate: float, max_rate: float, steps: int) -> rate_curve.Array:
    number("min_rate", min_rate, least=0.0, open_below=True)
    number("max_rate", max_rate, least=0.0, open_below=True)
    whole("steps", steps, least=_LEAST_STEPS)
    if min_rate >= max_rate:
        raise ConfigError(
            f"The rate grows from `min_rate` to `max_rate`. Received: min_rate={min_rate!r}, max_rate={max_rate!r}. "
            f"Make `max_rate` the larger one."
        )
    return rate_curve.growing_rates(min_rate, max_rate, steps)


def _run(
    trial: TrialSteps, variable: tf.Variable, rates: rate_curve.Array, divergence: rate_curve.Divergence | None
) -> tuple[list[float], str]:
    """Return the losses of the steps and why they ended."""
    losses: list[float] = []
    for rate in rates:
        variable.assign(rate)
        loss = trial.step()
        if loss is None:
            _check_not_empty(losses)
            return losses, "data ended"
        if not math.isfinite(loss):
            _check_first_finite(losses, loss, rate)
            return losses, "non-finite loss"
        losses.append(loss)
        if divergence is not None and divergence.add(loss):
            return losses, "diverged"
    return losses, "completed"


def _check_not_empty(losses: list[float]) -> None:
    if not losses:
        raise DataError(
            "The data gave no batch, so there was nothing to test. Check that it is not empty, that `drop_remainder` "
            "leaves a batch, and that a generator was not used up before."
        )


def _check_first_finite(losses: list[float], loss: float, rate: float) -> None:
    if not losses:
        raise NonFiniteError(
            f"The loss of the very first batch is {loss}, before any update (learning rate {rate:.3g}): the data, the "
            f"weights or the loss are at fault, not the rate. Look for NaN or infinity in inputs and labels "
            f"(`np.isfinite(x).all()`), for labels out of range, and for `log(0)` in the loss."
        )


def _result(
    rates: rate_curve.Array, losses: rate_curve.Array, smoothing: float, stopped: str, trial: TrialSteps
) -> LearningRateRange:
    curve = rate_curve.smoothed(losses, smoothing)
    fallen = rate_curve.falls(losses, smoothing)
    rules = {"steepest": rate_curve.steepest, "valley": rate_curve.valley, "minimum": rate_curve.minimum}
    suggestions = {name: rule(rates, curve) if fallen else None for name, rule in rules.items()}
    return LearningRateRange(
        rates=tuple(map(float, rates)),
        losses=tuple(map(float, losses)),
        smoothed=tuple(map(float, curve)),
        **suggestions,
        stopped=stopped,
        passes=trial.passes,
        notes=_notes(stopped, trial, fallen, len(losses)),
    )


def _notes(stopped: str, trial: TrialSteps, fallen: bool, steps: int) -> tuple[str, ...]:
    notes = []
    if trial.passes > 1:
        notes.append(
            f"The data ends after {trial.batches} batches and was begun {trial.passes} times for {steps} steps."
        )
    if stopped == "data ended":
        notes.append(f"The generator ended after {steps} batches, so higher rates were not tested.")
    if not fallen:
        notes.append("The loss did not fall by more than chance.")
    return tuple(notes)
