"""What a distillation holds against what, and what a cache of a teacher was made of."""

import dataclasses

from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.changes.recovery import RecoveryReport
from kopt.core.serialization import Record


@dataclasses.dataclass(frozen=True)
class OutputMatch(Record):
    """How one output of the student learns from the teachers.

    Attributes:
        name: of the output.
        loss: kind of the loss; empty if this output learns from labels alone.
        weight: of the loss among those of all outputs.
        student_form: what the student gives: `"logits"`, `"probabilities"`, `"sigmoids"` or `"values"`.
        teacher_forms: what each teacher gives.
        found: how that is known, in words.
    """

    name: str
    loss: str
    weight: float
    student_form: str
    teacher_forms: tuple[str, ...]
    found: str


@dataclasses.dataclass(frozen=True)
class FeatureMatch(Record):
    """How one inner tensor of the student learns from one of the teacher.

    Attributes:
        student, teacher: paths of the layers.
        student_shape, teacher_shape: of their outputs; `None` where any size is accepted.
        loss: kind of the loss.
        weight: of the loss in the sum.
        bridge: what is done where the shapes differ, in words; empty if nothing.
        automatic: whether kopt chose the pair.
        teacher_index: which of several teachers, counted from 0.
    """

    student: str
    teacher: str
    student_shape: tuple[int | None, ...]
    teacher_shape: tuple[int | None, ...]
    loss: str
    weight: float
    bridge: str = ""
    automatic: bool = False
    teacher_index: int = 0


@dataclasses.dataclass(frozen=True)
class DistillationReport(Record):
    """What a `DistillationModel` holds against what.

    Attributes:
        student: name of the student.
        teachers: names of the teachers.
        outputs: one entry an output of the student.
        features: one entry a pair of layers.
    """

    student: str
    teachers: tuple[str, ...]
    outputs: tuple[OutputMatch, ...]
    features: tuple[FeatureMatch, ...]

    def __str__(self) -> str:
        """Return it in words, a line a pair."""
        lines = [f"{self.student} learns from {', '.join(self.teachers)}."]
        for one in self.outputs:
            forms = f"student gives {one.student_form}, teacher {' and '.join(one.teacher_forms)} ({one.found})"
            lines.append(f"output {one.name}: {one.loss or 'labels alone'}, weight {one.weight:g}; {forms}")
        for pair in self.features:
            how = f"; {pair.bridge}" if pair.bridge else ""
            chosen = ", matched automatically" if pair.automatic else ""
            whose = f" of {self.teachers[pair.teacher_index]}" if len(self.teachers) > 1 else ""
            theirs = f"{pair.teacher}{whose} {pair.teacher_shape}"
            lines.append(
                f"feature {pair.student} {pair.student_shape} <- {theirs}: {pair.loss}, weight {pair.weight:g}"
                f"{how}{chosen}"
            )
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class CachedTensor(Record):
    """One tensor that a cache holds for every example.

    Attributes:
        name: of the output, or path of the layer.
        shape: without the examples; `None` where sizes vary.
        form: of an output, see `OutputMatch`; empty for a feature.
        top_k: largest entries that are kept; `None` if all are.
    """

    name: str
    shape: tuple[int | None, ...]
    form: str = ""
    top_k: int | None = None


@dataclasses.dataclass(frozen=True)
class CacheManifest(Record):
    """What a cache of a teacher was made of. Files of another one are never taken for it.

    Attributes:
        teacher: name of the teacher.
        teacher_hash: SHA-256 of its architecture and weights, or of its file.
        dtype: of the stored numbers, `"float16"` or `"float32"`.
        inputs: shapes and types of one batch; keys are made of these bytes.
        outputs: of the teacher.
        features: of its layers.
    """

    teacher: str
    teacher_hash: str
    dtype: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[CachedTensor, ...]
    features: tuple[CachedTensor, ...]


@dataclasses.dataclass(frozen=True)
class StudentReport(Record):
    """What a student was made of.

    Attributes:
        teacher: name of the model that it was made from.
        width: channels as a part of the teacher's.
        depth: blocks as a part of the teacher's.
        parameters_before, parameters_after: of teacher and student.
        macs_before, macs_after: multiply-accumulates of one example.
        removed: layers of the teacher that are passed by.
        copied: layers with the teacher's weights.
        cut: layers with the first channels of the teacher's weights.
        fresh: layers with weights of their own.
    """

    teacher: str
    width: float
    depth: float
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    removed: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TeachingReport(RecoveryReport):
    """A student's training by teachers, stage by stage.

    Attributes:
        parameters: of the student.
        macs: multiply-accumulates of one example.
        teacher_value: what the first teacher is worth by the same metric; `None` where that cannot be told.
        teacher_parameters, teacher_macs: of the first teacher; `None` if it is no Keras model.
        distillation: what was held against what.
    """

    parameters: int
    macs: int
    teacher_value: float | None
    teacher_parameters: int | None
    teacher_macs: int | None
    distillation: DistillationReport
