"""One call in which a student learns from a teacher, with a report of every epoch."""

import dataclasses
from typing import Any

import keras

from kopt import profile
from kopt.core.progress import Progress, Silent
from kopt.core.records.changes.distillation import TeachingReport
from kopt.core.settings import choice, number, whole
from kopt.distill.joined import split
from kopt.distill.model import DistillationModel
from kopt.distill.teachers import KerasTeacher
from kopt.report.changes.teaching import TEACHING
from kopt.report.look import Shown
from kopt.train import check_inputs
from kopt.train.batch_norm import settle_statistics
from kopt.train.judging import Aim, Course, aim_of, evaluated, finite_batches
from kopt.train.schedules import OneCycle
from kopt.train.weight_constraints import constraints_of

_WARMUP = 0.1


@dataclasses.dataclass(frozen=True)
class Teaching(Shown, TeachingReport):
    """What `teach` did, with ways to show it.

    Example:
        >>> student, _ = kopt.distill.smaller_student(model, width=0.5)
        >>> report = kopt.distill.teach(student, model, (x_train[:64], y_train[:64]), epochs=1)
        >>> [stage.name for stage in report.stages], report.parameters < report.teacher_parameters
        (['as given', 'epoch 1', 'batch normalization'], True)
    """

    look = TEACHING


def teach(
    student: keras.Model,
    teacher: Any,
    train: Any,
    validation: Any = None,
    *,
    epochs: int = 10,
    learning_rate: float = 2e-3,
    loss: Any = None,
    metric: str | None = None,
    keep: str = "auto",
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Teaching:
    """Train a student by a teacher and by labels, and report what it is worth after every epoch.

    Use it for the usual case; `DistillationModel` is for trainings of your own. Adam's learning rate rises for a tenth
    of the updates and falls along a cosine. At the end the statistics of batch normalizations are estimated anew and
    the student is judged once more: the moving averages of Keras need hundreds of updates to follow.

    Args:
        student: built Keras model, trained in place: plain, or under masks, codebooks or integer rounding.
        teacher: see `DistillationModel`.
        train: `(x, y)` or `(x, y, sample_weight)` arrays, shuffled, or a `tf.data.Dataset` of such batches that ends.
        validation: the same forms, what the epochs are judged on. Without it they are judged on `train`, which tells
            little of new examples.
        epochs: over `train`.
        learning_rate: the highest.
        loss: of the labels, as for `compile`; by default that of the student, else of the teacher, if one is compiled.
        metric: name of a metric of Keras of which higher is better. By default `"accuracy"` for cross-entropies; for
            other losses the lowest loss is best. Of stages with the same metric that of the lowest loss is.
        keep: weights that the student ends with: of the `"best"` epoch or of the `"last"`. `"auto"`: the last for a
            student under masks or codebooks, whose schedule ends with the training, else the best.
        batch_size: of arrays.
        seed: of the order of arrays.
        progress: told of every epoch.
        **settings: of the `DistillationModel`: temperature, alpha, losses, features and so on.

    Returns:
        The report, with `.table()` and `.plot(path)`.

    Raises:
        ConfigError: a setting out of range, or there is no loss.
        DataError: data that does not fit the student, is empty or never ends.
        InputError: models that are not built or do not fit each other.
        NonFiniteError: a weight of a teacher or an example is NaN or infinite.

    Example:
        >>> student, _ = kopt.distill.smaller_student(model, width=0.5)
        >>> train, validation = (x_train, y_train), (x_val, y_val)
        >>> report = kopt.distill.teach(student, model, train, validation, epochs=2, features="auto")
        >>> report.metric, report.after > report.before
        ('accuracy', True)

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """
    whole("epochs", epochs)
    whole("batch_size", batch_size)
    number("learning_rate", learning_rate, least=0.0, open_below=True)
    choice("keep", keep, ("auto", "best", "last"))
    model = DistillationModel(student, teacher, **settings)
    first = model.teachers[0]
    original = first.model if isinstance(first, KerasTeacher) else None
    aim = aim_of((student, original), loss, metric)
    dataset, steps = finite_batches(train, batch_size, seed, "train")
    judged, _ = finite_batches(train if validation is None else validation, batch_size, None, "validation")
    x, y, weight = keras.utils.unpack_x_y_sample_weight(next(iter(dataset)))
    x, _ = split(x)
    if model.unlabeled is None:
        check_inputs(student, x, y, weight, loss=aim.loss)
    else:
        check_inputs(student, x)
    rates = OneCycle(learning_rate, steps * epochs, warmup_fraction=_WARMUP, start_divisor=10.0)
    aim.compile(model, keras.optimizers.Adam(rates))
    course = Course(model, judged, aim.metric)
    course.note("as given")
    model.fit(
        dataset, epochs=epochs, shuffle=False, verbose=0, callbacks=[_Epochs(course, progress or Silent(), epochs)]
    )
    if settle_statistics(student, dataset.map(lambda x, *rest: (split(x)[0], *rest))):
        course.note("batch normalization")
    last = course.stages[-1]
    if keep == "best" or (keep == "auto" and not constraints_of(student)):
        model.set_weights(course.best_weights)
        last = course.best
    costs = profile.model(student, data=x)
    whole_costs = None if original is None else profile.model(original, data=model.inputs_of_teacher(x))
    return Teaching(
        model=student.name,
        metric=aim.metric or "loss",
        judged_on="train" if validation is None else "validation",
        teacher=" and ".join(one.name for one in model.teachers),
        stages=tuple(course.stages),
        best=last.name,
        parameters=costs.parameters,
        macs=costs.macs,
        teacher_value=_value(model, original, judged, aim),
        teacher_parameters=None if whole_costs is None else whole_costs.parameters,
        teacher_macs=None if whole_costs is None else whole_costs.macs,
        distillation=model.report,
    )


def _value(model: DistillationModel, teacher: keras.Model | None, judged: Any, aim: Aim) -> float | None:
    """Return what a Keras teacher is worth by the metric of the stages, as these are judged."""
    if teacher is None or aim.metric is None:
        return None
    judge = DistillationModel(teacher, teacher, losses=None, unlabeled=model.unlabeled)
    judge.compile(metrics=[aim.metric])  # without the loss, which may take logits where the teacher gives probabilities
    return evaluated(judge, judged.map(lambda x, *rest: (model.inputs_of_teacher(split(x)[0]), *rest)), aim.metric)[1]


class _Epochs(keras.callbacks.Callback):
    def __init__(self, course: Course, progress: Progress, epochs: int):
        super().__init__()
        self._course, self._progress = course, progress
        progress.start(epochs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._progress.step(f"epoch {epoch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._course.note(f"epoch {epoch + 1}")

    def on_train_end(self, logs: Any = None) -> None:
        self._progress.finish()
