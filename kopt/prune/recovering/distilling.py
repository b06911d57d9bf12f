"""Training a model on the answers of another one."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.graph import signature
from kopt.train.internals import mask_of
from kopt.train.soft_targets import binary_kl, kl, logits_of, mse
from kopt.train.steps.label_checks import LossKind


class Distilled(keras.Model):
    """A model in training, whose loss has the divergence from a teacher's answers in it; compiled by `compile`."""

    def __init__(self, student: keras.Model, teacher: keras.Model, *, temperature: float, weight: float) -> None:
        """Stand round `student`.

        Raises:
            ConfigError: the outputs are not alike.
        """
        super().__init__(name=f"distilled_{student.name}")
        ours, theirs = ({info.name: info.shape for info in signature(model)[1]} for model in (student, teacher))
        by_name = set(ours) == set(theirs)
        if by_name:
            theirs = {name: theirs[name] for name in ours}
        if list(ours.values()) != list(theirs.values()):
            raise ConfigError(
                f"Student and teacher must have outputs of the same shapes. Received: {ours} and {theirs}."
            )
        shared = {id(one) for one in student.trainable_variables} & {id(one) for one in teacher.variables}
        if shared:
            raise ConfigError(
                f"Student and teacher share {len(shared)} variables, so that training the one would change the other. "
                f"Pass a copy of the teacher: `copy.deepcopy` of it, or `kopt.load_model` of its file."
            )
        names = [info.name for info in signature(teacher)[1]]
        self._order = [names.index(name) for name in ours] if by_name else list(range(len(names)))
        self.student = student
        # Past Keras, which would train the teacher, too.
        object.__setattr__(self, "_teacher", teacher)
        self._temperature, self._weight = temperature, weight

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **settings: Any) -> None:
        """See `keras.Model.compile`; the loss of an output and its weight decide how it is held against the teacher."""
        names = self.output_names
        self._kinds = [LossKind.of(one) if one is not None else None for one in _by_output(loss, names)]
        shares = _by_output(settings.get("loss_weights"), names)
        self._shares = [1.0 if one is None else float(one) for one in shares]
        super().compile(optimizer, loss, **settings)

    @property
    def output_names(self) -> list[str]:
        """Names of the student's outputs, by which losses may be given."""
        return [info.name for info in signature(self.student)[1]]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return what the student says."""
        return self.student(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss on the targets plus the weighted mean divergence of the batch."""
        total = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        weights = _by_output(sample_weight, self.output_names)
        answers = keras.tree.flatten(self._teacher(x, training=False))
        pairs = zip([answers[place] for place in self._order], keras.tree.flatten(y_pred), strict=True)
        for (theirs, ours), kind, share, weight in zip(pairs, self._kinds, self._shares, weights, strict=True):
            if kind is not None:
                apart = _apart(kind, theirs, ours, self._temperature)
                apart = apart if weight is None else apart * _spread(weight, apart)
                mask, there = mask_of(ours), tf.ones_like(apart)  # as Keras does: the mean over what is there
                there = there if mask is None else there * _spread(mask, apart)
                value = tf.math.divide_no_nan(tf.reduce_sum(apart * there), tf.reduce_sum(there))
                total += self._weight * share * value
        return total


def _spread(weight: Any, values: tf.Tensor) -> tf.Tensor:
    """Return weights or a mask in the shape of `values`, or with axes of 1 at its end."""
    weight = tf.cast(weight, values.dtype)
    if weight.shape.rank == values.shape.rank + 1 and weight.shape[-1] == 1:
        weight = tf.squeeze(weight, -1)
    return tf.reshape(weight, tf.concat([tf.shape(weight), [1] * (values.shape.rank - weight.shape.rank)], 0))


def _apart(kind: LossKind, theirs: Any, ours: Any, temperature: float) -> tf.Tensor:
    """Return how far the answers are from those of the teacher, in the sense of a loss."""
    if kind.family in ("sparse", "categorical"):
        form, divergence = "logits" if kind.from_logits else "probabilities", kl
    elif kind.family == "binary":
        form, divergence = "logits" if kind.from_logits else "sigmoids", binary_kl
    else:
        form, divergence = "values", mse
    return divergence(*(logits_of(one, form) for one in (theirs, ours)), temperature=temperature)


def _by_output(given: Any, names: list[str]) -> list[Any]:
    """Return what is given for each output, in the forms that `compile` and `fit` take; one may be for all."""
    if isinstance(given, Mapping):
        return [given.get(name) for name in names]
    if isinstance(given, (list, tuple)):
        return list(given)
    return [given] * len(names)
