"""The loss of one batch, compiled or given, for those who look at gradients without training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, nearest
from kopt.train.internals import call_takes_training
from kopt.train.numerics.precision import needs_loss_scaling

# Of what is lost below the smallest number of float16, a factor of 32,768 brings back as much as can be had.
_FIRST_SCALE = 2.0**15


def require_loss(model: keras.Model, loss: Any) -> None:
    """Make sure that there is a loss.

    Raises:
        ConfigError: neither the model has one nor is one given, or Keras does not know it.
    """
    if loss is None and not model.compiled:
        raise ConfigError("There is no loss: compile the model, or pass `loss`, e.g. `loss='mse'`.")
    require_known_loss(loss)


def require_known_loss(loss: Any) -> None:
    """Make sure that a loss is `None`, an object or function, a name that Keras knows, or such by output.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(loss, (Mapping, list, tuple)):  # by output
        for one in loss.values() if isinstance(loss, Mapping) else loss:
            require_known_loss(one)
        return
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
        loss: a loss of Keras, or one by output; `None` for the compiled one, whose metrics it moves.
        batch: `(x, y, sample_weight)`.
        training: whether layers behave as in training.

    Raises:
        ConfigError: the model was compiled without a loss, and nothing adds one.
    """
    x, y, weight = batch
    outputs = model(x, training=training) if call_takes_training(model) else model(x)
    if loss is None:
        _check_any_loss(model)
        return model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight, training=training)
    value = _of_outputs(model, loss, y, outputs, weight)
    return sum([tf.cast(one, value.dtype) for one in model.losses], value)


def _check_any_loss(model: keras.Model) -> None:
    # Only after a call it is known what layers add; a `compute_loss` of the user's own needs neither.
    if model.loss is None and not model.losses and type(model).compute_loss is keras.Model.compute_loss:
        raise ConfigError(
            f"The model {model.name!r} was compiled without a loss, and its layers add none: compile it with one, or "
            f"pass `loss`, e.g. `loss='mse'`."
        )


class LossScale:
    """A power of two that a loss is multiplied with, so that small gradients of float16 do not become zero.

    It is halved until no gradient overflows. A model without float16 has 1.

    Args:
        model: whose gradients are taken.
    """

    def __init__(self, model: keras.Model):
        self._scale = _FIRST_SCALE if needs_loss_scaling(model) else 1.0

    def take(self, gradients: Callable[[tf.Tensor], tuple[Any, tf.Tensor]]) -> Any:
        """Return gradients that did not overflow, or, if they always do, those of the unscaled loss.

        Args:
            gradients: given the factor of the loss, returns gradients divided by it and whether all are finite.
        """
        while True:
            found, are_finite = gradients(tf.constant(self._scale))
            if self._scale == 1.0 or bool(are_finite):
                return found
            self._scale /= 2


def scaled_gradients(
    loss: Callable[[], tf.Tensor], values: list[Any], scale: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Return what `LossScale.take` wants: dense float32 gradients, 0 where the loss does not depend on a value.

    Args:
        loss: computes it, unscaled.
        values: what is derived by.
        scale: factor of the loss.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        value = loss()
        value *= tf.cast(scale, value.dtype)
    found = tape.gradient(value, values, unconnected_gradients="zero")
    dense = [tf.cast(tf.convert_to_tensor(one), tf.float32) / scale for one in found]
    return dense, tf.reduce_all([tf.reduce_all(tf.math.is_finite(one)) for one in dense])


def _of_outputs(model: keras.Model, loss: Any, y: Any, outputs: Any, weight: Any) -> tf.Tensor:
    if not isinstance(loss, (Mapping, list, tuple)):
        return _given(keras.losses.get(loss), y, outputs, weight)
    names = list(outputs) if isinstance(outputs, Mapping) else list(model.output_names)
    losses, targets, predicted, weights = (
        _by_name(part, names) for part in (loss, y, outputs, [weight] * len(names) if _is_one(weight) else weight)
    )
    known = [name for name in names if losses[name] is not None]
    if not known:
        raise ConfigError(f"`loss` names none of the outputs {', '.join(names)}. Received: {loss!r}.")
    values = [_given(keras.losses.get(losses[one]), targets[one], predicted[one], weights[one]) for one in known]
    return sum(values[1:], values[0])


def _is_one(weight: Any) -> bool:
    return not isinstance(weight, (Mapping, list, tuple))


def _by_name(part: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return what is given by output name or by position, by name; `None` where nothing is."""
    if isinstance(part, Mapping):
        return {name: part.get(name) for name in names}
    values = list(part) if isinstance(part, (list, tuple)) else [part]
    if len(values) != len(names):
        raise ConfigError(f"There are {len(names)} outputs, {', '.join(names)}. Received: {len(values)} of them.")
    return dict(zip(names, values, strict=True))


def _given(loss: Any, y: Any, outputs: Any, weight: Any) -> tf.Tensor:
    leaves, targets = keras.tree.flatten(outputs), keras.tree.flatten(y)
    is_of_keras = isinstance(loss, keras.losses.Loss) or getattr(loss, "__module__", "").partition(".")[0] == "keras"
    if len(leaves) > 1 and is_of_keras:
        raise ConfigError(
            f"One `loss` was given, and the model has {len(leaves)} outputs. Compile it with a loss for each, and "
            f"leave `loss` out."
        )
    if len(leaves) == 1 and is_of_keras:
        outputs, y = leaves[0], targets[0] if len(targets) == 1 else y
    if isinstance(loss, keras.losses.Loss):
        return loss(y, outputs, sample_weight=weight)
    values = loss(y, outputs)
    return keras.ops.mean(values if weight is None else values * keras.ops.cast(weight, values.dtype))
