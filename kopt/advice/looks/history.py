"""What was seen of a training, in one form."""

from collections.abc import Mapping
from typing import Any

import keras

from kopt.core.errors import DataError
from kopt.core.records.profiles.training import TrainingEpoch, TrainingRun, TrainingTrends
from kopt.profile import TrainingProfile
from kopt.profile.training.advice import training_advice


def trends_of(history: Any, model_name: str) -> TrainingTrends:
    """Return a training as it was seen, of a callback, its trends, a Keras history or a dict of lists.

    Raises:
        DataError: something else, or lists of different length.
    """
    if isinstance(history, TrainingTrends):
        return history
    if isinstance(history, TrainingProfile):
        return history.trends
    logs = history.history if isinstance(history, keras.callbacks.History) else history
    if not isinstance(logs, Mapping) or not all(hasattr(values, "__len__") for values in logs.values()):
        raise DataError(
            f"`history` must be what `fit` returns, its dict of lists, a kopt.profile.TrainingProfile or its trends. "
            f"Received: {type(history).__module__}.{type(history).__qualname__}."
        )
    lengths = {len(values) for values in logs.values()}
    if len(lengths) != 1:
        raise DataError(f"All lists of `history` must have one entry an epoch. Received lengths {sorted(lengths)}.")
    run = TrainingRun(model_name, "", 1, ())
    epochs = tuple(
        TrainingEpoch(number, 0, {name: float(values[number]) for name, values in logs.items()}, 0, (), (), {}, (), {})
        for number in range(lengths.pop())
    )
    return TrainingTrends(run, (), epochs, training_advice(run, epochs))
