"""What to change in a training, from what was seen of it: no model here."""

import itertools
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from kopt.core.records.profiles.gradients import GradientThresholds, VariableGradient
from kopt.core.records.profiles.training import TrainingAdvice, TrainingEpoch, TrainingRun
from kopt.core.records.training.multipliers import LayerMultiplier, LayerMultipliers
from kopt.profile.gradient_flow.verdicts import gradient_verdicts
from kopt.train.optimizers.gradient_variance import even_out

_LEAST_EPOCHS = 3
_OVERFIT_EPOCHS, _OVERFIT = 3, 0.05
_PLATEAU_EPOCHS, _PLATEAU = 5, 0.01
# Good trainings change weights by about a thousandth of themselves a step.
_RATIO_HIGH, _RATIO_LOW, _FALL = 0.03, 1e-5, 0.1
_DEAD, _DRIFT, _UNEVEN = 0.25, 0.1, 3.0
_ADAPTIVE = ("Adam", "AdamW", "Adamax", "Nadam", "RMSprop", "Adagrad", "Adadelta", "Lion", "Lamb", "Adafactor")


def training_advice(
    run: TrainingRun, epochs: Sequence[TrainingEpoch], thresholds: GradientThresholds | None = None
) -> tuple[TrainingAdvice, ...]:
    """Return what a training shows so far that should be changed; nothing of a healthy one.

    Args:
        run: what was looked at.
        epochs: in order.
        thresholds: of verdicts on gradients.
    """
    if not epochs:
        return ()
    last = epochs[-1]
    found = [
        *_of_gradients(last, thresholds or GradientThresholds()),
        *_of_dead_units(last),
        *_of_losses(epochs),
        *_of_rate(epochs),
        *_of_batch_norm(epochs),
        *_of_variance(run, last),
    ]
    return tuple(found)


def _of_gradients(epoch: TrainingEpoch, thresholds: GradientThresholds) -> Iterator[TrainingAdvice]:
    for verdict in gradient_verdicts(epoch.gradients, thresholds):
        yield TrainingAdvice(verdict.kind, verdict.where, verdict.value, verdict.threshold or 0.0, verdict.words)


def _of_dead_units(epoch: TrainingEpoch) -> Iterator[TrainingAdvice]:
    zero = {one.path for one in epoch.gradients if one.rms == 0.0}
    for path, share in epoch.dead_units.items():
        if share > _DEAD and path not in zero:
            words = (
                f"{share:.0%} of its output channels had no gradient in any of {epoch.sampled_steps} steps of epoch "
                f"{epoch.epoch + 1} (threshold {_DEAD:.0%}): their units are dead. Lower the learning rate, use "
                f"`LeakyReLU` or GELU, or warm up."
            )
            yield TrainingAdvice("dead units", path, share, _DEAD, words)


def _of_losses(epochs: Sequence[TrainingEpoch]) -> Iterator[TrainingAdvice]:
    losses = [epoch.logs["loss"] for epoch in epochs if "loss" in epoch.logs]
    judged = [epoch.logs["val_loss"] for epoch in epochs if "val_loss" in epoch.logs]
    overfits = False
    if len(judged) == len(losses) > _OVERFIT_EPOCHS:
        best = int(np.argmin(judged))
        rise = judged[-1] / judged[best] - 1 if judged[best] > 0 else 0.0
        overfits = len(judged) - 1 - best >= _OVERFIT_EPOCHS and rise > _OVERFIT and losses[-1] < losses[best]
        if overfits:
            words = (
                f"`val_loss` is {rise:.0%} above its best, of epoch {best + 1} (threshold {_OVERFIT:.0%}), while the "
                f"loss went on falling. Stop there (`EarlyStopping(restore_best_weights=True)`), augment the data, or "
                f"add dropout or weight decay."
            )
            yield TrainingAdvice("over-fitting", "val_loss", rise, _OVERFIT, words)
    if len(losses) > _PLATEAU_EPOCHS and not overfits and losses[0] > 0:
        before, now = min(losses[:-_PLATEAU_EPOCHS]), min(losses[-_PLATEAU_EPOCHS:])
        gain = (before - now) / losses[0]
        if gain < _PLATEAU:
            words = (
                f"In the last {_PLATEAU_EPOCHS} epochs the loss fell by {max(gain, 0.0):.2%} of where it began "
                f"(threshold {_PLATEAU:.0%}). Lower the learning rate (`kopt.train.schedules`, `ReduceLROnPlateau`), "
                f"or stop."
            )
            yield TrainingAdvice("plateau", "loss", gain, _PLATEAU, words)


