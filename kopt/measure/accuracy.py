"""Metrics on labelled data, of the file in its own runtime."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kopt.core.errors import ConfigError, DataError, MeasurementError, nearest, words_of
from kopt.core.records.measurements import Evaluation
from kopt.measure.loading import load
from kopt.measure.runner import Runner

_ACCURACY = ("accuracy", "acc")
# Metrics of Keras whose names stand for the ones that take probabilities.
_OF_PROBABILITIES = (
    *("AUC", "BinaryAccuracy", "BinaryCrossentropy", "BinaryFocalCrossentropy", "BinaryIoU", "F1Score", "FBetaScore"),
    *("FalseNegatives", "FalsePositives", "Precision", "PrecisionAtRecall", "Recall", "RecallAtPrecision"),
    *("SensitivityAtSpecificity", "SpecificityAtSensitivity", "TrueNegatives", "TruePositives"),
)
_INFINITE = -1


def evaluate(target: Any, data: Any, *, metrics: Any = ("accuracy",), batch_size: int | None = None) -> Evaluation:
    """Compute Keras metrics on what a model or file predicts.

    Args:
        target: runner, model or path.
        data: arrays `(x, y)` or `(x, y, sample_weight)`, or a finite, batched `tf.data.Dataset` of such. Labels are
            class numbers, one-hot rows or 0/1, for several outputs a dict by output name.
        metrics: names or `keras.metrics.Metric` objects (which are reset), one or several. `"accuracy"` becomes the
            binary, categorical or sparse one by the shapes of labels and outputs, as in `compile`; a binary output is
            cut at 0.5. Logits of a Keras model compiled with a binary loss `from_logits=True` become probabilities for
            names of metrics that take those (`"auc"`, `"precision"`); objects get what the model gives. Of several
            outputs a dict gives each its own, `{"species": "accuracy", "age": ("mae", "mse")}`; one that it leaves out
            is not judged.
        batch_size: examples a call; see `Runner.predict`.

    Returns:
        The metrics by the names they were asked for (`"accuracy"`, `"mae"`), those of objects by their own; with
        several outputs preceded by the output's name and `_`.

    Raises:
        DataError: labels do not fit the examples or the output: count, shape or class numbers out of range.
        MeasurementError: the file answers with NaN, of which no metric can be computed.
        ConfigError: no such metric, or one that gives several numbers.

    Example:
        >>> found = kopt.measure.evaluate("model.tflite", (x_val, y_val))
        >>> found.examples, found.metrics["accuracy"] > 0.8
        (269, True)
    """
    runner = load(target)
    wanted = _wanted(metrics, [info.name for info in runner.outputs])
    trackers: dict[str, list[_Tracker]] = {}
    count = 0
    for x, y, weight in labelled_batches(data):
        predictions = runner.predict(x, batch_size=batch_size)
        pairs = list(_by_output(runner, y, predictions))
        _require_own_objects({name: wanted[name] for name, *_ in pairs})
        for name, labels, predicted in pairs:
            prefix = f"{name}_" if isinstance(predictions, dict) else ""
            own = weight.get(name) if isinstance(weight, Mapping) else weight
            with _saying_of(name if prefix else None):
                _check_predictions(runner, predicted, labels)
                if prefix not in trackers:
                    is_logit = gives_binary_logits(getattr(runner, "model", None), name)
                    trackers[prefix] = [_Tracker(one, labels, predicted, is_logit) for one in wanted[name]]
                for tracker in trackers[prefix]:
                    tracker.update(labels, predicted, own)
        count += len(pairs[0][1])
    if not count:
        raise DataError("The data set is empty. Pass at least one batch of (x, y).")
    results = {prefix + tracker.key: tracker.result() for prefix, group in trackers.items() for tracker in group}
    if not results:
        judged = [name for name, metrics in wanted.items() if metrics]
        raise DataError(f"There are no labels of what `metrics` names: {', '.join(judged)}. Pass them by output name.")
    return Evaluation(runner.name, runner.runtime, count, results)


@contextlib.contextmanager
def _saying_of(output: str | None) -> Iterator[None]:
    """Begin what is wrong with labels with the output that they are of, one of several."""
    try:
        yield
    except DataError as error:
        if output is None:
            raise
        raise DataError(f"Output {output!r}: {error}") from error


def _wanted(metrics: Any, outputs: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Return the metrics of every output."""
    if isinstance(metrics, Mapping):
        for name in metrics:
            if name not in outputs:
                raise ConfigError(
                    f"`metrics`: no output {name!r}.{nearest(name, outputs)} Outputs: {', '.join(outputs)}."
                )
        given = {name: metrics.get(name, ()) for name in outputs}
    else:
        given = dict.fromkeys(outputs, metrics)
    wanted = {name: tuple(one) if isinstance(one, (list, tuple)) else (one,) for name, one in given.items()}
    if not any(wanted.values()):
        raise ConfigError("Name at least one metric, e.g. metrics=('accuracy',).")
    return wanted


