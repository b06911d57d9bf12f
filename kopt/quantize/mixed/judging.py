"""How good a rounded model or its file is: against the float model, or on labels."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from kopt.core.errors import ConfigError, DataError
from kopt.core.records.artifacts import TensorInfo
from kopt.data.validation import as_model_inputs
from kopt.measure import Runner
from kopt.measure.accuracy import correct_share
from kopt.quantize.diagnosis.calibrating import Batches
from kopt.quantize.diagnosis.signals import decibels, power
from kopt.quantize.mixed.float_layers import MixedModel

Outputs = Sequence[np.ndarray]


class Judge(Protocol):
    """Gives scores, more is better.

    Attributes:
        metric: name.
        reference: score of the float model.
        batches: examples.
    """

    metric: str
    reference: float
    batches: Batches

    def of_model(self, in_float: Collection[str]) -> float:
        """Return the score of a model with these layers in float."""

    def of_file(self, runner: Runner) -> float:
        """Return the score of a file."""


class RatioJudge:
    """The signal-to-quantization-noise ratio of all outputs together, in decibels."""

    metric = "output_db"
    reference = math.inf

    def __init__(self, mixed: MixedModel, batches: Batches):
        self._mixed, self.batches = mixed, batches
        self._exact = mixed.exact(batches)

    def of_model(self, in_float: Collection[str]) -> float:
        """Return the ratio for a model with these layers in float."""
        return ratio(self._exact, self._mixed.outputs(self.batches, in_float))

    def of_file(self, runner: Runner) -> float:
        """Return the ratio for a file."""
        return ratio(self._exact, file_outputs(runner, self._mixed.input_names, self._mixed.output_names, self.batches))


class AccuracyJudge:
    """The share of examples that are answered right."""

    metric = "accuracy"

    def __init__(self, mixed: MixedModel, batches: Batches, labels: np.ndarray):
        if len(mixed.output_names) > 1:
            raise ConfigError("The model has several outputs; leave `evaluate` out and set `least_db`.")
        self._mixed, self.batches, self._labels = mixed, batches, np.asarray(labels)
        try:
            self.reference = self._score(mixed.exact(batches))
        except DataError as error:
            raise DataError(
                f"`evaluate` is judged by the share of right answers, which these labels do not give: {error} Leave it "
                f"out and set `least_db`, for any kind of output."
            ) from error

    def of_model(self, in_float: Collection[str]) -> float:
        """Return the accuracy of a model with these layers in float."""
        return self._score(self._mixed.outputs(self.batches, in_float))

    def of_file(self, runner: Runner) -> float:
        """Return the accuracy of a file."""
        return self._score(file_outputs(runner, self._mixed.input_names, self._mixed.output_names, self.batches))

    def _score(self, outputs: Outputs) -> float:
        return float(correct_share(self._labels, outputs[0]).mean())


def ratio(exact: Outputs, outputs: Outputs) -> float:
    """Return the signal-to-quantization-noise ratio of all outputs together, in decibels."""
    pairs = zip(exact, outputs, strict=True)
    return decibels(sum(map(power, exact)), sum(power(other - one) for one, other in pairs))


def file_outputs(runner: Runner, inputs: Sequence[str], outputs: Sequence[str], batches: Batches) -> list[np.ndarray]:
    """Return what a file answers for all examples, in the order of the model's outputs."""
    found: Any = runner.predict(dict(zip(inputs, batches.arrays, strict=True)))
    return [found[name] for name in outputs] if isinstance(found, dict) else [found]


def labelled_inputs(evaluate: Any, inputs: tuple[TensorInfo, ...]) -> list[np.ndarray]:
    """Return the examples of `(x, y)` as a model takes them.

    Raises:
        DataError: they are no pair, of different lengths, or do not fit the model.
    """
    if not isinstance(evaluate, tuple) or len(evaluate) != 2:
        raise DataError(f"`evaluate` is a tuple `(x, y)` of arrays. Received: {type(evaluate).__qualname__}.")
    arrays = list(as_model_inputs(evaluate[0], inputs, name="`evaluate`").values())
    if isinstance(evaluate[1], Mapping):
        raise DataError("`evaluate` judges the one output of a model by its labels. Pass them as an array, not a dict.")
    if len(arrays[0]) != len(evaluate[1]):
        raise DataError(f"`evaluate` has {len(arrays[0])} inputs and {len(evaluate[1])} labels. Pass the same rows.")
    return arrays
