"""What two models score on each of the same examples."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kopt.core.errors import ConfigError, DataError, nearest
from kopt.measure.accuracy import (
    agreeing_share,
    correct_share,
    gives_binary_logits,
    labelled_batches,
    predicted_labels,
    probabilities_of,
    require_probabilities,
)
from kopt.measure.comparison import pair
from kopt.measure.runner import Runner

Score = Callable[[np.ndarray, np.ndarray], Any]
Layout = Callable[[np.ndarray], tuple[int, ...]]


class Metric(NamedTuple):
    """How an example is scored.

    Attributes:
        score: from labels and predictions, examples first, to one number an example.
        name: for the words.
        larger_is_better: its direction.
        layout: of predictions, what two models must have in common to be compared; `None` leaves it to `score`.
    """

    score: Score
    name: str
    larger_is_better: bool
    layout: Layout | None


def metric_of(metric: Any, larger_is_better: bool | None, models: Sequence[Any], output: str | None) -> Metric:
    """Return what `metric` means; see `kopt.measure.ab_test`.

    Args:
        metric: as it was asked for.
        larger_is_better: direction of a function.
        models: as they were given, since `"loss"` is what they were compiled with.
        output: the output to judge.

    Raises:
        ConfigError: no such metric, or no loss to find.
    """
    is_own = callable(metric) and not _is_keras_loss(metric)
    if not is_own and larger_is_better is not None:
        raise ConfigError(f"The direction of {metric!r} is known; `larger_is_better` is for functions. Leave it out.")
    if is_own:
        name = getattr(metric, "__name__", type(metric).__name__)
        return Metric(metric, "score" if name == "<lambda>" else name, larger_is_better is not False, None)
    if metric in ("accuracy", "acc"):
        return Metric(correct_share, "accuracy", True, _classes)
    if metric == "binary_accuracy":
        return Metric(agreeing_share, "binary_accuracy", True, None)
    if metric == "loss":
        return _loss_metric(_compiled_loss(models, output))._replace(name="loss")
    return _loss_metric(metric)


def paired_scores(
    a: Runner, b: Runner, data: Any, metric: Metric, *, output: str | None, batch_size: int | None
) -> np.ndarray:
    """Return the scores of `a` and `b`, shape (2, examples).

    The data is gone through once, so that both see the same examples even if a data set shuffles anew every time.

    Raises:
        DataError: the data does not fit one of the two, is empty, or their outputs cannot be compared.
        ConfigError: several outputs and none named, sample weights, or accuracy of logits beside a file, which does not
            say what it gives.
        MeasurementError: one of the two answers NaN.
    """
    outputs = _chosen_outputs(a, b, output)
    logits = _give_logits(a, b, metric, outputs)
    parts = []
    for given, y, weight in labelled_batches(data):
        x = named_inputs(given, a, b)
        if weight is not None:
            raise ConfigError(
                "`sample_weight` has no place in a paired comparison, which counts examples. Pass (x, y)."
            )
        labels = _labels_of(y, outputs)
        answers = [
            predicted_labels(runner, labels, _predict(runner, other, x, name, batch_size), None)
            for runner, other, name in ((a, b, outputs[0]), (b, a, outputs[1]))
        ]
        if metric.layout is not None:
            _check_layouts(a, b, metric, answers[0][1], answers[1][1])
        parts.append(
            [
                _scores(metric, wanted, probabilities_of(predicted) if are_logits else predicted)
                for (wanted, predicted), are_logits in zip(answers, logits, strict=True)
            ]
        )
    if not parts:
        raise DataError("The data set is empty. Pass at least one batch of (x, y).")
    return np.concatenate(parts, axis=1)


def _give_logits(a: Runner, b: Runner, metric: Metric, outputs: tuple[str, str]) -> list[bool]:
    """Return of each whether its answers part at 0, where accuracy would cut them at 0.5."""
    if metric.score not in (correct_share, agreeing_share):
        return [False, False]
    models = [getattr(runner, "model", None) for runner in (a, b)]
    logits = [gives_binary_logits(model, name) for model, name in zip(models, outputs, strict=True)]
    if None in models:
        for model, name in zip(models, outputs, strict=True):
            require_probabilities(model, name)
    return logits


def inputs_of(data: Any, runner: Runner) -> Any:
    """Return the inputs in `data`: those of labelled arrays, of the first batch of a data set, or `data` itself."""
    if hasattr(data, "as_numpy_iterator"):
        data = next(data.as_numpy_iterator(), None)
        if data is None:
            raise DataError("The data set is empty. Pass at least one batch.")
        return data[0] if isinstance(data, (tuple, list)) else data
    is_pair = isinstance(data, (tuple, list)) and len(data) in (2, 3)
    if is_pair and (len(runner.inputs) == 1 or isinstance(data[0], (tuple, list, Mapping))):
        return data[0]
    return data


def named_inputs(x: Any, a: Runner, b: Runner) -> Any:
    """Return a sequence of inputs by their names in the first of the two; a file may have them in another order.

    Of a Keras model and a file, the model says which is which.
    """
    first = b if b.format == "keras" != a.format else a
    if len(first.inputs) < 2 or not isinstance(x, (list, tuple)) or len(x) != len(first.inputs):
        return x
    return {info.name: array for info, array in zip(first.inputs, x, strict=True)}


def _predict(runner: Runner, other: Runner, x: Any, output: str, batch_size: int | None) -> np.ndarray:
    names = {info.name for info in runner.inputs}
    if isinstance(x, Mapping) and set(x) != names and set(x) == {info.name for info in other.inputs}:
        partners = pair(other.inputs, runner.inputs, "inputs")
        x = {partners[name]: array for name, array in x.items()}
    try:
        predicted = runner.predict(x, batch_size=batch_size)
    except DataError as error:
        raise DataError(f"The data does not fit {runner.name}: {error}") from error
    return predicted[output] if isinstance(predicted, dict) else predicted


def _chosen_outputs(a: Runner, b: Runner, output: str | None) -> tuple[str, str]:
    """Return the name of the output to judge, as each of the two calls it."""
    names = [[info.name for info in runner.outputs] for runner in (a, b)]
    if output is not None and not any(output in own for own in names):
        known = list(dict.fromkeys(names[0] + names[1]))
        raise ConfigError(f"There is no output {output!r}.{nearest(output, known)} Outputs: {', '.join(known)}.")
    if output is None and any(len(own) > 1 for own in names):
        runner, own = next((runner, own) for runner, own in zip((a, b), names, strict=True) if len(own) > 1)
        raise ConfigError(f"{runner.name} has several outputs. Set `output` to one of: {', '.join(own)}.")
    return _own_name(a, b, output), _own_name(b, a, output)


def _own_name(runner: Runner, other: Runner, output: str | None) -> str:
    names = [info.name for info in runner.outputs]
    if output is not None and output in names:
        return output
    return names[0] if len(names) == 1 else pair(other.outputs, runner.outputs, "outputs")[str(output)]


def _labels_of(labels: Any, outputs: tuple[str, str]) -> Any:
    if not isinstance(labels, Mapping):
        return labels
    found = next((name for name in outputs if name in labels), None)
    if found is None:
        raise DataError(f"There are no labels for the output {outputs[0]!r}. Received those of: {', '.join(labels)}.")
    return labels[found]


def _check_layouts(a: Runner, b: Runner, metric: Metric, of_a: np.ndarray, of_b: np.ndarray) -> None:
    assert metric.layout is not None
    if metric.layout(of_a) != metric.layout(of_b):
        raise DataError(
            f"The {metric.name} of the two cannot be compared: {a.name} answers with shape {of_a.shape}, {b.name} with "
            f"{of_b.shape}. Compare models of one task, or pass scores of your own to `ab_scores`."
        )


def _scores(metric: Metric, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    values = np.asarray(metric.score(labels, predicted))
    if values.shape not in ((len(labels),), (len(labels), 1)) or values.dtype.kind not in "biuf":
        raise ConfigError(
            f"The metric {metric.name!r} must return one number an example, shape ({len(labels)},). Received: "
            f"{values.dtype} of shape {values.shape}. Average over all axes but the first, and mind that labels of "
            f"shape {labels.shape} and predictions of shape {predicted.shape} may broadcast."
        )
    return values.reshape(-1).astype(np.float64)


def _classes(predicted: np.ndarray) -> tuple[int, ...]:
    """Return the answers of an example and the classes among which each chooses; one number tells two apart."""
    if predicted.ndim == 1 or predicted.shape[-1] == 1:
        return (*predicted.shape[1:-1], 2)
    return predicted.shape[1:]


def _entries(array: np.ndarray) -> tuple[int, ...]:
    return tuple(size for size in array.shape[1:] if size != 1)


def _keras_losses() -> Any:
    # On first use: Keras takes seconds to import, which accuracies and latencies of files do without.
    return importlib.import_module("keras").losses


def _is_keras_loss(metric: Any) -> bool:
    if "keras" not in sys.modules:
        return False
    losses = _keras_losses()
    return isinstance(metric, losses.Loss) or metric is getattr(losses, getattr(metric, "__name__", ""), None)


def _loss_metric(asked: Any) -> Metric:
    losses = _keras_losses()
    try:
        found = losses.get(asked)
    except (ValueError, TypeError):
        found = None
    if found is None:
        known = [name for name in dir(losses) if name.islower() and callable(getattr(losses, name))]
        raise ConfigError(
            f"Unknown metric {asked!r}.{nearest(str(asked), ['accuracy', 'latency', 'loss', *known])} Accepted: "
            f"'accuracy', 'latency', 'loss' (that of `compile`), a loss of `keras.losses` such as 'mse', or a function "
            f"of labels and predictions."
        )
    is_object = isinstance(found, losses.Loss)
    kind = type(found).__name__ if is_object else found.__name__
    function = found.call if is_object else found  # `call` does not average over the examples
    name = asked if isinstance(asked, str) else getattr(found, "name", kind)

    def score(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        sparse = kind.lower().startswith("sparse")
        if _entries(labels) != (_entries(predicted[..., 0]) if sparse else _entries(predicted)):
            raise DataError(f"Labels of shape {labels.shape} do not fit outputs of shape {predicted.shape} for {name}.")
        if sparse:
            correct_share(labels, predicted)  # raises unless these are class numbers that the output knows
        else:
            labels = labels.reshape(predicted.shape)
        values = np.asarray(function(labels, predicted), np.float64)
        return values.reshape(len(labels), -1).mean(axis=1)

    return Metric(score, name, False, _entries)


def _compiled_loss(models: Sequence[Any], output: str | None) -> Any:
    """Return the loss that the models were compiled with.

    Raises:
        ConfigError: none was, or with different ones.
    """
    found = [model.loss for model in models if getattr(model, "compiled", False)]
    found = [loss.get(output) if isinstance(loss, dict) else loss for loss in found]
    if not found or found[0] is None or isinstance(found[0], (list, tuple)):
        raise ConfigError(
            "'loss' is the one that a Keras model was compiled with, and none was found (files have none). Name it, "
            "e.g. metric='sparse_categorical_crossentropy'."
        )
    if len(found) > 1 and _described(found[0]) != _described(found[1]):
        raise ConfigError(
            f"The two were compiled with different losses: {_described(found[0])} and {_described(found[1])}. Name the "
            "one to compare, e.g. metric='mse'."
        )
    return found[0]


def _described(loss: Any) -> Any:
    loss = _keras_losses().get(loss)
    return loss.get_config() | {"class": type(loss).__name__} if hasattr(loss, "get_config") else loss.__name__