def _require_own_objects(wanted: Mapping[str, tuple[Any, ...]]) -> None:
    objects = [id(one) for group in wanted.values() for one in group if not isinstance(one, str)]
    if len(set(objects)) < len(objects):
        raise ConfigError(
            "A metric object holds the state of one output. Name the metrics of several, e.g. 'mae', or give each its "
            f"own: metrics={{{next(iter(wanted))!r}: ...}}."
        )


def metric_values(labels: np.ndarray, predicted: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
    """Return metrics of predictions that are at hand, by the names they were asked for; see `evaluate`.

    Args:
        labels: of one output, examples first.
        predicted: that output.
        metrics: names.

    Raises:
        ConfigError: no such metric, or it has no meaning for such labels and predictions.
        DataError: labels do not fit the output.

    Example:
        >>> labels, predicted = np.array([0, 1, 1, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
        >>> kopt.measure.metric_values(labels, predicted, ["accuracy"])
        {'accuracy': 0.75}
    """
    found = {}
    for metric in metrics:
        tracker = _Tracker(metric, labels, predicted)
        tracker.update(labels, predicted, None)
        found[metric] = tracker.result()
    return found


def correct_share(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return for each example the share of its answers that are right: 0 or 1, unless an example has several.

    Args:
        labels: class numbers, one-hot rows or 0/1, examples first; see `evaluate`.
        predicted: an output; a single number an example is cut at 0.5, an integer is a class number.

    Raises:
        DataError: labels do not fit the output.

    Example:
        >>> kopt.measure.correct_share(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]))
        array([1., 1., 0.])
    """
    labels = _labels(labels)
    if _are_classes(labels, predicted):
        right = predicted.reshape(labels.shape) == labels
    elif _is_binary(predicted):
        _check_classes(labels, 2)
        right = (predicted.reshape(_label_shape(labels, predicted)) > 0.5) == (
            labels.reshape(_label_shape(labels, predicted)) > 0.5
        )
    elif _is_sparse(labels, predicted):
        _check_classes(labels, predicted.shape[-1])
        right = predicted.argmax(-1) == labels.reshape(predicted.shape[:-1])
    elif labels.shape == predicted.shape:
        if np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) != 1).any():
            raise DataError(
                "Labels name several classes of an example or none, of which accuracy looks at one. Judge by "
                "'binary_accuracy' or 'auc'."
            )
        right = predicted.argmax(-1) == labels.argmax(-1)
    else:
        raise _misfit(labels, predicted)
    return np.asarray(right.reshape(len(right), -1).mean(axis=1))


def agreeing_share(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return for each example the share of its 0/1 labels that its outputs, cut at 0.5, agree with.

    Raises:
        DataError: labels do not fit the output.
    """
    labels = _labels(labels)
    if labels.size != predicted.size:
        raise _misfit(labels, predicted)
    agree = (predicted > 0.5) == (labels.reshape(predicted.shape) > 0.5)
    return np.asarray(agree.reshape(len(agree), -1).mean(axis=1))


def gives_binary_logits(model: Any, output: str | None = None) -> bool:
    """Return whether a Keras model is compiled with a binary loss that takes logits: its classes part at 0.

    Args:
        model: or `None`, of a file.
        output: which of several; the only one by default.
    """
    if model is None or not getattr(model, "compiled", False):
        return False
    from kopt.train.steps.label_checks import LossKind, only_loss  # noqa: PLC0415 - loads Keras, which files do without

    losses = model.loss
    names = getattr(model, "output_names", None) or ()
    if isinstance(losses, (list, tuple)) and len(losses) == len(names):
        losses = dict(zip(names, losses, strict=True))
    if isinstance(losses, Mapping) and len(losses) > 1:
        losses = losses.get(output)
    kind = LossKind.of(only_loss(losses))
    return kind.family == "binary" and kind.from_logits


def takes_probabilities(metric: Any) -> bool:
    """Return whether a metric, by name, cuts probabilities at a threshold or otherwise takes them for such."""
    return metric in _ACCURACY or type(_keras_metric(metric)).__name__ in _OF_PROBABILITIES


def require_probabilities(model: Any, output: str | None = None, metric: str = "accuracy") -> None:
    """Refuse to judge files of a model by such a metric whose numbers are logits, which a file does not say.

    Raises:
        ConfigError: they are.
    """
    if gives_binary_logits(model, output):
        raise ConfigError(
            f"{model.name} gives logits, as the loss says that it is compiled with, and {metric} takes probabilities. "
            "End it with a sigmoid, `keras.Model(model.inputs, keras.ops.sigmoid(model.output))`, and compile it with "
            "`from_logits=False`."
        )


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """Return the sigmoids of numbers that part at 0, which then part at 0.5."""
    return (0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64))).astype(np.float32)


