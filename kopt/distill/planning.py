"""What of a student is held against what of its teachers, and how much each teacher counts."""

from collections.abc import Sequence
from typing import Any

import keras

from kopt.core.errors import ConfigError
from kopt.core.settings import number
from kopt.distill.features import Feature, FeatureTerm
from kopt.distill.forms import declared
from kopt.distill.matching import matched
from kopt.distill.outputs import OutputTerm, plan_outputs
from kopt.distill.tapping import Tap, tapped_shapes
from kopt.distill.teachers import KerasTeacher, Teacher, model_forms
from kopt.graph import signature


def planned_outputs(
    student: keras.Model,
    teachers: Sequence[Teacher],
    losses: Any,
    *,
    output_weights: Any,
    student_form: Any,
    teacher_form: Any,
) -> list[OutputTerm]:
    """Return a term of the loss for every output of the student; settings are those of `DistillationModel`."""
    infos = signature(student)[1]
    given = declared("student_form", student_form, len(infos))
    ours = [(form, "as declared") for form in given] if given else model_forms(student)
    theirs = []
    for one in teachers:
        stated = declared("teacher_form", teacher_form, len(one.outputs))
        theirs.append([(form, "as declared") for form in stated] if stated else one.forms)
    return plan_outputs(infos, ours, teachers, theirs, losses, output_weights)


def planned_features(
    student: keras.Model, teachers: Sequence[Teacher], features: Any
) -> tuple[Tap | None, list[FeatureTerm]]:
    """Return what records the student's layers, where any is wanted, and a term of the loss for every feature."""
    pairs = _pairs(student, teachers, features)
    if not pairs:
        return None, []
    # Found first, so that a layer that is not there is said before the models are traced.
    tap = Tap(student, list(dict.fromkeys(one.student for one in pairs)), "student")
    theirs = [teacher.tap(_taught_by(pairs, index)) for index, teacher in enumerate(teachers)]
    ours = tapped_shapes(student, tap)
    return tap, [FeatureTerm(one, ours[one.student], theirs[one.teacher_index][one.teacher]) for one in pairs]


def _pairs(student: keras.Model, teachers: Sequence[Teacher], given: Any) -> list[Feature]:
    if given == "auto":
        teacher = teachers[0]
        if not isinstance(teacher, KerasTeacher):
            raise ConfigError(f"`features='auto'` looks at the teacher's layers; {teacher.name} shows none. Name them.")
        return list(matched(student, teacher.model))
    if isinstance(given, str):
        raise ConfigError(f"`features` is 'auto' or a list, e.g. [{given!r}]. Received: {given!r}.")
    pairs = [Feature.of(one) for one in given]
    for one in pairs:
        if one.teacher_index >= len(teachers):
            raise ConfigError(
                f"There are {len(teachers)} teacher(s), counted from 0. Received: "
                f"teacher_index={one.teacher_index} for the feature {one.student!r}."
            )
    return pairs


def _taught_by(pairs: Sequence[Feature], index: int) -> list[str]:
    """Return the layers of a teacher that students' layers learn from, each once."""
    return list(dict.fromkeys(one.teacher for one in pairs if one.teacher_index == index))


def teacher_shares(given: Sequence[float] | str, count: int) -> tuple[float, ...] | str:
    """Return how much each teacher counts, of 1; or `"confidence"`, where that depends on the example.

    Raises:
        ConfigError: it is neither of the words nor a positive number for each teacher.
    """
    if isinstance(given, str) and given in ("mean", "confidence"):
        return "confidence" if given == "confidence" else (1.0 / count,) * count
    if isinstance(given, str) or len(given) != count:
        raise ConfigError(
            f"`teacher_weights` is 'mean', 'confidence' or {count} numbers, one a teacher. Received: {given!r}."
        )
    numbers = [number("teacher weight", float(one), least=0.0, open_below=True) for one in given]
    return tuple(one / sum(numbers) for one in numbers)
