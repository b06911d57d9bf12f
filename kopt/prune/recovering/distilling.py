"""Training a model on the answers of another one."""

from typing import Any

import keras
from keras import ops

from kopt.core.errors import ConfigError
from kopt.train.soft_targets import kl, logits_of
from kopt.train.steps.label_checks import LossKind


class Distilled(keras.Model):
    """A model in training, whose loss has the divergence from a teacher's answers in it."""

    def __init__(
        self, student: keras.Model, teacher: keras.Model, loss: Any, *, temperature: float, weight: float
    ) -> None:
        """Stand round `student`.

        Raises:
            ConfigError: the loss is no cross-entropy of classes, or the outputs are not alike.
        """
        super().__init__(name=f"distilled_{student.name}")
        kind = LossKind.of(loss)
        if kind.family not in ("sparse", "categorical"):
            raise ConfigError(
                f"`teacher` needs a cross-entropy of classes, by name or as an object of `keras.losses`. "
                f"Received: {loss!r}. Leave `teacher` out for other losses."
            )
        shapes = [[tuple(tensor.shape) for tensor in model.outputs] for model in (student, teacher)]
        if shapes[0] != shapes[1] or len(shapes[0]) != 1:
            raise ConfigError(
                f"Student and teacher must have one output of the same shape. Received: {shapes[0]} and {shapes[1]}."
            )
        self.student = student
        # Past Keras, which would train the teacher, too.
        object.__setattr__(self, "_teacher", teacher)
        self._form = "logits" if kind.from_logits else "probabilities"
        self._temperature, self._weight = temperature, weight

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return what the student says."""
        return self.student(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss on the targets plus the weighted mean divergence of the batch."""
        task = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        theirs, ours = (logits_of(one, self._form) for one in (self._teacher(x, training=False), y_pred))
        apart = kl(theirs, ours, temperature=self._temperature)
        if sample_weight is not None:
            weights = ops.cast(sample_weight, apart.dtype)
            apart *= ops.reshape(weights, (-1, *(1 for _ in apart.shape[1:])))
        return task + self._weight * ops.mean(apart)
