"""Loss and metric of single examples, so that differences can be paired."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.measure.accuracy import is_loss
from kopt.profile.layer_sensitivity.internals import values_of_metric
from kopt.train.internals import loss_weights, mask_of
from kopt.train.steps.label_checks import only_loss

_CROSSENTROPIES = ("crossentropy", "cross_entropy")
# From targets and outputs to one number an example.
PerExample = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a model is judged by.

    Attributes:
        loss: of single examples.
        metric: of single examples; `None` if the metric is the loss, or is computed by `whole`.
        whole: a Keras metric that is no mean over examples, such as AUC.
        name: of the metric.
        more_is_better: of the metric.
    """

    loss: PerExample
    metric: PerExample | None
    whole: keras.metrics.Metric | None
    name: str
    more_is_better: bool

    def drop(self, before: float, after: float) -> float:
        """Return by how much the metric got worse."""
        return before - after if self.more_is_better else after - before


def objective_of(model: keras.Model, y: Any, outputs: Any, loss: Any, metric: Any) -> Objective:
    """Return what to judge `model` by, for targets and outputs of the given shapes.

    Args:
        model: compiled, unless `loss` is given.
        y: targets of one batch.
        outputs: outputs for them, symbolic or not.
        loss: as for `compile`, or a function `(y, outputs)` that gives one number an example.
        metric: `None` for accuracy with a cross-entropy and for the loss with others; `"loss"`, `"accuracy"`, a metric
            of Keras or its name, or a function like that of the loss, of which more is better.

    Raises:
        ConfigError: no loss, an unknown metric, or one that does not fit several outputs.
        DataError: the targets do not fit the outputs.
    """
    given = _given_loss(model, loss)
    if isinstance(outputs, (Mapping, list, tuple)) and len(keras.tree.flatten(outputs)) == 1:
        given = only_loss(given)
        return _of_one_output(objective_of(model, _leaf(y), _leaf(outputs), given, metric), given, metric)
    of_example = _loss(model, given, loss is None, y, outputs)
    single = len(keras.tree.flatten(outputs)) == 1
    if metric is None:
        metric = "accuracy" if single and _is_crossentropy(given) else "loss"
    if metric == "loss":
        return Objective(of_example, None, None, "loss", False)
    if callable(metric) and not isinstance(metric, (keras.metrics.Metric, type)) and not _is_of_keras(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        return Objective(of_example, lambda y, outputs: _one_each(metric(y, outputs), name), None, name, True)
    if not single:
        raise ConfigError(
            f"The model has several outputs; a metric of Keras judges one. Pass a function `metric(y, outputs)` that "
            f"gives one number an example, or `metric='loss'`. Received: {metric!r}."
        )
    more_is_better = metric in ("accuracy", "acc") or not is_loss(metric)
    found = _accuracy(y, outputs, given) if metric in ("accuracy", "acc") else _metric(metric)
    if not isinstance(found, keras.metrics.MeanMetricWrapper):
        return Objective(of_example, None, found, found.name, more_is_better)
    return Objective(of_example, _mean_metric(found), None, found.name, more_is_better)


def _leaf(structure: Any) -> Any:
    return keras.tree.flatten(structure)[0]


def _of_one_output(found: Objective, loss: Any, metric: Any) -> Objective:
    """Return the same for outputs and targets that lie in a dict or list, which functions of the user get as it is."""

    def opened(function: PerExample | None, given: Any) -> PerExample | None:
        if function is None or (callable(given) and not _is_of_keras(given)):
            return function
        return lambda y, outputs: function(_leaf(y), _leaf(outputs))

    of_example = opened(found.loss, loss)
    assert of_example is not None
    return dataclasses.replace(found, loss=of_example, metric=opened(found.metric, metric))


def _given_loss(model: keras.Model, loss: Any) -> Any:
    if loss is not None:
        return loss
    if not getattr(model, "compiled", False) or model.loss is None:
        raise ConfigError("There is no loss: compile the model with one, or pass `loss`, e.g. `loss='mse'`.")
    if type(model).compute_loss is not keras.Model.compute_loss:
        raise ConfigError(
            f"{type(model).__qualname__} computes its loss in a `compute_loss` of its own, for whole batches. Pass "
            f"`loss`, a function `(y, outputs)` that gives one number an example."
        )
    return model.loss


def _loss(model: keras.Model, given: Any, is_compiled: bool, y: Any, outputs: Any) -> PerExample:
    if not isinstance(given, (Mapping, list, tuple)) and len(keras.tree.flatten(outputs)) == 1:
        return _single_loss(given, "the loss")
    if callable(given) and not _is_of_keras(given):
        return lambda y, outputs: _one_each(given(y, outputs), "the loss")
    losses = _by_output(model, outputs, given, "loss")
    weights = loss_weights(model) if is_compiled else None
    factors = _by_output(model, outputs, 1.0 if weights is None else weights, "loss_weights")
    parts = [
        _single_loss(one, f"the loss of output {place}") if one is not None else None
        for place, one in enumerate(losses)
    ]

    def weighted_sum(y: Any, outputs: Any) -> Any:
        targets, predicted = _by_output(model, outputs, y, "y"), keras.tree.flatten(outputs)
        terms = zip(parts, factors, targets, predicted, strict=True)
        return sum(float(factor or 0.0) * part(target, one) for part, factor, target, one in terms if part is not None)

    return weighted_sum


def _by_output(model: keras.Model, outputs: Any, given: Any, name: str) -> list[Any]:
    """Return what `given` holds for every output, by its key or position; one thing stands for all."""
    flat = keras.tree.flatten(outputs)
    if isinstance(given, Mapping):
        keys = list(getattr(model, "output_names", ()))
        if isinstance(outputs, Mapping):
            keys = [path[-1] for path, _ in keras.tree.flatten_with_path(outputs)]
        unknown = sorted(set(map(str, given)) - set(map(str, keys)))
        if unknown:
            raise ConfigError(f"`{name}` has the key(s) {', '.join(unknown)}; the outputs are {', '.join(keys)}.")
        return [given.get(key) for key in keys]
    if isinstance(given, (list, tuple)):
        if len(given) != len(flat):
            raise ConfigError(f"`{name}` has {len(given)} parts for {len(flat)} outputs.")
        return list(given)
    return [given] * len(flat)


def _single_loss(given: Any, name: str) -> PerExample:
    try:
        loss = keras.losses.get(given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"`loss` {given!r} is not known to Keras: {error}") from error

    def values(y: Any, outputs: Any) -> Any:
        mask = mask_of(outputs)
        y = _of_rank_of(y, outputs)
        if isinstance(loss, keras.losses.Loss):
            cast = keras.ops.convert_to_tensor
            return _one_each(loss.call(cast(y, dtype=loss.dtype), cast(outputs, dtype=loss.dtype)), name, mask)
        return _one_each(loss(y, outputs), name, mask)

    return values


def _of_rank_of(y: Any, outputs: Any) -> Any:
    """Return targets of shape `(examples,)` as `(examples, 1)` where the outputs are, as Keras does for its losses."""
    is_flat = len(y.shape) == len(outputs.shape) - 1 and outputs.shape[-1] == 1
    return tf.expand_dims(y, -1) if is_flat else y


def _one_each(values: Any, name: str, mask: Any = None) -> tf.Tensor:
    """Return float32 numbers of shape `(examples,)`: the mean of those of an example, of unmasked ones only."""
    values = tf.cast(tf.convert_to_tensor(values), tf.float32)
    if values.shape.rank == 0:
        raise ConfigError(
            f"`{name}` gives one number for a whole batch; single examples are compared here. Return one number an "
            f"example, of shape `(batch,)`."
        )
    axes = list(range(1, values.shape.rank))
    if mask is None or values.shape.rank != mask.shape.rank or not axes:
        return tf.reduce_mean(values, axes)
    kept = tf.cast(mask, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * kept, axes), tf.reduce_sum(kept, axes))


