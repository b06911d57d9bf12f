"""A teacher of any kind: what it gives for a batch, in its own precision, without a gradient."""

import abc
import concurrent.futures
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, InputError, NonFiniteError
from kopt.core.files import sha256
from kopt.core.records.artifacts import TensorInfo
from kopt.distill.forms import forms_of
from kopt.distill.projection import Shape
from kopt.distill.tapping import Tap, tapped_shapes
from kopt.graph import fingerprint, require_finite, signature
from kopt.graph.checks import input_structure
from kopt.graph.internals import flatten_layers
from kopt.measure import Runner, load
from kopt.measure.saved_model_runner import SavedModelRunner
from kopt.train.steps.engine import call

# Begins of the names of operations that XLA does not compile: of tables, text, records and Python.
_NOT_FOR_XLA = ("Lookup", "HashTable", "MutableHash", "String", "Regex", "Decode", "Parse", "PyFunc", "EagerPy")


class Answer(NamedTuple):
    """What a teacher gives for a batch: its outputs in order, and the tensors of layers by path."""

    outputs: list[Any]
    features: dict[str, Any]


class Teacher(abc.ABC):
    """What all teachers have in common. No variable of a teacher is one of the model that trains the student.

    Attributes:
        name: of the model or file.
        inputs: what it takes; empty if it takes nothing.
        outputs: what it gives.
        in_graph: whether a step with it can be compiled with XLA.
        given: what the user gave, for the config.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    in_graph = True
    given: Any

    @property
    def supports_jit(self) -> bool:
        """Whether Keras may decide to compile a step with it; see also `in_graph`."""
        return self.in_graph

    @abc.abstractmethod
    def answer(self, x: Any, stored: Mapping[str, Any] | None) -> Answer:
        """Return what it gives for the inputs `x`, in a graph; `stored` is what a cache has joined to the batch."""

    @property
    @abc.abstractmethod
    def forms(self) -> list[tuple[str, str]]:
        """What its outputs are, see `forms_of`."""

    def packed(self, inputs: list[Any]) -> Any:
        """Return its inputs, which come in its own order, in the structure that `answer` takes."""
        return inputs

    def tap(self, names: Sequence[str]) -> dict[str, Shape]:
        """Give the tensors of these layers, too, from now on; return their shapes.

        Raises:
            ConfigError: no such layer, or no layers at all.
        """
        if names:
            raise ConfigError(
                f"The teacher {self.name} has no layers to take features from: it is a file that is run as a whole. "
                f"Pass a Keras model, or a cache of one made with `features={list(names)!r}`."
            )
        return {}


class KerasTeacher(Teacher):
    """A Keras model, called for inference inside the step."""

    def __init__(self, model: keras.Model, given: Any = None):
        """Take a built model; it is not changed.

        Raises:
            InputError: it is not built.
            NonFiniteError: a weight is NaN or infinite.
        """
        self.inputs, self.outputs = signature(model)
        require_finite(model)
        self.model, self.name, self.given = model, model.name, model if given is None else given
        self._tap: Tap | None = None

    @property
    def supports_jit(self) -> bool:
        """See `Teacher.supports_jit`."""
        return all(getattr(layer, "supports_jit", True) for layer in flatten_layers(self.model))

    def answer(self, x: Any, stored: Mapping[str, Any] | None) -> Answer:
        """Call it."""
        if self._tap is None:
            return Answer(_stopped(call(self.model, x, False)), {})
        with self._tap.recording() as found:
            outputs = call(self.model, x, False)
        return Answer(_stopped(outputs), {name: tf.stop_gradient(one) for name, one in found.items()})

    def packed(self, inputs: list[Any]) -> Any:
        """See `Teacher.packed`."""
        structure = input_structure(self.model)
        return keras.tree.pack_sequence_as(structure, inputs) if isinstance(structure, Mapping) else inputs

    def tap(self, names: Sequence[str]) -> dict[str, Shape]:
        """See `Teacher.tap`."""
        if not names:
            return {}
        self._tap = Tap(self.model, names, "teacher")
        return tapped_shapes(self.model, self._tap)

    @functools.cached_property
    def forms(self) -> list[tuple[str, str]]:
        """See `Teacher.forms`."""
        return model_forms(self.model)


class RunnerTeacher(Teacher):
    """A file in its own runtime, run outside the graph."""

    in_graph = False
    runner: Runner

    def __init__(self, runner: Runner, given: Any):
        """Take an open file."""
        self.runner, self.name, self.given = runner, runner.name, given
        self.inputs, self.outputs = runner.inputs, runner.outputs

    def answer(self, x: Any, stored: Mapping[str, Any] | None) -> Answer:
        """Run it on the arrays of the batch."""
        named = self._by_input(x)
        outputs = tf.numpy_function(lambda *arrays: self._run(list(arrays)), named, [tf.float32] * len(self.outputs))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        for output, info in zip(outputs, self.outputs, strict=True):
            output.set_shape((None, *info.shape[1:]))
        return Answer(_stopped(outputs), {})

    @functools.cached_property
    def forms(self) -> list[tuple[str, str]]:
        """See `Teacher.forms`."""
        return forms_of(None, self.inputs, self.outputs, lambda arrays: self._run(list(arrays.values())))

    def _by_input(self, x: Any) -> list[Any]:
        return [x[info.name] for info in self.inputs] if isinstance(x, Mapping) else tf.nest.flatten(x)

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        results = self.runner.predict(arrays)
        values = list(results.values()) if isinstance(results, dict) else [results]
        values = [np.asarray(one, np.float32) for one in values]
        require_finite_answer(self.name, [info.name for info in self.outputs], values)
        return values


class SavedModelTeacher(RunnerTeacher):
    """A SavedModel, called inside the step: from outside it would wait for the threads that the step waits on."""

    in_graph = True
    runner: SavedModelRunner

    @property
    def supports_jit(self) -> bool:
        """See `Teacher.supports_jit`."""
        return not any(one.startswith(_NOT_FOR_XLA) for one in self.runner.operations)

    def answer(self, x: Any, stored: Mapping[str, Any] | None) -> Answer:
        """Call its signature."""
        pairs = zip(self.inputs, self._by_input(x), strict=True)
        outputs = self.runner.compute({info.name: tf.cast(one, info.dtype) for info, one in pairs})
        return Answer(_stopped([tf.cast(outputs[info.name], tf.float32) for info in self.outputs]), {})


def teacher_of(given: Any) -> Teacher:
    """Return a teacher of a Keras model, an open or closed file, or what is one already.

    Raises:
        InputError: it is none of these.
        LoadError: a file that cannot be opened.
    """
    if isinstance(given, Teacher):
        return given
    if isinstance(given, keras.Model):
        return KerasTeacher(given)
    if not isinstance(given, (Runner, str, os.PathLike)):
        raise InputError(
            f"A teacher is a built Keras model, a file (.keras, .h5, .tflite, .onnx, SavedModel), what "
            f"`kopt.measure.load` gives, or a cache of one. Received: {type(given).__module__}."
            f"{type(given).__qualname__}."
        )
    # In a thread of its own: variables that are restored under a strategy cannot be read in its constructor.
    with concurrent.futures.ThreadPoolExecutor(1) as alone:
        runner = alone.submit(load, given).result()
    model = getattr(runner, "model", None)
    if model is not None:
        return KerasTeacher(model, given)
    is_graph = isinstance(runner, SavedModelRunner) and runner.fixed_batch is None
    return (SavedModelTeacher if is_graph else RunnerTeacher)(runner, given)


def model_forms(model: keras.Model) -> list[tuple[str, str]]:
    """Return what the outputs of a Keras model are, see `forms_of`."""
    inputs, outputs = signature(model)

    def predict(arrays: dict[str, np.ndarray]) -> list[Any]:
        x = keras.tree.pack_sequence_as(input_structure(model), list(arrays.values()))
        return keras.tree.flatten(call(model, x, False))

    return forms_of(model, inputs, outputs, predict)


def hash_of(teacher: Teacher) -> str:
    """Return the SHA-256 of what a teacher computes: of its architecture and weights, or of its file.

    Raises:
        InputError: the file is not known.
    """
    if isinstance(teacher, KerasTeacher):
        return fingerprint(teacher.model)
    if isinstance(teacher.given, (str, os.PathLike)):
        return sha256(teacher.given)
    raise InputError(f"The file of the teacher {teacher.name} is not known. Pass its path, not an open runner.")


def require_finite_answer(name: str, outputs: Sequence[str], values: Sequence[np.ndarray]) -> None:
    """Raise `NonFiniteError` if a teacher gave NaN or infinity."""
    for output, array in zip(outputs, values, strict=True):
        bad = ~np.isfinite(array)
        if bad.any():
            first = tuple(map(int, np.argwhere(bad)[0]))
            raise NonFiniteError(
                f"The teacher {name} gives {int(bad.sum())} NaN or infinite numbers of {array.size} in {output!r}, the "
                f"first at index {first}. Look at its inputs, and run it in float32 if it computes in float16."
            )


def _stopped(outputs: Any) -> list[Any]:
    return [tf.stop_gradient(one) for one in keras.tree.flatten(outputs)]
