"""Training a model on the answers of another one."""

from typing import Any

import keras
from keras import ops

from kopt.core.errors import ConfigError
from kopt.train.steps.label_checks import LossKind

_LEAST_PROBABILITY = 1e-7  # as `keras.losses` clips


def divergence(teacher: Any, student: Any, temperature: float) -> Any:
    """Return `T^2 KL(softmax(teacher / T) || softmax(student / T))` over the last axis.

    Args:
        teacher: logits of shape `(..., classes)`.
        student: logits of the same shape.
        temperature: `T`, above 0; high ones make the small answers count.

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015, https://arxiv.org/abs/1503.02531
    """
    ours, theirs = (ops.log_softmax(ops.cast(one, "float32") / temperature, axis=-1) for one in (student, teacher))
    return temperature**2 * ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1)


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
        self._from_logits, self._temperature, self._weight = kind.from_logits, temperature, weight

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return what the student says."""
        return self.student(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss on the targets plus the weighted mean divergence of the batch."""
        task = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        apart = divergence(self._logits(self._teacher(x, training=False)), self._logits(y_pred), self._temperature)
        if sample_weight is not None:
            weights = ops.cast(sample_weight, apart.dtype)
            apart *= ops.reshape(weights, (-1, *(1 for _ in apart.shape[1:])))
        return task + self._weight * ops.mean(apart)

    def _logits(self, outputs: Any) -> Any:
        """Return logits: the logarithms of probabilities are logits that give them."""
        outputs = ops.cast(outputs, "float32")
        return outputs if self._from_logits else ops.log(ops.clip(outputs, _LEAST_PROBABILITY, 1.0))