def _is_crossentropy(loss: Any) -> bool:
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    return any(part in str(name).lower() for part in _CROSSENTROPIES)


def _is_of_keras(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("keras.")


def _metric(metric: Any) -> keras.metrics.Metric:
    # `is_loss` has refused what Keras does not know.
    found = keras.metrics.get(metric)
    return found if isinstance(found, keras.metrics.Metric) else keras.metrics.MeanMetricWrapper(found)


def _mean_metric(metric: keras.metrics.MeanMetricWrapper) -> PerExample:
    return lambda y, outputs: _one_each(
        values_of_metric(metric, _of_rank_of(y, outputs), outputs), metric.name, mask_of(outputs)
    )


def _accuracy(y: Any, outputs: Any, loss: Any) -> keras.metrics.Metric:
    """Return the accuracy for targets of this shape, as `compile` chooses it; logits are cut at 0, not at 0.5."""
    labels, predicted = keras.tree.flatten(y), keras.tree.flatten(outputs)
    if len(labels) != 1:
        raise DataError(f"Accuracy needs one array of labels for the one output. Received: {len(labels)}.")
    have, width = tuple(labels[0].shape), tuple(predicted[0].shape)
    if len(width) < 2 or width[-1] == 1:
        return keras.metrics.BinaryAccuracy("accuracy", threshold=_threshold(loss))
    if len(have) == len(width) - 1 or have[-1] == 1:
        return keras.metrics.SparseCategoricalAccuracy("accuracy")
    if have[-1] != width[-1]:
        raise DataError(
            f"Labels of shape {have} do not fit outputs of shape {width}: one-hot labels need the width {width[-1]}, "
            f"class numbers the shape {width[:-1]}."
        )
    if isinstance(loss, keras.losses.BinaryCrossentropy) or loss == "binary_crossentropy":
        return keras.metrics.BinaryAccuracy("accuracy", threshold=_threshold(loss))
    return keras.metrics.CategoricalAccuracy("accuracy")


def _threshold(loss: Any) -> float:
    is_of_logits = isinstance(loss, keras.losses.Loss) and loss.get_config().get("from_logits", False)
    return 0.0 if is_of_logits else 0.5
