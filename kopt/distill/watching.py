"""What is looked at while teachers teach: their answers, and the schedules of temperature and alpha."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, NonFiniteError
from kopt.distill.teachers import Answer

# Of the updates of a training, how many a schedule is asked for.
_SAMPLES = 200
LEAST_TEMPERATURE = 0.01


class FiniteAnswers:
    """Counts the batches in which a teacher gave NaN or infinity, on the device, and lets 0 stand for such numbers."""

    def __init__(self) -> None:
        self._faults = keras.metrics.Sum(name="teacher_faults")

    def watched(self, answer: Answer) -> Answer:
        """Return an answer without what is not finite; called in the graph of a step."""
        tensors = [one for one in (*answer.outputs, *answer.features.values()) if one.dtype.is_floating]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(one)) for one in tensors])
        self._faults.update_state(1.0 - tf.cast(finite, tf.float32))
        features = {name: _finite(one) for name, one in answer.features.items()}
        return Answer([_finite(one) for one in answer.outputs], features)

    def take(self) -> int:
        """Return the count, which begins anew."""
        count = int(self._faults.result())
        self._faults.reset_state()
        return count


class TeachingCheck(keras.callbacks.Callback):
    """Refuses schedules that leave their range, and ends a training whose teacher gives no numbers.

    The count of faults is fetched after every epoch: a look at every batch would make each a call of its own.
    """

    def __init__(self, answers: FiniteAnswers, teachers: str):
        super().__init__()
        self._answers, self._teachers = answers, teachers

    def on_train_begin(self, logs: Any = None) -> None:
        """Look at the schedules over the length of the training, where that is known."""
        self._answers.take()
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs:
            return
        begin = int(self.model.optimizer.iterations.numpy())
        updates = np.unique(np.linspace(begin, begin + steps * epochs - 1, _SAMPLES).astype(np.int64))
        for name, least, most, limits in (
            ("temperature", LEAST_TEMPERATURE, np.inf, f"at least {LEAST_TEMPERATURE:g}"),
            ("alpha", 0.0, 1.0, "in [0, 1]"),
        ):
            setting = getattr(self.model, name)
            for update in updates if callable(setting) else ():
                value = float(setting(tf.constant(update)))
                if not least <= value <= most:
                    raise ConfigError(
                        f"`{name}` comes to {value:g} at update {update} of this training, which takes "
                        f"{steps * epochs}; it must be {limits}. Let the schedule end higher, e.g. by its `alpha` or "
                        f"`end_learning_rate`, or take longer."
                    )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at what teachers gave."""
        count = self._answers.take()
        if count:
            raise NonFiniteError(
                f"The teacher {self._teachers} gave NaN or infinite numbers in {count} batch(es) of epoch {epoch + 1}; "
                f"0 stood for them. Look at its inputs, and run it in float32 if it computes in float16."
            )


def _finite(values: Any) -> Any:
    if not values.dtype.is_floating:
        return values
    return tf.where(tf.math.is_finite(values), values, tf.zeros_like(values))
