"""Fine-tuning after pruning, with what usually helps, and a report of what did."""

import dataclasses
from typing import Any

import keras

from kopt.core.records.changes.recovery import RecoveryReport
from kopt.core.settings import number, whole
from kopt.graph import copy_model, require_built, require_finite
from kopt.prune.plain import require_plain
from kopt.prune.recovering.distilling import Distilled
from kopt.report.changes.recovery import RECOVERY
from kopt.report.look import Shown
from kopt.train import check_inputs
from kopt.train.batch_norm import settle_statistics
from kopt.train.judging import Course, aim_of, finite_batches
from kopt.train.numerics.precision import scaled_optimizer
from kopt.train.schedules import OneCycle

_WARMUP = 0.1


@dataclasses.dataclass(frozen=True)
class Recovery(Shown, RecoveryReport):
    """What `recover` did, with ways to show it.

    Example:
        >>> smaller, _ = kopt.prune.channels(model, keep=0.5)
        >>> report = kopt.prune.recover(smaller, (x_train[:64], y_train[:64]), epochs=1, teacher=model)[1]
        >>> [stage.name for stage in report.stages]
        ['as given', 'batch normalization', 'epoch 1']
    """

    look = RECOVERY


def recover(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    *,
    epochs: int = 5,
    teacher: keras.Model | None = None,
    temperature: float = 2.0,
    distillation: float = 1.0,
    learning_rate: float = 1e-3,
    loss: Any = None,
    metric: str | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[keras.Model, Recovery]:
    """Return a fine-tuned copy of a model that has lost accuracy by pruning, and a report of every stage.

    First the statistics of batch normalizations are estimated anew, without labels: they still fit the channels that
    are gone, and this alone often brings back much. Then it is trained with Adam, whose learning rate rises for a tenth
    of the updates and falls along a cosine. After every epoch the statistics are estimated once more, because the
    moving averages of Keras need hundreds of updates to follow. The returned model has the weights of the best stage,
    which may be the one before any training.

    Formula: with a teacher the loss is `task + distillation * T^2 KL(softmax(z_teacher / T) || softmax(z / T))`, with
    the logits `z`; where the outputs are probabilities, `z` are their logarithms. For binary cross-entropies it is the
    divergence of sigmoids, the mean over labels; for any other loss the mean squared difference of the outputs. Several
    outputs are added up with their `loss_weights`; one without a loss is left out.

    Args:
        model: Functional or Sequential, built; not changed.
        train: `(x, y)` or `(x, y, sample_weight)` arrays, shuffled, or a `tf.data.Dataset` of such batches that ends,
            taken in its order.
        validation: the same forms; what the stages are judged on. Without it they are judged on `train`, which tells
            little of new examples.
        epochs: over `train`.
        teacher: a model to learn from, usually the one before pruning; not changed. It needs the same outputs.
        temperature: `T`.
        distillation: weight of the teacher's term.
        learning_rate: the highest.
        loss: as for `compile`; by default that of `model`, else that of `teacher`, if one of them is compiled, with its
            `loss_weights`.
        metric: name of a metric of Keras of which higher is better. By default `"accuracy"` for cross-entropies; for
            other losses the lowest loss is best. Of stages with the same metric that of the lowest loss is.
        batch_size: of arrays.
        seed: of the order of arrays.

    Returns:
        The model, not compiled, and the report, with `.table()` and `.plot(path)`.

    Raises:
        ConfigError: a setting is out of range, there is no loss, or the teacher does not fit.
        DataError: data that does not fit the model, is empty or never ends.
        InputError: the model is not built, or has masks or penalties, which `finalize` takes off.
        NonFiniteError: a weight or an example is NaN or infinite.
        UnsupportedModelError: a subclassed model, or a layer that cannot be cloned.

    Example:
        >>> train, validation = (x_train, y_train), (x_val, y_val)
        >>> smaller, _ = kopt.prune.channels(model, target_macs=0.5)
        >>> smaller, report = kopt.prune.recover(smaller, train, validation, epochs=1, teacher=model)
        >>> report.metric, report.after >= report.before  # the best stage is kept
        ('accuracy', True)

    Source: Hinton et al., 2015, https://arxiv.org/abs/1503.02531, for the teacher; Li et al., "EagleEye", 2020,
    https://arxiv.org/abs/2007.02491, for the statistics.
    """
    _check_settings(epochs, temperature, distillation, learning_rate, batch_size)
    for one in (model,) if teacher is None else (model, teacher):
        require_built(one)
        require_finite(one)
    require_plain(model)
    aim = aim_of((model, teacher), loss, metric)
    dataset, steps = finite_batches(train, batch_size, seed, "train")
    judged, _ = finite_batches(train if validation is None else validation, batch_size, None, "validation")
    x, y, weight = keras.utils.unpack_x_y_sample_weight(next(iter(dataset)))
    check_inputs(model, x, y, weight, loss=aim.loss)
    copy = copy_model(model)
    trainer = copy
    if teacher is not None:
        trainer = Distilled(copy, teacher, temperature=temperature, weight=distillation)
    # A tenth of the learning rate at least: with a hundredth, short trainings would hardly begin.
    rates = OneCycle(learning_rate, steps * epochs, warmup_fraction=_WARMUP, start_divisor=10.0)
    optimizer = scaled_optimizer(copy, keras.optimizers.Adam(rates))
    aim.compile(copy, optimizer)
    if trainer is not copy:
        trainer.compile(optimizer, aim.loss, loss_weights=aim.loss_weights)
    course = Course(copy, judged, aim.metric)
    course.note("as given")
    if settle_statistics(copy, dataset):
        course.note("batch normalization")
    for epoch in range(epochs):
        trainer.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0)
        settle_statistics(copy, dataset)
        course.note(f"epoch {epoch + 1}")
    copy.set_weights(course.best_weights)
    report = Recovery(
        model=model.name,
        metric=aim.metric or "loss",
        judged_on="train" if validation is None else "validation",
        teacher="" if teacher is None else teacher.name,
        stages=tuple(course.stages),
        best=course.best.name,
    )
    return copy_model(copy), report


def _check_settings(epochs: Any, temperature: Any, distillation: Any, learning_rate: Any, batch_size: Any) -> None:
    whole("epochs", epochs)
    whole("batch_size", batch_size)
    number("temperature", temperature, least=0.0, open_below=True)
    number("distillation", distillation, least=0.0)
    number("learning_rate", learning_rate, least=0.0, open_below=True)
