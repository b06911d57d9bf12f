"""One file on one set of examples: it answers once, and everything that is judged comes from these answers."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kopt import measure
from kopt.core.errors import ConfigError
from kopt.core.records.artifacts import Parity
from kopt.core.records.measurements import Evaluation
from kopt.core.records.search.budget import AGREEMENT, Budget
from kopt.data.splits import class_ids
from kopt.measure.accuracy import predicted_labels
from kopt.search.judging.outcomes import Outcomes, left_out_values

BASELINE = "baseline"
_MOST_CLASSES = 1000
_WITHOUT_LABELS = ("accuracy", "r2_score", AGREEMENT)


@dataclasses.dataclass(frozen=True, eq=False)
class Examination:
    """What a file answered, as numbers."""

    evaluation: Evaluation
    outcomes: Outcomes
    parity: Parity


@dataclasses.dataclass(frozen=True, eq=False)
class Examiner:
    """A set of examples, on which files are held against labels and against the model as given.

    Attributes:
        given: the model as given.
        inputs: by input name.
        known: labels, examples first; `None` if there are none.
        metric: the guarded metric.
        metrics: all that are asked for.
        baseline: what parity calls the model as given.
    """

    given: measure.Runner
    inputs: Mapping[str, np.ndarray]
    known: np.ndarray | None
    metric: str
    metrics: tuple[str, ...]
    baseline: str = BASELINE

    @functools.cached_property
    def answers(self) -> np.ndarray:
        """What the model as given answers; it answers when this is first asked for."""
        return output_of(self.given, self.inputs)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """What counts as right: where there are no labels, what the model as given answers."""
        if self.known is not None:
            return self.known
        return class_answers(self.answers) if self.metric == AGREEMENT else self.answers

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(next(iter(self.inputs.values())))

    @property
    def classes(self) -> np.ndarray | None:
        """The class of every example; `None` where the guarded metric does not count classes."""
        if self.metric not in ("accuracy", AGREEMENT):
            return None
        found = class_ids(self.labels)
        return found if found is not None and 2 <= len(np.unique(found)) <= _MOST_CLASSES else None

    def examine(self, runner: measure.Runner) -> Examination:
        """Let a file answer all examples.

        Raises:
            MeasurementError: it cannot run, or answers NaN.
        """
        predicted = self.answers if runner is self.given else output_of(runner, self.inputs)
        predicted = predicted_labels(runner, self.labels, predicted, None)[1]
        values = self._values(predicted)
        if self.metric in ("accuracy", AGREEMENT):
            scores = measure.correct_share(self.labels, predicted)
            outcomes = Outcomes(values[self.metric], len(scores), scores)
        else:
            outcomes = Outcomes(values[self.metric], len(predicted), left_out=self._left_out(predicted))
        compared = measure.compare_outputs(runner.outputs[0].name, predicted, self.answers)
        parity = Parity(runner.runtime, self.baseline, len(predicted), (compared,))
        return Examination(Evaluation(runner.name, runner.runtime, len(predicted), values), outcomes, parity)

    def _left_out(self, predicted: np.ndarray) -> np.ndarray | None:
        def value_of(rows: np.ndarray) -> float:
            return measure.metric_values(self.labels[rows], predicted[rows], (self.metric,))[self.metric]

        return left_out_values(len(predicted), value_of)

    def _values(self, predicted: np.ndarray) -> dict[str, float]:
        values = measure.metric_values(self.labels, predicted, [name for name in self.metrics if name != AGREEMENT])
        if AGREEMENT in self.metrics:
            values[AGREEMENT] = float(measure.correct_share(class_answers(self.answers), predicted).mean())
        return values


def agreement_budget(budget: Budget) -> Budget:
    """Return the budget for examples without labels: what is guarded is the agreement with the model as given.

    Raises:
        ConfigError: a metric that needs labels.
    """
    for metric in budget.metrics:
        if metric not in _WITHOUT_LABELS:
            raise ConfigError(
                f"The metric {metric!r} needs labels, and there are none. Pass them, as (x, y), or guard the agreement "
                "with the model as given: metric='accuracy' for classes, 'r2_score' for numbers."
            )
    if budget.metric == "r2_score":
        return budget
    bounds = tuple(
        dataclasses.replace(one, quantity=AGREEMENT) if one.quantity == "accuracy" else one
        for one in budget.constraints
    )
    return dataclasses.replace(budget, metric=AGREEMENT, constraints=bounds)


def class_answers(answers: np.ndarray) -> np.ndarray:
    """Return the class that each output names.

    Raises:
        ConfigError: the outputs name none.
    """
    if answers.ndim > 1 and answers.shape[-1] > 1:
        return np.asarray(answers.argmax(axis=-1))
    if ((answers >= 0) & (answers <= 1)).all():
        return np.asarray(answers > 0.5).astype(np.int64)
    raise ConfigError(
        "The outputs are single numbers outside [0, 1], which name no class, so that no agreement can be counted. "
        "Without labels pass kopt.Budget(metric='r2_score'), which holds them against those of the model as given."
    )


def output_of(runner: measure.Runner, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the only output of a model or file for all examples."""
    predicted = runner.predict(inputs)
    return next(iter(predicted.values())) if isinstance(predicted, dict) else predicted


def opened(path: str | os.PathLike[str], threads: int | None) -> measure.Runner:
    """Open a file with the threads that its runtime can be given."""
    return measure.load(path, threads=threads_for(path, threads))


def threads_for(path: str | os.PathLike[str], threads: int | None) -> int | None:
    """Return the threads of a file's runtime; TensorFlow has those of the process."""
    return threads if Path(path).suffix in (".tflite", ".onnx") else None
