"""What a model is worth, stage by stage of a training, and the data and loss that this is judged by."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.core.records.changes.recovery import RecoveryStage
from kopt.core.settings import whole
from kopt.graph.internals import graph_of
from kopt.train.batch_loss import require_known_loss
from kopt.train.internals import direction_of, loss_weights
from kopt.train.labelled_batches import labelled_dataset
from kopt.train.steps.label_checks import LossKind, only_loss

# Names that Keras makes a loss of when it sees the shapes of labels and outputs.
_RESOLVED = ("crossentropy", "ce")


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a model is trained for, and judged by.

    Attributes:
        loss: as for `compile`.
        loss_weights: of several outputs, likewise.
        metric: of which higher is better; `None`: the loss itself.
    """

    loss: Any
    loss_weights: Any
    metric: str | None

    def compile(self, model: keras.Model, optimizer: Any = "rmsprop") -> None:
        """Compile a model for it."""
        metrics = [self.metric] if self.metric else None
        model.compile(optimizer, self.loss, loss_weights=self.loss_weights, metrics=metrics)


class Course:
    """Judges a compiled model stage by stage and keeps the weights of the best one.

    Attributes:
        stages: in order.
        best: of them.
        best_weights: what the model's weights were then.
    """

    def __init__(self, model: keras.Model, data: tf.data.Dataset, metric: str | None):
        self._model, self._data, self._metric = model, data, metric
        self.stages: list[RecoveryStage] = []
        self.best = RecoveryStage("", math.nan)
        self.best_weights: list[Any] = []

    def note(self, name: str) -> None:
        """Judge the model as it is now."""
        stage = RecoveryStage(name, *evaluated(self._model, self._data, self._metric))
        self.stages.append(stage)
        if len(self.stages) == 1 or _rank(stage) > _rank(self.best):
            self.best, self.best_weights = stage, self._model.get_weights()


def _rank(stage: RecoveryStage) -> tuple[float, float]:
    """Return what is higher for a better stage, of equal metrics by the loss; what is not a number is worst."""
    values = (-stage.loss if stage.metric is None else stage.metric, -stage.loss)
    first, second = (-math.inf if math.isnan(value) else value for value in values)
    return first, second


def evaluated(model: keras.Model, data: tf.data.Dataset, metric: str | None) -> tuple[float, float | None]:
    """Return the loss and the metric of a compiled model.

    Raises:
        ConfigError: Keras does not know the metric, gives it under another name, or lower is better of it.
    """
    try:
        found = model.evaluate(data, verbose=0, return_dict=True)
    except ValueError as error:
        if metric and str(metric) in str(error):
            raise ConfigError(f"`metric` must be the name of a metric of Keras. {error}") from error
        raise
    if metric and metric not in found:
        raise ConfigError(f"`metric` {metric!r} is none of what Keras reports: {', '.join(found)}.")
    if metric and direction_of(model, metric) == "down":
        raise ConfigError(
            f"`metric` must be one of which higher is better. Received: {metric!r}, of which lower is. Leave it out, "
            f"and the loss judges."
        )
    return float(found["loss"]), float(found[metric]) if metric else None


def aim_of(models: Iterable[keras.Model | None], loss: Any, metric: str | None) -> Aim:
    """Return the loss to train with and the metric to judge by.

    Args:
        models: whose own loss is taken, with its weights, the first that is compiled, where `loss` is `None`.
        loss: as for `compile`.
        metric: `None`: accuracy for a cross-entropy of one output, unless it is binary and takes logits, which Keras
            would cut at 0.5; the loss for others.

    Raises:
        ConfigError: there is no loss, or Keras does not know it.
    """
    weights, models = None, tuple(models)
    for one in models:
        if loss is None and one is not None and one.compiled:
            loss, weights = one.loss, loss_weights(one)
    if loss is None:
        raise ConfigError("There is no loss: compile the model or the teacher, or pass `loss`, e.g. `loss='mse'`.")
    count = next((_outputs(one) for one in models if one is not None), None)
    loss = only_loss(loss) if count == 1 else loss
    if isinstance(loss, str) and loss not in _RESOLVED:
        require_known_loss(loss)
    kind = LossKind.of(loss)
    is_counted = kind.family in ("sparse", "categorical") or (kind.family == "binary" and not kind.from_logits)
    if metric is None and is_counted and count in (1, None):
        metric = "accuracy"
    return Aim(loss, weights, metric)


def _outputs(model: keras.Model) -> int | None:
    """Return the number of outputs; `None` of a subclassed model."""
    graph = graph_of(model)
    return None if graph is None else len(keras.tree.flatten(graph.output))


def finite_batches(data: Any, batch_size: int, seed: int | None, name: str) -> tuple[tf.data.Dataset, int]:
    """Return batches of labelled examples and their number.

    Args:
        data: arrays, or a data set of batches.
        batch_size: of arrays.
        seed: of the order of arrays; `None` leaves it.
        name: what the user calls them, for the message.

    Raises:
        ConfigError: `seed` is not a whole number of at least 0.
        DataError: there are none, or they never end.
    """
    if seed is not None:
        whole("seed", seed, least=0)
    dataset = labelled_dataset(data, batch_size, shuffle_seed=seed)
    count = int(dataset.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"`{name}` never ends: give it a length, e.g. `{name}.take(1000)`.")
    if count == tf.data.UNKNOWN_CARDINALITY:
        count = sum(1 for _ in dataset)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))  # Keras warns of an end it did not know
    if not count:
        raise DataError(f"`{name}` is empty.")
    return dataset, count
