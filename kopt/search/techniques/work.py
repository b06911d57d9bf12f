"""What techniques are given beside the model: the original, examples, and a way to train."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.data import from_arrays
from kopt.data.augmentation import apply_augment
from kopt.distill import teach
from kopt.search.lessons import Lesson
from kopt.search.training import Training
from kopt.train.batch_norm import settle_statistics
from kopt.train.steps.label_checks import LossKind

_JUDGED_BATCH = 256
_CLASSES = ("sparse", "categorical", "binary")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step may use.

    Attributes:
        original: the model that the search was given; the teacher.
        calibration: real inputs by name.
        training: how to train; `None` where training was not asked for.
        train: labelled examples to learn from; `None` likewise.
        held: labelled examples of the training data that nothing learns from: they choose the best epoch.
        loss: of the labels, as `compile` takes it.
        seed: of orders and random choices.
    """

    original: keras.Model
    calibration: Mapping[str, np.ndarray]
    training: Training | None = None
    train: Lesson | None = None
    held: Lesson | None = None
    loss: Any = None
    seed: int = 0

    @property
    def samples(self) -> int:
        """The number of calibration examples."""
        return len(next(iter(self.calibration.values())))

    def batches(self) -> tf.data.Dataset:
        """Return the training data in shuffled batches, with the augmentation that was asked for."""
        assert self.train is not None
        assert self.training is not None
        size, augment = min(self.training.batch_size, len(self.train)), self.training.augment
        if self.train.weights is None:
            return from_arrays(
                self.train.x, self.train.y, batch_size=size, shuffle=True, augment=augment, seed=self.seed
            )
        targets = (self.train.y, self.train.weights)
        batches = from_arrays(self.train.x, targets, batch_size=size, shuffle=True, seed=self.seed)
        return apply_augment(batches.map(lambda x, pair: (x, *pair)), augment, self.seed)

    def steps(self, epochs: int) -> int:
        """Return the number of updates in so many epochs."""
        return epochs * len(self.batches())

    def fit(self, model: keras.Model, *, epochs: int, rate: float) -> str:
        """Train `model` in place by the original and by labels, and say in words what came of it.

        Statistics of batch normalizations are estimated anew before, because they still fit the weights of before.
        """
        assert self.training is not None
        assert self.held is not None
        batches = self.batches()
        settle_statistics(model, batches)
        report = teach(
            model,
            self.original,
            batches,
            self.held.arrays,
            epochs=epochs,
            learning_rate=self.training.learning_rate * rate,
            loss=self.loss,
            batch_size=min(_JUDGED_BATCH, len(self.held)),
            seed=self.seed,
            temperature=self.training.temperature,
            alpha=self.training.distillation,
            losses="auto" if LossKind.of(self.loss).family in _CLASSES else "mse",
        )
        return (
            f"{epochs} epoch(s), on examples held out the {report.metric} went from {report.before:.4f} "
            f"to {report.after:.4f}"
        )
