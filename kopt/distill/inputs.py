"""Which of the student's inputs a teacher takes."""

from collections.abc import Sequence
from typing import Any

from kopt.core.errors import InputError
from kopt.core.records.artifacts import TensorInfo
from kopt.distill.outputs import compatible
from kopt.distill.teachers import Teacher


def input_places(inputs: Sequence[TensorInfo], teacher: Teacher, adapt: Any) -> list[int]:
    """Return which of the student's inputs each of the teacher's is: by name where they have the same names.

    Raises:
        InputError: they do not match, and nothing adapts them.
    """
    theirs, names = list(teacher.inputs), [one.name for one in inputs]
    places = list(range(len(inputs)))
    if adapt is not None or not theirs:
        return places
    if sorted(names) == sorted(one.name for one in theirs):
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
    return places