def predicted_labels(
    runner: Runner, labels: Any, predictions: Any, output: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions of one output, checked against each other.

    Raises:
        ConfigError: there are several outputs and `output` is none of them.
        DataError: the labels do not fit.
        MeasurementError: a prediction is NaN.
    """
    if isinstance(predictions, dict):
        if output not in predictions:
            names = ", ".join(predictions)
            raise ConfigError(f"{runner.name} has several outputs. Set `output` to one of: {names}. Got: {output!r}.")
        predictions = predictions[output]
        labels = labels[output] if isinstance(labels, Mapping) else labels
    values = _labels(labels)
    _check_predictions(runner, predictions, values)
    return values, predictions


class _Tracker:
    """A Keras metric and the name it was asked for."""

    def __init__(self, metric: Any, labels: np.ndarray, predicted: np.ndarray, is_logit: bool = False):
        # A metric object knows what it takes; a name stands for the one of probabilities.
        self._is_logit = is_logit and isinstance(metric, str) and takes_probabilities(metric)
        self._is_accuracy = metric in _ACCURACY if isinstance(metric, str) else False
        self._metric = _accuracy_metric(labels, predicted) if self._is_accuracy else _keras_metric(metric)
        self._metric.reset_state()
        self.key = metric if isinstance(metric, str) else self._metric.name

    def update(self, labels: np.ndarray, predicted: np.ndarray, weight: np.ndarray | None) -> None:
        if type(self._metric).__name__.startswith("Sparse"):
            _check_classes(labels, predicted.shape[-1])
        if type(self._metric).__name__ == "BinaryAccuracy" and self._is_accuracy:
            _check_classes(labels, 2)
        if self._is_logit:
            predicted = probabilities_of(predicted)
        if self._is_accuracy:
            labels = labels.reshape(_label_shape(labels, predicted))
            predicted = predicted.reshape(len(predicted), -1) if predicted.ndim == 1 else predicted
        elif labels.shape == predicted.shape[:-1] and predicted.shape[-1] == 1:
            labels = labels[..., np.newaxis]
        try:
            self._metric.update_state(labels, predicted, sample_weight=weight)
        except Exception as error:  # Keras and TensorFlow raise many kinds for one mistake.
            raise ConfigError(
                f"The metric {self.key!r} cannot be computed of labels of shape {labels.shape} and outputs of shape "
                f"{predicted.shape}: {words_of(error)} Name one that fits, e.g. 'accuracy' for classes."
            ) from error

    def result(self) -> float:
        value = np.asarray(self._metric.result())
        if value.ndim:
            raise ConfigError(
                f"The metric {self.key!r} gives {value.size} numbers, of which none can be the one to judge by. Pass "
                f"one that averages, e.g. `keras.metrics.F1Score(average='macro')`."
            )
        return float(value)


def is_loss(metric: Any) -> bool:
    """Return whether less of `metric` is better, as of an error.

    Raises:
        ConfigError: there is no such metric.

    Example:
        >>> kopt.measure.is_loss("mse"), kopt.measure.is_loss("accuracy")
        (True, False)
    """
    # Keras keeps the direction for its tuner; a metric that says none counts upwards, as Keras itself takes it.
    return metric not in _ACCURACY and getattr(_keras_metric(metric), "_direction", "up") == "down"


def _keras() -> Any:
    # On first use: .tflite and .onnx files are loaded, timed and compared without the seconds Keras takes to import.
    return importlib.import_module("keras")


def _keras_metric(metric: Any) -> Any:
    keras = _keras()
    try:
        found = keras.metrics.get(metric)
    except (ValueError, TypeError) as error:
        known = [name for name in dir(keras.metrics) if name[0].isupper()]
        raise ConfigError(
            f"Unknown metric {metric!r}.{nearest(str(metric), known)} Accepted: 'accuracy', a name that "
            "keras.metrics.get knows, or a keras.metrics.Metric."
        ) from error
    if isinstance(found, keras.metrics.Metric):
        return found
    return keras.metrics.MeanMetricWrapper(found, name=getattr(found, "__name__", None))


def _accuracy_metric(labels: np.ndarray, predicted: np.ndarray) -> Any:
    """Return the accuracy that `compile(metrics=["accuracy"])` would take for these shapes."""
    metrics = _keras().metrics
    if _are_classes(labels, predicted):
        return metrics.Accuracy(name="accuracy")
    if _is_binary(predicted):
        return metrics.BinaryAccuracy(name="accuracy")
    if _is_sparse(labels, predicted):
        return metrics.SparseCategoricalAccuracy(name="accuracy")
    if labels.shape != predicted.shape:
        raise _misfit(labels, predicted)
    return metrics.CategoricalAccuracy(name="accuracy")


def _misfit(labels: np.ndarray, predicted: np.ndarray) -> DataError:
    return DataError(
        f"Labels of shape {labels.shape} do not fit outputs of shape {predicted.shape}: one-hot labels need the width "
        f"{predicted.shape[-1]}, class numbers the shape {predicted.shape[:-1]}."
    )


def _are_classes(labels: np.ndarray, predicted: np.ndarray) -> bool:
    """Return whether an output is class numbers in the types that `argmax` gives, and the labels are too."""
    return predicted.dtype in (np.int32, np.int64) and labels.size == predicted.size


def _is_binary(predicted: np.ndarray) -> bool:
    return predicted.ndim == 1 or predicted.shape[-1] == 1


def _is_sparse(labels: np.ndarray, predicted: np.ndarray) -> bool:
    return labels.shape in (predicted.shape[:-1], (*predicted.shape[:-1], 1))


def _label_shape(labels: np.ndarray, predicted: np.ndarray) -> tuple[int, ...]:
    """Return the shape that lets labels and outputs meet without broadcasting."""
    if not _is_binary(predicted):
        return predicted.shape[:-1] if _is_sparse(labels, predicted) else predicted.shape
    shape = predicted.shape if predicted.ndim > 1 else (len(predicted), 1)
    if labels.size != predicted.size:
        raise DataError(f"Labels of shape {labels.shape} do not fit the binary output of shape {predicted.shape}.")
    return shape


def _check_classes(labels: np.ndarray, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes) | (labels != np.floor(labels))
    if wrong.any():
        raise DataError(
            f"Labels must be class numbers from 0 to {classes - 1}, since the output tells {classes} classes apart. "
            f"Received: {labels[wrong].flat[0]} at position {int(np.flatnonzero(wrong)[0])}, {int(wrong.sum())} such "
            "label(s) in all. Of a model that gives quantities name another metric, e.g. 'mae'."
        )


def _check_predictions(runner: Runner, predicted: np.ndarray, labels: np.ndarray) -> None:
    if len(labels) != len(predicted):
        raise DataError(f"There are {len(labels)} label(s) for {len(predicted)} example(s).")
    nans = int(np.isnan(predicted).sum())
    if nans:
        raise MeasurementError(
            f"{runner.name} answers with NaN ({nans} of {predicted.size} numbers) in {runner.runtime}; no metric can "
            "be computed. Check the model's weights and the export."
        )


def _by_output(runner: Runner, labels: Any, predictions: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name of each output that has labels, these, and what was predicted."""
    names = [info.name for info in runner.outputs]
    if not isinstance(predictions, dict):
        labels = labels[names[0]] if isinstance(labels, Mapping) and names[0] in labels else labels
        yield names[0], _labels(labels), predictions
        return
    if not isinstance(labels, Mapping) or set(labels) - set(names) or not labels:
        raise DataError(
            f"{runner.name} has {len(names)} outputs. Pass the labels as a dict by output name, of all or some of: "
            f"{', '.join(names)}. Received: {sorted(labels) if isinstance(labels, Mapping) else type(labels).__name__}."
        )
    for name, values in labels.items():
        yield name, _labels(values), predictions[name]


def _labels(values: Any) -> np.ndarray:
    labels = np.asarray(values)
    if labels.dtype.kind not in "biuf" or not labels.ndim:
        raise DataError(f"Labels must be an array of numbers. Received: {labels.dtype} of shape {labels.shape}.")
    return labels


def labelled_batches(data: Any) -> Iterator[tuple[Any, Any, np.ndarray | None]]:
    """Yield `(x, y, sample_weight)`: all of the arrays at once, or batch by batch of a data set."""
    if not hasattr(data, "as_numpy_iterator"):
        yield _unpack(data)
        return
    if int(data.cardinality()) == _INFINITE:
        raise DataError("The data set repeats without end. Cut it, e.g. `dataset.take(100)`.")
    for element in data.as_numpy_iterator():
        yield _unpack(element)


def _unpack(element: Any) -> tuple[Any, Any, np.ndarray | None]:
    if hasattr(element, "x") and getattr(element, "y", None) is not None:  # `kopt.data.Split`, which loads TensorFlow
        return element.x, element.y, None
    if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
        raise DataError(
            f"Labelled data is (x, y) or (x, y, sample_weight), or a tf.data.Dataset of such batches. Received: "
            f"{type(element).__module__}.{type(element).__qualname__}."
        )
    return element[0], element[1], element[2] if len(element) == 3 else None
