"""The loss of one batch, compiled or given, for those who look at gradients without training."""

from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, nearest
from kopt.train.internals import call_takes_training


def require_loss(model: keras.Model, loss: Any) -> None:
    """Make sure that there is a loss.

    Raises:
        ConfigError: neither the model has one nor is one given, or Keras does not know it.
    """
    if loss is None and not model.compiled:
        raise ConfigError("There is no loss: compile the model, or pass `loss`, e.g. `loss='mse'`.")
    require_known_loss(loss)


def require_known_loss(loss: Any) -> None:
    """Make sure that a loss is `None`, an object or function, or a name that Keras knows.

    Raises:
        ConfigError: it is not.
    """
    try:
        keras.losses.get(loss)
    except (ValueError, TypeError) as error:
        known = [name for name in dir(keras.losses) if name.islower() and callable(getattr(keras.losses, name))]
        raise ConfigError(
            f"Unknown loss {loss!r}.{nearest(str(loss), known)} Accepted: a name of `keras.losses`, such as 'mse', a "
            f"function or a `keras.losses.Loss`."
        ) from error


def batch_loss(model: keras.Model, loss: Any, batch: tuple[Any, Any, Any], *, training: bool) -> tf.Tensor:
    """Return the mean loss of a batch, with what layers add to it.

    Args:
        model: built.
        loss: a loss of Keras; `None` for the compiled one, whose metrics it moves.
        batch: `(x, y, sample_weight)`.
        training: whether layers behave as in training.
    """
    x, y, weight = batch
    outputs = model(x, training=training) if call_takes_training(model) else model(x)
    if loss is None:
        return model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight, training=training)
    value = _given(keras.losses.get(loss), y, outputs, weight)
    return sum([tf.cast(one, value.dtype) for one in model.losses], value)


def _given(loss: Any, y: Any, outputs: Any, weight: Any) -> tf.Tensor:
    if isinstance(loss, keras.losses.Loss):
        return loss(y, outputs, sample_weight=weight)
    values = loss(y, outputs)
    return keras.ops.mean(values if weight is None else values * keras.ops.cast(weight, values.dtype))
