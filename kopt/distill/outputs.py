"""How each output of a student learns from the outputs of its teachers."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kopt.core.errors import ConfigError, InputError, nearest
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.changes.distillation import OutputMatch
from kopt.core.settings import number
from kopt.distill import labels as label_values
from kopt.distill.losses import LOSSES, OUTPUT_LOSSES, OutputLoss, Reduced
from kopt.distill.teachers import Teacher
from kopt.train.soft_targets import logits_of

_ACCEPTED = {"classes": ("logits", "probabilities"), "labels": ("logits", "sigmoids")}


class OutputTerm:
    """The loss of one output of the student.

    Attributes:
        match: what is compared, for the report.
        loss: between teacher and student; `None` if the output learns from labels alone.
        positions: of the output among those of each teacher.
    """

    def __init__(
        self, info: TensorInfo, loss: OutputLoss | None, weight: float, forms: "Forms", positions: Sequence[int]
    ):
        """Plan it; see `plan_outputs`."""
        self.loss, self.positions = loss, tuple(positions)
        kind = "" if loss is None else loss.kind
        self.match = OutputMatch(info.name, kind, weight, forms.student, forms.teachers, forms.found)

    def __call__(
        self,
        teachers: Sequence[Any],
        student: Any,
        temperature: Any,
        *,
        shares: Sequence[float] | str,
        labels: Any = None,
        sample_weight: Any = None,
    ) -> tf.Tensor:
        """Return the loss of a batch, a scalar, without `weight`.

        Args:
            teachers: this output of each teacher.
            student: that of the student, with its mask.
            temperature: a number or scalar.
            shares: weight of each teacher, or `"confidence"`.
            labels: `(class numbers, whether there is one)`, or `None`.
            sample_weight: of the examples, or positions.
        """
        assert self.loss is not None  # for the type checker: terms without a loss are not called
        ours = logits_of(student, self._form(self.match.student_form))
        values = []
        theirs = [
            logits_of(one, self._form(form)) for one, form in zip(teachers, self.match.teacher_forms, strict=True)
        ]
        for logits in theirs:
            values.append(self.loss.values(logits, ours, temperature, _labels_or_guess(labels, logits)))
        weights = confidence(theirs, self.loss.row.outputs) if isinstance(shares, str) else shares
        total = tf.add_n([value * weight for value, weight in zip(values, weights, strict=True)])
        return Reduced()(total, student, sample_weight)

    def _form(self, form: str) -> str:
        assert self.loss is not None  # for the type checker
        return "values" if self.loss.row.outputs == "values" else form


class Forms:
    """What student and teachers give at one output, and how that is known."""

    def __init__(self, student: tuple[str, str], teachers: Sequence[tuple[str, str]]):
        """Take pairs of form and reason."""
        self.student, self.teachers = student[0], tuple(form for form, _ in teachers)
        self.found = "; ".join([f"student: {student[1]}", *(f"teacher: {why}" for _, why in teachers)])

    @property
    def natural_loss(self) -> str:
        """Return the kind of loss that suits."""
        forms = {self.student, *self.teachers}
        return "binary_kl" if "sigmoids" in forms else "mse" if "values" in forms else "kl"


def plan_outputs(
    infos: Sequence[TensorInfo],
    forms: Sequence[tuple[str, str]],
    teachers: Sequence[Teacher],
    teacher_forms: Sequence[Sequence[tuple[str, str]]],
    losses: Any,
    weights: Any,
) -> list[OutputTerm]:
    """Return a term for each output of the student.

    Args:
        infos: outputs of the student.
        forms: what they are, with the reason.
        teachers: at least one.
        teacher_forms: of each teacher, what its outputs are, with the reason.
        losses: as `DistillationModel` takes them.
        weights: as `DistillationModel` takes `output_weights`.

    Raises:
        InputError: outputs that do not match.
        ConfigError: unknown outputs or losses, or a loss for other outputs than these.
    """
    positions = [_positions(infos, teacher) for teacher in teachers]
    chosen = by_output("losses", losses, infos)
    shares = by_output("output_weights", 1.0 if weights is None else weights, infos)
    terms = []
    for index, info in enumerate(infos):
        at = [one[index] for one in positions]
        found = Forms(forms[index], [each[place] for each, place in zip(teacher_forms, at, strict=True)])
        loss = _loss(chosen[index], found)
        if loss is not None:
            for teacher, place in zip(teachers, at, strict=True):
                _check_shapes(info, teacher, teacher.outputs[place])
            _check_forms(info, loss, found)
        terms.append(OutputTerm(info, loss, number("output weight", shares[index], least=0.0), found, at))
    return terms


def by_output(name: str, given: Any, infos: Sequence[TensorInfo]) -> list[Any]:
    """Return an entry an output, of one for all, a list by position or a dict by name, which may leave outputs out.

    Raises:
        ConfigError: an unknown output, or another number of entries.
    """
    names = [info.name for info in infos]
    if isinstance(given, dict):
        for key in given:
            if key not in names:
                raise ConfigError(
                    f"`{name}` names {key!r}, which is no output of the student.{nearest(key, names)} Outputs: "
                    f"{', '.join(names)}."
                )
        return [given.get(one, 0.0 if name == "output_weights" else None) for one in names]
    if isinstance(given, (list, tuple)):
        if len(given) != len(names):
            raise ConfigError(f"`{name}` has {len(given)} entries for {len(names)} outputs: {', '.join(names)}.")
        return list(given)
    return [given] * len(names)


def confidence(theirs: Sequence[Any], kind: str) -> list[Any]:
    """Return, for each teacher and example, `exp(-H)` over the sum of it over teachers, `H` the entropy in nats.

    Raises:
        ConfigError: outputs are values, which have no entropy.
    """
    if kind == "classes":
        logs = [tf.nn.log_softmax(one) for one in theirs]
        entropies = [-tf.reduce_sum(tf.exp(one) * one, axis=-1) for one in logs]
    elif kind == "labels":
        entropies = [
            tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.sigmoid(one), one), axis=-1) for one in theirs
        ]
    else:
        raise ConfigError("Teachers of values have no confidence. Give `teacher_weights` as numbers.")
    return tf.unstack(tf.nn.softmax(-tf.stack(entropies), axis=0))


def _loss(given: Any, forms: Forms) -> OutputLoss | None:
    if given is None or isinstance(given, OutputLoss):
        return given
    if not isinstance(given, str):
        raise ConfigError(
            f"A loss of `losses` is 'auto', None, `kopt.distill.OutputLoss(...)` or one of {', '.join(OUTPUT_LOSSES)}. "
            f"Received: {given!r} ({type(given).__name__})."
        )
    return OutputLoss(forms.natural_loss if given == "auto" else given)


def _positions(infos: Sequence[TensorInfo], teacher: Teacher) -> list[int]:
    ours, theirs = ([one.name for one in group] for group in (infos, teacher.outputs))
    if len(ours) == len(theirs) == 1:
        return [0]
    if set(ours) <= set(theirs):
        return [theirs.index(name) for name in ours]
    if len(ours) == len(theirs):
        return list(range(len(ours)))
    raise InputError(
        f"The outputs do not match: the student gives {_described(infos)}, the teacher {teacher.name} "
        f"{_described(teacher.outputs)}. Name the outputs of both alike, e.g. with "
        f"`keras.Model(teacher.inputs, {{name: tensor}})`; outputs of the teacher that the student lacks are left out."
    )


def _check_shapes(info: TensorInfo, teacher: Teacher, theirs: TensorInfo) -> None:
    if not compatible(info.shape[1:], theirs.shape[1:]):
        raise InputError(
            f"Output {info.name!r} of the student has shape {info.shape}, {theirs.name!r} of the teacher "
            f"{teacher.name} {theirs.shape}. Put a head of the student's size on the teacher, or take its features "
            f"alone: `losses=None, features=[(student layer, teacher layer)]`, projected where widths differ."
        )


def _check_forms(info: TensorInfo, loss: OutputLoss, forms: Forms) -> None:
    accepted = _ACCEPTED.get(loss.row.outputs)
    for whose, form in [("student", forms.student), *(("teacher", form) for form in forms.teachers)]:
        if accepted and form not in (*accepted, "values"):
            others = [name for name in OUTPUT_LOSSES if form in _ACCEPTED.get(LOSSES[name].outputs, ())]
            raise ConfigError(
                f"{loss.kind!r} needs {' or '.join(accepted)}, and output {info.name!r} of the {whose} gives {form} "
                f"({forms.found}). Use {', '.join(others)}, or say `{whose}_form=` if that is not so."
            )


def compatible(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Return whether two shapes can be the same."""
    return len(one) == len(other) and all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def _labels_or_guess(labels: Any, logits: Any) -> Any:
    """Return class numbers: those of the labels where there is one, those of the teacher elsewhere."""
    if labels is None:
        return None
    numbers, present = labels
    if present is None:
        return label_values.classes(numbers, logits)
    return tf.where(present > 0, label_values.classes(numbers, logits), tf.argmax(logits, axis=-1))


def _described(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{info.name!r} {info.shape}" for info in infos)
