"""Multipliers of the learning rate from the measured variance of the gradients."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import DataError, NonFiniteError
from kopt.core.records.training.multipliers import LayerMultiplier, LayerMultipliers
from kopt.core.settings import number, whole
from kopt.train.batch_loss import batch_loss, require_loss
from kopt.train.optimizers.multipliers import owners_of_variables


def multipliers_from_gradient_variance(
    model: keras.Model,
    data: Any,
    *,
    loss: Any = None,
    batches: int = 16,
    power: float = 0.5,
    limits: tuple[float, float] = (0.1, 10.0),
) -> LayerMultipliers:
    """Return multipliers that even out the gradient noise of the layers.

    Use it with SGD, whose updates carry the noise of the gradients; Adam divides it out by itself.

    Formula: `m_l = (median(s) / s_l)^power`, clipped to `limits`, where `s_l` is the variance between batches of the
    gradient of layer `l`, mean over its parameters. The variance of an update is `(rate * m_l)^2 s_l`, so `power=0.5`
    makes it the same for all layers. A layer whose gradient does not vary gets 1.

    The gradients are those in inference mode (no dropout, moving statistics in batch normalization), at the present
    weights. The model is not changed.

    Args:
        model: built, with variables to train.
        data: `tf.data.Dataset` or iterable of batches `(x, y)` or `(x, y, sample_weight)`.
        loss: a loss of Keras; the compiled one by default. Regularization losses are added.
        batches: how many to read at most; at least 2 are needed. Default 16.
        power: 0.5 evens out the updates; smaller ones go part of the way. In [0, 1].
        limits: least and largest multiplier. Default (0.1, 10).

    Raises:
        ConfigError: a setting is out of range, or there is no loss.
        DataError: fewer than two batches, or no labels.
        NonFiniteError: a gradient is NaN or infinite.

    Example:
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=32)
        >>> rates = kopt.train.multipliers_from_gradient_variance(model, train, batches=8)
        >>> all(0.1 <= row.multiplier <= 10 for row in rates.rows)
        True
        >>> sgd = kopt.train.LearningRateMultipliers(keras.optimizers.SGD(0.1), rates)
        >>> model.compile(sgd, "sparse_categorical_crossentropy")
    """
    whole("batches", batches, least=2)
    power = number("power", power, least=0.0, most=1.0)
    low = number("limits[0]", limits[0], least=0.0, open_below=True)
    high = number("limits[1]", limits[1], least=low)
    require_loss(model, loss)
    variables = model.trainable_variables
    squares, count = _deviations(model, variables, data, loss, batches)
    owners = [layers[-1] for layers in map(owners_of_variables(model).get, map(id, variables)) if layers]
    variances = _by_layer(owners, variables, squares, count)
    factors = even_out(np.array(list(variances.values())), power, (low, high))
    by_layer = dict(zip(variances, factors, strict=True))
    rows = [
        LayerMultiplier(variable.path, type(owner).__name__, float(by_layer[id(owner)]), float(variances[id(owner)]))
        for variable, owner in zip(variables, owners, strict=True)
    ]
    return LayerMultipliers(tuple(rows))


def even_out(variances: Any, power: float, limits: tuple[float, float]) -> Any:
    """Return `(median / variance)^power` clipped to `limits`; 1 for a variance of 0, which the median leaves out."""
    positive = variances > 0
    if not positive.any():
        return np.ones_like(variances)
    safe = np.where(positive, variances, 1.0)
    return np.where(positive, np.clip((np.median(variances[positive]) / safe) ** power, *limits), 1.0)


def _by_layer(
    owners: Sequence[Any], variables: Sequence[Any], squares: Sequence[float], count: int
) -> dict[int, float]:
    sums: dict[int, float] = {}
    sizes: dict[int, int] = {}
    for owner, variable, square in zip(owners, variables, squares, strict=True):
        sums[id(owner)] = sums.get(id(owner), 0.0) + square
        sizes[id(owner)] = sizes.get(id(owner), 0) + int(np.prod(variable.shape))
    return {key: sums[key] / ((count - 1) * max(sizes[key], 1)) for key in sums}


def _deviations(
    model: keras.Model, variables: Sequence[Any], data: Any, loss: Any, batches: int
) -> tuple[list[float], int]:
    """Return the sum of squared deviations from the mean gradient for every variable, and the number of batches.

    By Welford's recurrence: the difference of two large sums would lose a small variance.
    """

    def gradients_of(x: Any, y: Any, weight: Any) -> list[Any]:
        return _gradients(model, variables, loss, (x, y, weight))

    step = tf.function(gradients_of, autograph=False, reduce_retracing=True)
    metrics = [(variable, variable.numpy()) for variable in model.metrics_variables]
    means: list[Any] = [0.0] * len(variables)
    squares, count = [0.0] * len(variables), 0
    for batch in itertools.islice(data, batches):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if y is None:
            raise DataError("Gradients need labels: batches must be `(x, y)` or `(x, y, sample_weight)`.")
        count += 1
        for i, gradient in enumerate(step(x, y, weight)):
            change = gradient - means[i]
            means[i] = means[i] + change / count
            squares[i] += float(tf.reduce_sum(change * (gradient - means[i])))
            if not np.isfinite(squares[i]):
                raise NonFiniteError(f"The gradient of {variables[i].path!r} is NaN or infinite in batch {count - 1}.")
    for variable, value in metrics:
        variable.assign(value)
    if count < 2:
        raise DataError(f"The variance of the gradients needs at least two batches. Received: {count}.")
    return squares, count


def _gradients(model: keras.Model, variables: Sequence[Any], loss: Any, batch: tuple[Any, Any, Any]) -> list[Any]:
    with tf.GradientTape() as tape:
        value = batch_loss(model, loss, batch, training=False)
    gradients = tape.gradient(value, [variable.value for variable in variables], unconnected_gradients="zero")
    return [tf.cast(tf.convert_to_tensor(gradient), "float32") for gradient in gradients]
