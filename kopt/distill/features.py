"""Which layer of the student learns from which of the teacher, and how."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError
from kopt.core.records.changes.distillation import FeatureMatch
from kopt.core.settings import number, whole
from kopt.distill.losses import FeatureLoss, Reduced
from kopt.distill.projection import Shape, bridge_of, brought, common_positions
from kopt.train.internals import mask_of

# Compared position by position, so that one that is padding can be left out of the mean.
_BY_POSITION = ("fitnet", "cosine")


@dataclasses.dataclass(frozen=True)
class Feature:
    """A pair of layers, of which the student's learns from the teacher's.

    Attributes:
        student: name or path of a layer of the student; `"layer:1"` is its second tensor.
        teacher: of the teacher; the same as the student's by default.
        loss: a `FeatureLoss`, or its kind.
        weight: of the loss in the sum.
        automatic: whether kopt chose the pair.
        teacher_index: which of several teachers, counted from 0.

    Example:
        >>> student, _ = kopt.distill.smaller_student(model, width=0.5)
        >>> pair = kopt.distill.Feature("conv2", loss="attention_transfer", weight=0.5)
        >>> teaching = kopt.DistillationModel(student, model, features=[pair])
        >>> [(row.student, row.student_shape, row.teacher_shape) for row in teaching.report.features]
        [('conv2', (None, 3, 3, 8), (None, 3, 3, 16))]
    """

    student: str
    teacher: str = ""
    loss: FeatureLoss | str = "fitnet"
    weight: float = 1.0
    automatic: bool = False
    teacher_index: int = 0

    def __post_init__(self) -> None:
        """Check and complete."""
        number("weight", self.weight, least=0.0)
        whole("teacher_index", self.teacher_index, least=0)
        object.__setattr__(self, "teacher", self.teacher or self.student)
        if not isinstance(self.loss, FeatureLoss):
            object.__setattr__(self, "loss", FeatureLoss(self.loss))

    @classmethod
    def of(cls, given: Any) -> "Feature":
        """Return it from a `Feature`, a name, a pair of names `(student, teacher)` or a dict of its attributes.

        Raises:
            ConfigError: it is none of these.
        """
        if isinstance(given, Feature):
            return given
        if isinstance(given, str):
            return cls(given)
        if isinstance(given, dict):
            loss = given.get("loss")
            read = {"loss": keras.saving.deserialize_keras_object(loss)} if isinstance(loss, dict) else {}
            return cls(**{**given, **read})
        if isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(one, str) for one in given):
            return cls(*given)
        raise ConfigError(
            f"A feature is a layer name, a pair of names (student, teacher) or `kopt.distill.Feature(...)`. Received: "
            f"{given!r} ({type(given).__name__})."
        )

    def to_config(self) -> dict[str, Any]:
        """Return what `of` takes, of JSON types."""
        return {**vars(self), "loss": keras.saving.serialize_keras_object(self.loss)}


class FeatureTerm:
    """The loss of one pair of tensors of known shapes.

    Attributes:
        feature: the pair.
        match: what is compared, for the report.
        projector: a trainable layer from the student's channels to the teacher's; `None` if none is needed.
    """

    def __init__(self, feature: Feature, student: Shape, teacher: Shape):
        """Plan the comparison.

        Raises:
            ConfigError: shapes that this loss cannot compare, or whose channels are not known.
        """
        assert isinstance(feature.loss, FeatureLoss)  # for the type checker: `Feature` made it one
        self.feature, self.loss = feature, feature.loss
        row = self.loss.row
        self._positions = common_positions(student, teacher) if row.positions else None
        projects = row.channels and student[-1] != teacher[-1]
        _check(feature, student, teacher, projects)
        self.projector = _projector(feature, student[-1], teacher[-1]) if projects else None
        bridge = "" if self._positions is None else bridge_of(student, teacher, self._positions, projects)
        self.match = FeatureMatch(
            feature.student, feature.teacher, student, teacher, self.loss.kind, feature.weight, bridge,
            feature.automatic, feature.teacher_index,
        )  # fmt: skip

    @property
    def log_name(self) -> str:
        """What the logs call the term."""
        index = self.feature.teacher_index
        plain = self.feature.student.replace("/", "_").replace(":", "_")
        return f"{plain}_{self.loss.kind}" + (f"_from_{index}" if index else "")

    def __call__(self, teacher: tf.Tensor, student: tf.Tensor, sample_weight: Any = None) -> tf.Tensor:
        """Return the loss of a batch, a scalar, without `weight`."""
        mask = mask_of(student)
        ours, theirs = tf.cast(student, tf.float32), tf.cast(teacher, tf.float32)
        if self._positions is not None:
            ours, theirs = (brought(one, self._positions) for one in (ours, theirs))
        ours = ours if self.projector is None else self.projector(ours)
        share: Any = 1.0
        if mask is not None and tuple(mask.shape) == tuple(ours.shape[:-1]):
            ours, theirs, share = self._without_padding(ours, theirs, mask)
        values = self.loss.call(theirs, ours) / share
        return Reduced()(values, values, _by_example(sample_weight))

    def _without_padding(self, ours: Any, theirs: Any, mask: Any) -> tuple[Any, Any, Any]:
        """Return tensors in which padding makes no difference, and the share of positions that are left."""
        kept = tf.cast(mask, tf.float32)[..., None]
        if self.loss.kind in _BY_POSITION:
            share = tf.reduce_mean(kept, axis=list(range(1, kept.shape.rank)))
            ones = tf.ones_like(theirs)  # not zeros, which have no direction
            return tf.where(kept > 0, ours, ones), tf.where(kept > 0, theirs, ones), tf.maximum(share, 1e-6)
        return ours * kept, theirs * kept, 1.0


def _by_example(sample_weight: Any) -> Any:
    if sample_weight is None:
        return None
    weight = tf.cast(tf.nest.flatten(sample_weight)[0], tf.float32)
    return tf.reduce_mean(weight, axis=list(range(1, weight.shape.rank))) if weight.shape.rank > 1 else weight


def _projector(feature: Feature, channels: Any, wanted: Any) -> keras.layers.Layer:
    name = "projector_" + feature.student.replace("/", "_").replace(":", "_")
    layer = keras.layers.Dense(wanted, dtype="float32", name=name)
    layer.build((None, channels))
    return layer


def _check(feature: Feature, student: Shape, teacher: Shape, projects: bool) -> None:
    assert isinstance(feature.loss, FeatureLoss)  # for the type checker
    shapes = f"{feature.student!r} {student} of the student and {feature.teacher!r} {teacher} of the teacher"
    if len(student) < 2 or len(teacher) < 2:
        raise ConfigError(f"Features have examples and channels. Received: {shapes}.")
    if projects and None in (student[-1], teacher[-1]):
        raise ConfigError(
            f"The channels of {shapes} must be known to make a projector. Give the layers fixed sizes, or use a loss "
            f"that compares examples, e.g. `kopt.distill.FeatureLoss('similarity')`."
        )
    is_map = len(student) == len(teacher) == 4
    if feature.loss.kind == "attention_maps" and not (is_map and student[2:] == teacher[2:]):
        raise ConfigError(
            f"'attention_maps' compares tensors (examples, heads, queries, keys) of as many queries and keys. "
            f"Received: {shapes}. Name the layer's second tensor, e.g. 'attention:1', of a call with "
            f"`return_attention_scores=True`."
        )
    if feature.loss.kind == "attention_transfer" and not common_positions(student, teacher):
        raise ConfigError(
            f"'attention_transfer' compares maps over positions, which {shapes} have not in common. Name layers before "
            f"the pooling, or use 'fitnet'."
        )
