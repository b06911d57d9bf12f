"""Pruning of weights that no gradient moves."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, NonFiniteError
from kopt.core.records.changes.magnitude_pruning import Pattern
from kopt.core.settings import choice, number, whole
from kopt.graph import OwnedVariable, from_tf_keras, require_built, require_finite
from kopt.graph.naming import channel_axes
from kopt.prune.plain import require_plain
from kopt.prune.schedules import Constant
from kopt.prune.weight_masks.by_magnitude import Magnitude, report_of
from kopt.prune.weight_masks.masks import Masks
from kopt.prune.weight_masks.selection import choose
from kopt.train.batch_loss import LossScale, batch_loss, require_loss, scaled_gradients
from kopt.train.labelled_batches import labelled_batches
from kopt.train.snapshot import preserved
from kopt.train.steps.input_checks import check_inputs
from kopt.train.weight_constraints import constrainable

_MEASURES = ("gradient", "taylor")


def gradient(
    model: keras.Model,
    data: Any,
    *,
    threshold: float | None = None,
    sparsity: float | None = None,
    measure: str = "gradient",
    granularity: str = "element",
    batches: int = 16,
    batch_size: int = 32,
    loss: Any = None,
    layers: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    policy: str = "all",
) -> tuple[keras.Model, Magnitude]:
    """Return a copy of a model without the weights that the loss does not depend on, and what was put under masks.

    The mean magnitude of the gradient over several batches is compared with a threshold, weight by weight or channel by
    channel. The masks stay as they are; the copy trains, saves and is finished like one of `magnitude`.

    Formulas: with `g_i` the gradient of batch `i` of `n`, `"gradient"` is `sum |g_i| / n`; `"taylor"` is
    `sum |g_i w| / n`, which estimates how the loss changes without the weight. Of a channel it is the mean over the
    weights that make it.

    Args:
        model: built, or called once; not changed. See `magnitude` for subclassed ones.
        data: `(x, y)` or `(x, y, sample_weight)` arrays, or a `tf.data.Dataset` of such batches.
        threshold: weights below it are removed; or
        sparsity: share of all weights to remove, those with the smallest measure. Give one of the two.
        measure: `"gradient"` or `"taylor"`.
        granularity: what goes together: `"element"`, or `"channel"` (whole output channels of a kernel; those of the
            outputs stay). What is zero then is still multiplied; `channels(criterion="gradient")` makes the model
            smaller instead.
        batches: how many to look at, at most. From one alone chance decides, and the report says so.
        batch_size: of arrays.
        loss: a loss of Keras; the compiled one by default.
        layers: names of the only layers to prune.
        skip: names of layers to leave dense.
        policy: see `magnitude`.

    Raises:
        ConfigError: no loss, neither or both of `threshold` and `sparsity`, or nothing lies below the threshold.
        DataError: the data does not fit the model, or is empty.
        NonFiniteError: a weight or a gradient is NaN or infinite.

    Example:
        >>> pruned, report = kopt.prune.gradient(model, (x_train, y_train), sparsity=0.5, measure="taylor")
        >>> round(report.sparsity, 2)
        0.5

    Source: Molchanov et al., "Pruning convolutional neural networks for resource efficient inference", 2017,
    https://arxiv.org/abs/1611.06440
    """
    model = from_tf_keras(model)
    require_built(model)
    require_plain(model)
    require_finite(model)
    require_loss(model, loss)
    choice("measure", measure, _MEASURES)
    choice("granularity", granularity, ("element", "channel"))
    whole("batches", batches)
    if (threshold is None) == (sparsity is None):
        raise ConfigError(
            f"Give one of `threshold` and `sparsity`. Received: threshold={threshold!r}, sparsity={sparsity!r}."
        )
    if sparsity is not None and number("sparsity", sparsity, least=0.0) >= 1.0:
        raise ConfigError(f"`sparsity` must be in [0, 1). Received: {sparsity!r}.")
    if threshold is not None:
        number("threshold", threshold, least=0.0, open_below=True)
    pattern = Pattern(granularity)
    chosen, left = choose(model, 0.5, layers=layers, skip=skip, ratios=None, policy=policy, pattern=pattern)
    owned = [one for one, _ in chosen]
    with preserved(model):
        measured, taken = _measured(model, owned, data, measure, batches, batch_size, loss)
    if granularity == "channel":
        measured = [_by_channel(one, values) for one, values in zip(owned, measured, strict=True)]
    kept = _largest(measured, owned, sparsity) if threshold is None else _above(measured, owned, threshold)
    zero = [1 - float(np.mean(mask)) for mask in kept]
    share = sum(float((~mask).sum()) for mask in kept) / sum(mask.size for mask in kept)
    if share == 0.0:
        least, what = (
            min(float(values.min()) for values in measured),
            "weight" if granularity == "element" else granularity,
        )
        below = f"No {what} has a mean {measure} below {threshold!r}; the smallest is {least:.3g}. Raise `threshold`"
        few = f"`sparsity={sparsity!r}` of {sum(mask.size for mask in kept):,} weights is none. Raise it"
        raise ConfigError(f"{below}, or give a `sparsity`." if sparsity is None else f"{few}.")
    copy = constrainable(model)
    masks = Masks(copy, [one.path for one in owned], zero, pattern, Constant(share))
    copy.constrain_by(masks)
    masks.fix(kept)
    counted = f"Measured over {taken} batches." if taken > 1 else "Measured on a single batch: chance has decided."
    return copy, report_of(copy, left, notes=(counted,))


def _by_channel(one: OwnedVariable, values: np.ndarray) -> np.ndarray:
    """Return the means over the weights of each output channel, with sides of 1 along the others."""
    rank = values.ndim
    others = tuple(set(range(rank)) - set(channel_axes(one.layer, one.variable.name, rank)))
    return values.mean(axis=others, keepdims=True)


def _above(measured: Sequence[np.ndarray], owned: Sequence[OwnedVariable], threshold: float) -> list[np.ndarray]:
    """Return masks of the weights that stay; what has the largest measure of a kernel always does."""
    return _spread([(values >= threshold) | (values >= values.max()) for values in measured], owned)


def _largest(
    measured: Sequence[np.ndarray], owned: Sequence[OwnedVariable], sparsity: float | None
) -> list[np.ndarray]:
    """Return the same for a share of weights to remove: of those with one measure the first ones of the model go."""
    together = np.concatenate([values.ravel() for values in measured])
    counts = [
        one.variable.value.shape.num_elements() // values.size for one, values in zip(owned, measured, strict=True)
    ]
    weights = np.repeat(counts, [values.size for values in measured])
    order = np.argsort(together, kind="stable")
    goes = np.cumsum(weights[order]) <= round(weights.sum() * (sparsity or 0.0))
    stays = np.ones(together.size, np.bool_)
    stays[order[goes]] = False
    parts = np.split(stays, np.cumsum([values.size for values in measured])[:-1])
    masks = [part.reshape(values.shape) for part, values in zip(parts, measured, strict=True)]
    for mask, values in zip(masks, measured, strict=True):
        if not mask.any():
            mask[np.unravel_index(values.argmax(), values.shape)] = True
    return _spread(masks, owned)


def _spread(masks: Sequence[np.ndarray], owned: Sequence[OwnedVariable]) -> list[np.ndarray]:
    return [np.array(np.broadcast_to(mask, one.variable.shape)) for mask, one in zip(masks, owned, strict=True)]


def _measured(
    model: keras.Model,
    owned: Sequence[OwnedVariable],
    data: Any,
    measure: str,
    batches: int,
    batch_size: int,
    loss: Any,
) -> tuple[list[np.ndarray], int]:
    """Return the measure of every weight, a mean over batches, and their number."""
    variables = [one.variable for one in owned]
    sums = [tf.Variable(tf.zeros(variable.shape, tf.float32)) for variable in variables]

    def gradients(batch: Any, scale: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        values = [variable.value for variable in variables]
        return scaled_gradients(lambda: batch_loss(model, loss, batch, training=True), values, scale)

    def add(found: list[tf.Tensor]) -> None:
        for total, slope, variable in zip(sums, found, variables, strict=True):
            factor = tf.cast(variable.value, tf.float32) if measure == "taylor" else 1.0
            total.assign_add(tf.abs(slope * factor))

    traced = tf.function(gradients, autograph=False, reduce_retracing=True)
    step, scaling = tf.function(add, autograph=False), LossScale(model)
    taken = 0
    for x, y, weight in labelled_batches(data, batch_size):
        if not taken:
            check_inputs(model, x, y, weight, loss=loss)
        step(scaling.take(functools.partial(traced, (x, y, weight))))
        taken += 1
        if taken == batches:
            break
    if not taken:
        raise DataError("There is no batch to look at: `data` is empty.")
    means = [total.numpy() / taken for total in sums]
    for one, values in zip(owned, means, strict=True):
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"The gradient of {one.path!r} is NaN or infinite. `kopt.train.locate_nonfinite` says where it begins."
            )
    return means, taken