def _of_rate(epochs: Sequence[TrainingEpoch]) -> Iterator[TrainingAdvice]:
    losses = [epoch.logs["loss"] for epoch in epochs if "loss" in epoch.logs]
    ratios = [ratio for epoch in epochs for ratio, one in _kernels(epoch) if ratio > 0]
    if len(losses) < 2 or not ratios:
        return
    ratio = statistics.median(ratios)
    rises = sum(later > earlier for earlier, later in itertools.pairwise(losses))
    unsteady = losses[-1] > losses[0] or rises >= max(1, (len(losses) - 1) / 3)
    if ratio > _RATIO_HIGH and unsteady:
        words = (
            f"A step changes a kernel by {ratio:.2g} of itself (threshold {_RATIO_HIGH:g}; about 0.001 is usual), and "
            f"the loss rose in {rises} of {len(losses) - 1} epochs. Divide the learning rate by 10, warm up, or see "
            f"`kopt.train.find_learning_rate`."
        )
        yield TrainingAdvice("learning rate too high", "loss", ratio, _RATIO_HIGH, words)
    fall = 1 - losses[-1] / losses[0] if losses[0] > 0 else 1.0
    if ratio < _RATIO_LOW and not rises and fall < _FALL:
        words = (
            f"A step changes a kernel by {ratio:.2g} of itself (threshold {_RATIO_LOW:g}; about 0.001 is usual), and "
            f"the loss fell steadily, but by {fall:.1%} only. Multiply the learning rate by 10, or see "
            f"`kopt.train.find_learning_rate`."
        )
        yield TrainingAdvice("learning rate too low", "loss", ratio, _RATIO_LOW, words)


def _of_batch_norm(epochs: Sequence[TrainingEpoch]) -> Iterator[TrainingAdvice]:
    if len(epochs) < _LEAST_EPOCHS:
        return  # At first they have to move.
    for layer, shift in epochs[-1].batch_norm_shifts.items():
        if shift > _DRIFT:
            words = (
                f"Its moving mean went {shift:.2g} standard deviations in epoch {epochs[-1].epoch + 1} (threshold "
                f"{_DRIFT:g}), so that inference lags behind training. Lower the learning rate at the end, use "
                f"`kopt.train.callbacks.AdaptBatchNormMomentum`, or `kopt.train.reestimate_batch_norm` afterwards."
            )
            yield TrainingAdvice("batch normalization drifts", layer, shift, _DRIFT, words)


def _of_variance(run: TrainingRun, epoch: TrainingEpoch) -> Iterator[TrainingAdvice]:
    """Compare layers by the variance of the gradient between steps, mean over their parameters."""
    layers: dict[str, list[VariableGradient]] = {}
    for one in epoch.gradients:
        layers.setdefault(one.layer, []).append(one)
    variances = {layer: _pooled_variance(group) for layer, group in layers.items()}
    positive = [value for value in variances.values() if value > 0]
    if epoch.sampled_steps < 2 or len(positive) < 2:
        return
    ratio = max(positive) / min(positive)
    if ratio <= _UNEVEN:
        return
    factors = dict(zip(variances, even_out(np.array(list(variances.values())), 0.5, (0.1, 10.0)), strict=True))
    rows = tuple(
        LayerMultiplier(one.path, one.layer_type, float(factors[one.layer]), float(variances[one.layer]))
        for one in epoch.gradients
    )
    loudest = max(variances, key=lambda layer: variances[layer])
    use = (
        f"{run.optimizer} divides each entry by the size of its gradient, so this matters little"
        if run.optimizer in _ADAPTIVE
        else "Give the layers rates of their own: `LearningRateMultipliers(optimizer, advice.multipliers)`"
    )
    words = (
        f"The variance of the gradients differs by a factor of {ratio:.3g} between layers (threshold {_UNEVEN:g}); it "
        f"is largest in {loudest!r}. {use}."
    )
    yield TrainingAdvice("uneven gradient variance", loudest, ratio, _UNEVEN, words, LayerMultipliers(rows))


def _pooled_variance(group: Sequence[VariableGradient]) -> float:
    sizes = [float(np.prod(one.shape)) for one in group]
    return float(np.average([one.variance for one in group], weights=sizes)) if sum(sizes) else 0.0


def _kernels(epoch: TrainingEpoch) -> list[tuple[float, VariableGradient]]:
    pairs = zip(epoch.update_ratios, epoch.gradients, strict=True)
    return [(ratio, one) for ratio, one in pairs if len(one.shape) > 1]
