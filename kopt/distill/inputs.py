"""Which of the student's inputs a teacher takes."""

from collections.abc import Sequence
from typing import Any

from kopt.core.errors import InputError
from kopt.core.records.artifacts import TensorInfo
from kopt.distill.outputs import compatible
from kopt.distill.teachers import RunnerTeacher, Teacher


def input_places(inputs: Sequence[TensorInfo], teacher: Teacher, adapt: Any) -> list[int]:
    """Return which of the student's inputs each of the teacher's is: by name where they have the same names.

    Raises:
        InputError: they do not match, and nothing adapts them.
    """
    theirs, names = list(teacher.inputs), [one.name for one in inputs]
    places = list(range(len(inputs)))
    if adapt is not None or not theirs:
        return places
    by_name = sorted(names) == sorted(one.name for one in theirs)
    if (
        not by_name
        and len(theirs) > 1
        and isinstance(teacher, RunnerTeacher)
        and teacher.runner.format == "saved_model"
    ):
        raise InputError(
            f"The inputs of {teacher.name} are {', '.join(one.name for one in theirs)}, those of the student "
            f"{', '.join(names)}: which is which is not known, because a SavedModel does not keep their order. Call "
            f"them alike, or pass `adapt`, a function that gives them by name."
        )
    if by_name:
        places = [names.index(one.name) for one in theirs]
        inputs = [inputs[place] for place in places]
    fits = len(inputs) == len(theirs) and all(
        compatible(one.shape, other.shape) for one, other in zip(inputs, theirs, strict=True)
    )
    if not fits:
        described = [", ".join(f"{info.name!r} {info.shape}" for info in group) for group in (inputs, theirs)]
        raise InputError(
            f"The inputs do not match: the student takes {described[0]}, the teacher {teacher.name} {described[1]}. "
            f"Pass what turns one into the other, e.g. `adapt=keras.layers.Resizing(height, width)`."
        )
    for one, other in zip(inputs, theirs, strict=True):
        if one.dtype.startswith(("float", "bfloat")) and other.dtype in ("uint8", "int8"):
            raise InputError(
                f"The student takes {one.name!r} as {one.dtype}, the teacher {teacher.name} {other.name!r} as "
                f"{other.dtype}: what lies between whole numbers would be lost. Pass what turns one into the other, "
                f"e.g. `adapt=lambda x: {_rounding(other)}`."
            )
    return places


def _rounding(info: TensorInfo) -> str:
    """Return the code that turns numbers into those of a quantized input."""
    if info.scale is None:
        return f"tf.cast(255 * x, {info.dtype!r})"
    low, high = (0, 255) if info.dtype == "uint8" else (-128, 127)
    steps = f"tf.round(x / {info.scale!r}) + {info.zero_point}"
    return f"tf.cast(tf.clip_by_value({steps}, {low}, {high}), {info.dtype!r})"
