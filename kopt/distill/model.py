"""A Keras model in which teachers teach a student."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.changes.distillation import DistillationReport
from kopt.core.settings import number
from kopt.distill import labels as label_values
from kopt.distill.cache import TeacherCache
from kopt.distill.cache_files import holds_cache
from kopt.distill.exporting import Exporting
from kopt.distill.forms import independent_labels, require_fitting
from kopt.distill.inputs import input_places
from kopt.distill.joined import split
from kopt.distill.planning import planned_features, planned_outputs, teacher_shares
from kopt.distill.teachers import Answer, KerasTeacher, Teacher, teacher_of
from kopt.distill.watching import LEAST_TEMPERATURE, FiniteAnswers, TeachingCheck
from kopt.graph import fingerprint, signature
from kopt.train import internals, scaled_optimizer
from kopt.train.interception import with_own_callbacks
from kopt.train.steps.engine import call

# What the forward pass gave besides the outputs, and what the loss was made of. They lie on the first output, as Keras'
# masks do, so that each replica, and a step that is left out, has its own.
_FEATURES, _TERMS = "_kopt_features", "_kopt_terms"


@keras.saving.register_keras_serializable(package="kopt")
class DistillationModel(Exporting, keras.Model):
    """A student that learns from teachers, and from labels where there are any; for `compile` and `fit`.

    Use it to train a small model to do what a large one does. `student` stays the plain model it was: mixed-precision,
    under masks, nested or subclassed. Teachers are never trained, changed or saved.

    Loss: `(1 - alpha) hard + alpha sum_o weight_o soft_o + sum_f weight_f feature_f + regularization`, where `hard` is
    the loss given to `compile` and each `soft_o` compares an output with the teachers'. All terms honor
    `sample_weight`, `class_weight` and masks. `fit` logs `hard_loss`, `soft_loss` and each feature without their
    weights; `evaluate` and `predict` are the student's, with the loss and metrics of `compile`.

    Attributes:
        student: the model that is trained.
        teachers: what teaches it.
        report: what is held against what, and why; `print(model.report)`.
        projectors: trainable layers from the student's channels to the teacher's, dropped after training.

    Example:
        >>> student, _ = kopt.distill.smaller_student(model, width=0.5)
        >>> teaching = kopt.DistillationModel(student, model, temperature=4.0, alpha=0.7)
        >>> teaching.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = teaching.fit(x_train, y_train, verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'hard_loss', 'loss', 'soft_loss']
        >>> made = teaching.export_tflite("student.tflite", scheme="int8", calibration=x_train)

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: Any,
        *,
        temperature: float | Callable[[Any], Any] = 3.0,
        alpha: float | Callable[[Any], Any] = 0.7,
        losses: Any = "auto",
        output_weights: Any = None,
        features: Any = (),
        teacher_weights: Sequence[float] | str = "mean",
        student_form: Any = None,
        teacher_form: Any = None,
        adapt: Callable[[Any], Any] | None = None,
        unlabeled: int | None = None,
        name: str | None = None,
    ):
        """Hold student and teachers against each other; nothing is trained.

        Args:
            student: built Keras model.
            teacher: a built Keras model, what `kopt.measure.load` takes or gives, a `kopt.distill.TeacherCache`, or a
                list of these.
            temperature: divides logits before softmax; above 0. A number, or a function of the number of updates made,
                as Keras' and kopt's learning-rate schedules are. Default 3.
            alpha: share of the teachers' outputs against that of the labels, in [0, 1]; a number or a function of the
                number of updates. Default 0.7.
            losses: of the outputs: `"auto"` (`kl` for classes, `binary_kl` for sigmoids and where `compile` gets a
                binary loss, `mse` for a single number), a kind or `OutputLoss` for all, a list by position, a dict by
                output name; `None` learns from labels.
            output_weights: of the soft losses, in the same forms. Default 1.
            features: `"auto"`, or a list of layer names, pairs `(student layer, teacher layer)` and `Feature`. Of
                several teachers layers are those of the first, unless `Feature.teacher_index` names another.
            teacher_weights: `"mean"`, one positive number a teacher (they are divided by their sum), or
                `"confidence"`: by `exp(-entropy)` of each example.
            student_form: `"logits"`, `"probabilities"`, `"sigmoids"` or `"values"`, one or a list by output, where it
                is not what the last layer says.
            teacher_form: the same of every teacher.
            adapt: what turns the student's inputs into the teacher's, e.g. `keras.layers.Resizing(224, 224)`.
            unlabeled: class number that stands for no label; NaN does in labels of floats. Such examples learn from the
                teacher alone and count as examples in the mean. Use `weighted_metrics` to leave them out of metrics.
            name: of this model.

        Raises:
            ConfigError: a setting out of range, an unknown layer, or features that cannot be compared.
            InputError: models that are not built, or whose inputs or outputs do not match.
            NonFiniteError: a weight of a teacher is NaN or infinite.
        """
        inputs, _ = signature(student)
        name = name or f"distilled_{student.name}"
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
        self.student = student
        self.temperature = _scheduled("temperature", temperature, least=0.0, open_below=True)
        self.alpha = _scheduled("alpha", alpha, least=0.0, most=1.0)
        self.unlabeled = unlabeled
        self._adapt = adapt
        self._given = {
            "losses": losses, "output_weights": output_weights, "teacher_weights": teacher_weights,
            "student_form": student_form, "teacher_form": teacher_form,
        }  # fmt: skip
        # In a tuple of plain objects, in which Keras looks for no variables.
        self.teachers: tuple[Teacher, ...] = tuple(
            TeacherCache(one) if holds_cache(one) else teacher_of(one)
            for one in (teacher if isinstance(teacher, (list, tuple)) else [teacher])
        )
        if not self.teachers:
            raise InputError("There is no teacher. Pass at least one.")
        self._input_names = tuple(info.name for info in inputs)
        self._input_places = _Plain(input_places(inputs, one, adapt) for one in self.teachers)
        self._finite, self._known_teachers = FiniteAnswers(), _Plain(())
        self.supports_jit = all(one.supports_jit for one in self.teachers)
        self._shares = teacher_shares(teacher_weights, len(self.teachers))
        self._outputs = _Plain(self._planned_outputs(losses))
        self._tap, terms = planned_features(student, self.teachers, features)
        self._features = _Plain(terms)
        self.projectors = [term.projector for term in terms if term.projector is not None]
        self.report = DistillationReport(
            student.name,
            tuple(one.name for one in self.teachers),
            tuple(term.match for term in self._outputs.items),
            tuple(term.match for term in self._features.items),
        )
        self._trackers = _Plain([keras.metrics.Mean(name=name) for name in self._term_names()])
        self._evaluating = False
        self.built = True

    def _planned_outputs(self, losses: Any) -> Any:
        given = {key: self._given[key] for key in ("output_weights", "student_form", "teacher_form")}
        return planned_outputs(self.student, self.teachers, losses, **given)

    def _term_names(self) -> list[str]:
        outputs = [term.match.name for term in self._outputs.items if term.loss is not None]
        several = [f"soft_loss_{name}" for name in outputs] if len(self._outputs.items) > 1 else []
        soft = ["soft_loss", *several] if outputs else []
        return ["hard_loss", *soft, *(term.log_name for term in self._features.items)]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return what the student returns."""
        inputs, _ = split(inputs)
        if not training or self._tap is None:
            return call(self.student, inputs, training)
        with self._tap.recording() as found:
            outputs = call(self.student, inputs, training)
        setattr(keras.tree.flatten(outputs)[0], _FEATURES, found)
        return outputs

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **settings: Any) -> None:
        """See `keras.Model.compile`; `loss` compares the student with labels and is `None` for data without.

        The optimizer is put into a `LossScaleOptimizer` if a layer of the student computes in float16.

        Raises:
            ConfigError: `jit_compile=True` with a teacher that runs outside the graph; or a loss that takes logits for
                probabilities, or the other way round.
        """
        self._follow(loss)
        require_fitting(loss, self.report.outputs)
        outside = [one.name for one in self.teachers if not one.in_graph]
        if settings.get("jit_compile") is True and outside:
            raise ConfigError(
                f"XLA cannot compile a step that runs {', '.join(outside)} in its own runtime. Leave `jit_compile` "
                f"out, or compute its outputs once with `kopt.distill.cache_teacher`."
            )
        super().compile(optimizer, loss, *args, **settings)
        self.optimizer: Any = scaled_optimizer(self, self.optimizer)

    def _follow(self, loss: Any) -> None:
        """Choose soft losses by what the loss says of labels, which the outputs do not tell, where they are chosen."""
        if self._given["losses"] != "auto":
            return
        independent = independent_labels(loss, self.report.outputs)
        losses = {one.name: "binary_kl" if one.name in independent else "auto" for one in self.report.outputs}
        self._outputs = _Plain(self._planned_outputs(losses))
        self.report = dataclasses.replace(self.report, outputs=tuple(term.match for term in self._outputs.items))

    def fit(self, *args: Any, callbacks: Any = None, **settings: Any) -> Any:
        """See `keras.Model.fit`.

        Raises:
            InputError: the student shares weights with a teacher, which training would change.
        """
        return super().fit(*args, callbacks=with_own_callbacks(self, callbacks), **settings)

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks that the student wants in every `fit`, and a look at schedules and teachers.

        Raises:
            InputError: the student shares weights with a teacher, which training would change.
        """
        _require_apart(self.student, self.teachers)
        own: list[keras.callbacks.Callback] = getattr(self.student, "own_callbacks", list)()
        return [*own, TeachingCheck(self._finite, ", ".join(one.name for one in self.teachers))]

    @property
    def rematerialized_body(self) -> keras.Model:
        """The student, whose layers `kopt.train.accelerate(remat=...)` may compute again; features are kept."""
        return self.student

    def evaluate(self, *args: Any, **settings: Any) -> Any:
        """Evaluate the student; see `keras.Model.evaluate`. Nothing is changed, no teacher is called."""
        with self._evaluation():
            return super().evaluate(*args, **settings)

    def test_on_batch(self, *args: Any, **settings: Any) -> Any:
        """Evaluate the student; see `keras.Model.test_on_batch`."""
        with self._evaluation():
            return super().test_on_batch(*args, **settings)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss of a batch: in training as the class says, else that of `compile` for the student.

        Raises:
            ConfigError: there are no labels and `compile` was given a loss that needs them, or a batch has nothing of a
                cache; or features are wanted of outputs that this model's `call` did not give.
        """
        x, stored = split(x)
        y, labels, weights = label_values.arranged(y, sample_weight, y_pred, self.output_names, self.unlabeled)
        if not training and self.loss is None:
            return tf.add_n([tf.constant(0.0), *(tf.cast(one, tf.float32) for one in internals.added_losses(self))])
        if not training:
            return super().compute_loss(x, y, y_pred, weights, training)
        self._require_known_teachers()
        answers = [self._answer(index, x, stored) for index in range(len(self.teachers))]
        terms: dict[str, Any] = {}
        total = self._hard(terms, y, y_pred, weights) + self._soft(terms, answers, y_pred, labels, sample_weight)
        for term in self._features.items:
            ours = self._feature_of(y_pred, term.feature.student)
            theirs = answers[term.feature.teacher_index].features[term.feature.teacher]
            value = term(theirs, ours, sample_weight)
            terms[term.log_name] = value
            total += term.feature.weight * value
        setattr(keras.tree.flatten(y_pred)[0], _TERMS, terms)
        return tf.add_n([total, *(tf.cast(one, tf.float32) for one in internals.added_losses(self))])

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Update and return the metrics of `compile`, and in training the terms of the loss."""
        leaf = keras.tree.flatten(y_pred)[0]
        examples, replicas = tf.shape(leaf)[0], tf.distribute.get_strategy().num_replicas_in_sync
        terms = getattr(leaf, _TERMS, {})
        for tracker in self._trackers.items:
            if tracker.name in terms:
                # Keras divides losses by the number of replicas, whose gradients are added up.
                tracker.update_state(terms[tracker.name] * replicas, sample_weight=examples)
        y, _, weights = label_values.arranged(y, sample_weight, y_pred, self.output_names, self.unlabeled)
        return super().compute_metrics(split(x)[0], y, y_pred, weights)

    def _require_known_teachers(self) -> None:
        for teacher, known in zip(self.teachers, self._known_teachers.items, strict=False):
            if known is None:
                continue
            with tf.init_scope():
                found = fingerprint(teacher.given)
            if known != found:
                raise ConfigError(
                    f"The teacher {teacher.name} came from a config, without the weights that it had: it would teach "
                    f"noise. Load them into `teachers[{self.teachers.index(teacher)}].model`, or give a teacher by "
                    f"the path of its file."
                )
        self._known_teachers = _Plain(())

    def _answer(self, index: int, x: Any, stored: Any) -> Answer:
        """Return what a teacher gives for the inputs of the student."""
        teacher = self.teachers[index]
        answer = teacher.answer(self.inputs_of_teacher(x, index), stored)
        if not teacher.in_graph or isinstance(teacher, TeacherCache):
            return answer  # They look at their numbers themselves.
        return self._finite.watched(answer)

    def own_inputs(self, x: Any) -> Any:
        """Return the student's inputs of a batch that a cache may have been joined to."""
        return split(x)[0]

    def inputs_of_teacher(self, x: Any, index: int = 0) -> Any:
        """Return what a teacher is given for inputs of the student."""
        if self._adapt is not None:
            return self._adapt(x)
        theirs = [info.name for info in self.teachers[index].inputs]
        if isinstance(x, Mapping) and theirs and not all(name in x for name in theirs):
            x = [x[name] for name in self._input_names]
        if not isinstance(x, (list, tuple)):
            return x
        return self.teachers[index].packed([x[place] for place in self._input_places.items[index]])

    def _hard(self, terms: dict[str, Any], y: Any, y_pred: Any, weights: Any) -> Any:
        if self.loss is None:
            return tf.constant(0.0)
        if y is None:
            raise ConfigError(
                "There are no labels, and `compile` was given a loss that compares the student with them. Compile with "
                "`loss=None` to learn from the teacher alone, or mark single examples: `unlabeled=-1`."
            )
        terms["hard_loss"] = tf.cast(internals.targets_loss(self, y, y_pred, weights), tf.float32)
        return (1.0 - self._share) * terms["hard_loss"]

    def _soft(self, terms: dict[str, Any], answers: Any, y_pred: Any, labels: Any, sample_weight: Any) -> Any:
        wanted = [term for term in self._outputs.items if term.loss is not None]
        if not wanted:
            return tf.constant(0.0)
        temperature = self._now(self.temperature, LEAST_TEMPERATURE, np.inf)
        leaves, total = keras.tree.flatten(y_pred), tf.constant(0.0)
        weights = label_values.weights_by_output(sample_weight, self.output_names)
        for index, term in enumerate(self._outputs.items):
            if term.loss is None:
                continue
            theirs = [answer.outputs[place] for answer, place in zip(answers, term.positions, strict=True)]
            weight = weights[index]
            value = term(
                theirs, leaves[index], temperature, shares=self._shares, labels=labels[index], sample_weight=weight
            )
            terms[f"soft_loss_{term.match.name}"] = value
            total += term.match.weight * value
        terms["soft_loss"] = total
        return self._share * total

    @property
    def _share(self) -> Any:
        return self._now(self.alpha, 0.0, 1.0)

    def _feature_of(self, y_pred: Any, name: str) -> Any:
        found = getattr(keras.tree.flatten(y_pred)[0], _FEATURES, None)
        if found is None:
            raise ConfigError(
                "Features come from the forward pass, and these outputs were not given by a training call of this "
                "model. Pass `model(x, training=True)`."
            )
        return found[name]

    def _now(self, setting: Any, least: float, most: float) -> Any:
        """Return a setting at the number of updates that were made; in loops of one's own a schedule may go too far."""
        if not callable(setting):
            return setting
        value = tf.cast(setting(tf.convert_to_tensor(self.optimizer.iterations)), tf.float32)
        return tf.clip_by_value(value, least, most)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before

    @property
    def metrics(self) -> list[Any]:
        """The metrics of the student as `compile` made them, and in training the terms of the loss."""
        if self._evaluating:
            return list(super().metrics)
        trackers = [one for one in self._trackers.items if one.name != "hard_loss" or self.loss is not None]
        return [*super().metrics, *trackers]

    @property
    def output_names(self) -> list[str]:
        """Names of the student's outputs, by which losses and metrics may be given."""
        return [info.name for info in signature(self.student)[1]]

    def summary(self, **settings: Any) -> None:
        """Print the summary of the student."""
        self.student.summary(**settings)

    def save(self, filepath: Any, overwrite: bool = True, **settings: Any) -> None:
        """Save the student, a plain Keras file; see `keras.Model.save`.

        `save_weights` saves what training goes on from: student, projectors and optimizer.
        """
        self.student.save(filepath, overwrite=overwrite, **settings)

    def load_weights(self, *args: Any, **settings: Any) -> None:
        """Load what `save_weights` saved, also into an optimizer that has made no update yet."""
        if self.compiled and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        super().load_weights(*args, **settings)

    def export(self, *args: Any, **settings: Any) -> Any:
        """Export the student; see `keras.Model.export`."""
        return self.student.export(*args, **settings)

    def get_config(self) -> dict[str, Any]:
        """Return student, teachers and settings. As always in Keras, weights are no part of it; a file's are."""
        serialize = keras.saving.serialize_keras_object
        return {
            "student": serialize(self.student),
            "teacher": [_teacher_config(one) for one in self.teachers],
            "teacher_fingerprints": [
                fingerprint(one.given) if isinstance(one.given, keras.Model) else None for one in self.teachers
            ],
            "temperature": serialize(self.temperature),
            "alpha": serialize(self.alpha),
            "features": [term.feature.to_config() for term in self._features.items],
            **{key: serialize(value) for key, value in self._given.items()},
            "adapt": serialize(self._adapt),
            "unlabeled": self.unlabeled,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "DistillationModel":
        """Make it from what `get_config` returned."""

        def restored(value: Any) -> Any:
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        config = {key: value if key == "features" else restored(value) for key, value in config.items()}
        known = config.pop("teacher_fingerprints")
        model = cls(config.pop("student"), config.pop("teacher"), **config)
        model._known_teachers = _Plain(known)
        return model


class _Plain:
    """Holds objects in which Keras is not to look for variables, or of which it would make lists of its own."""

    def __init__(self, items: Any):
        self.items: tuple[Any, ...] = tuple(items)


def _require_apart(student: keras.Model, teachers: Sequence[Teacher]) -> None:
    """Refuse a teacher that training the student would change."""
    trained = {id(one) for one in student.trainable_variables}
    for teacher in teachers:
        shared = trained & {id(one) for one in teacher.model.variables} if isinstance(teacher, KerasTeacher) else ()
        if shared:
            raise InputError(
                f"The student {student.name!r} shares {len(shared)} variables with the teacher {teacher.name!r}, which "
                f"training would change. Pass a copy of the teacher, e.g. `kopt.load_model` of its file, or freeze "
                f"what they share, `layer.trainable = False`."
            )


def _scheduled(name: str, value: Any, **limits: Any) -> Any:
    """Return a setting that is a number or a function of the number of updates, whose first value is checked."""
    if not callable(value):
        return number(name, value, **limits)
    number(f"{name}(0)", float(value(tf.constant(0, tf.int64))), **limits)
    return value


def _teacher_config(teacher: Teacher) -> Any:
    if isinstance(teacher.given, (str, os.PathLike)):
        return os.fspath(teacher.given)
    if not isinstance(teacher.given, keras.Model):
        raise InputError(f"The file of the teacher {teacher.name} is not known. Pass its path, to have it in a config.")
    return keras.saving.serialize_keras_object(teacher.given)
