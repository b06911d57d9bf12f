"""A model as it was: everything that a training step changes, kept and put back bit for bit."""

import contextlib
import dataclasses
import functools
import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import InputError
from kopt.core.randomness import preserved_random_state
from kopt.train import internals

# An array that something holds as an attribute is copied up to this size; a larger one is taken for data.
LARGEST_COPIED_BYTES = 16 << 20
_COMPILED_FUNCTIONS = ("train_function", "test_function", "predict_function")
_OBJECTS = (
    keras.layers.Layer,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.random.SeedGenerator,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
    keras.callbacks.Callback,
    keras.callbacks.CallbackList,
    keras.Variable,
    types.SimpleNamespace,
    *internals.TRACKING_TYPES,
)


class Snapshot:
    """The state of a model, its optimizer and callbacks at one moment.

    Values of variables are kept on their device. TensorFlow shares the memory of a variable with what was read from it
    until the variable is written, so taking a snapshot copies nothing; training then costs one more copy of every
    variable it writes (`size_bytes` at most), as long as the snapshot lives.

    Kept and put back are:

    - weights, optimizer variables (iterations and learning rate among them, inside `LossScaleOptimizer` too), metrics,
      seed generators and any `tf.Variable`, `tf.random.Generator`, NumPy or Python generator that a layer, loss,
      metric, optimizer or callback holds; under `tf.distribute` the value of every replica;
    - the attributes of those objects, with the contents of lists, dicts, sets and arrays in them: `stop_training`,
      compiled functions, the counters of `EarlyStopping`, an optimizer's learning-rate schedule. What was not built is
      not built again afterwards, and will be built from the same random numbers;
    - Keras' global seed generator and that of `tf.random.get_global_generator`.

    The same holds for the objects of this package that an accelerated model holds: its accumulated gradients, counters.
    Objects of other classes (files, writers, a class of the caller's own that is no dataclass) are kept by reference,
    and so are arrays above 16 MiB: what is written into one stays written.

    Example:
        >>> bias = model.get_layer("classes").bias
        >>> before = bias.numpy()
        >>> with kopt.train.preserved(model) as snapshot:
        ...     changed = bias.assign_add(np.ones(10))
        ...     snapshot.restore()  # back to the start, and the block goes on
        ...     bool(np.all(bias.numpy() == before))
        True
    """

    def __init__(self, model: keras.Model, optimizer: Any = None, callbacks: Iterable[Any] = ()):
        """Take the snapshot; see `preserved` for the arguments."""
        if not tf.executing_eagerly():
            raise InputError("The state of a model cannot be kept inside a `tf.function`. Call it outside.")
        self._seed_generator = internals.global_seed_generator()
        self._generator = internals.global_generator()
        walk = _Walk()
        walk.visit((model, optimizer, tuple(callbacks), self._seed_generator, self._generator))
        self._restorers, self.size_bytes = walk.restorers, walk.size_bytes

    def restore(self) -> None:
        """Put everything back; may be called again and again."""
        for restore in self._restorers:
            restore()
        internals.set_global_seed_generator(self._seed_generator)
        tf.random.set_global_generator(self._generator)


@contextlib.contextmanager
def preserved(model: keras.Model, optimizer: Any = None, callbacks: Iterable[Any] = ()) -> Iterator[Snapshot]:
    """Leave a model exactly as it was, whatever is trained inside the block.

    Use it to try something on the user's own model: a range of learning rates, a batch size, a compiler option. Also
    what Python's, NumPy's, Keras' and TensorFlow's generators draw next is as if the block had not been. An exception
    or a keyboard interrupt that leaves the block restores as well.

    Functions that Keras compiled for the model are set aside, so that `fit` and `train_on_batch` trace anew inside the
    block and what they traced is thrown away. Eager random operations of TensorFlow draw other numbers inside the block
    than they would have outside. One thing cannot be read, and so not be put back: how far a random operation with an
    explicit seed has come that runs eagerly, such as `tf.random.uniform((2,), seed=1)`.

    Args:
        model: built or not, compiled or not.
        optimizer: the one of a custom loop; that of `compile` is found without.
        callbacks: `keras.callbacks.Callback` objects whose state is to be kept too.

    Yields:
        The snapshot. Its `restore` goes back to the start from within the block; its `size_bytes` is the memory that
        it holds on to once everything was written.

    Raises:
        InputError: inside a `tf.function`.

    Example:
        >>> before = model.get_weights()
        >>> with kopt.train.preserved(model):
        ...     history = model.fit(x_train, y_train, verbose=0)  # forgotten afterwards
        >>> all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
        True
    """
    snapshot = Snapshot(model, optimizer, callbacks)
    with preserved_random_state(), internals.separate_eager_seeds():
        try:
            for name in _COMPILED_FUNCTIONS:
                setattr(model, name, None)
            yield snapshot
        finally:
            snapshot.restore()


class _Walk:
    """Visits everything below some objects, each once, and collects what puts it back."""

    def __init__(self) -> None:
        self.restorers: list[Callable[[], Any]] = []
        self.size_bytes = 0
        self._seen: dict[int, Any] = {}  # Holds the objects, so that no identity is given away twice.

    def visit(self, root: Any) -> None:
        pending = [root]
        while pending:
            value = pending.pop()
            if isinstance(value, (str, bytes, int, float, type(None), type, types.FunctionType)):
                continue
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                pending.extend(self._keep(value))

    def _keep(self, value: Any) -> Iterable[Any]:
        """Remember how to put `value` back and return what it holds."""
        if isinstance(value, tf.Variable):
            return self._keep_variable(value)
        if isinstance(value, tf.random.Generator):
            return (value.state,)
        if isinstance(value, np.ndarray):
            return self._keep_array(value)
        if isinstance(value, (random.Random, np.random.RandomState, np.random.Generator)):
            self.restorers.append(_generator_restorer(value))
            return ()
        return (*self._keep_items(value), *self._keep_attributes(value))

    def _keep_variable(self, variable: Any) -> Iterable[Any]:
        replicas = variable.values if isinstance(variable, tf.distribute.DistributedValues) else (variable,)
        for component in replicas:
            value = component.read_value()
            self.size_bytes += 0 if value.dtype == tf.string else value.dtype.size * value.shape.num_elements()
            self.restorers.append(functools.partial(component.assign, value))
        return ()

    def _keep_array(self, array: Any) -> Iterable[Any]:
        if array.flags.writeable and array.nbytes <= LARGEST_COPIED_BYTES:
            self.restorers.append(functools.partial(np.copyto, array, array.copy()))
        return array.flat if array.dtype == object else ()

    def _keep_items(self, value: Any) -> Iterable[Any]:
        container = internals.wrapped_dict(value)
        value = value if container is None else container
        if isinstance(value, tuple):
            return value
        for kind, fill in _FILLERS.items():
            # The type, because TensorFlow's stand-in for a list keeps its items in an attribute, not in itself.
            if issubclass(type(value), kind) and not isinstance(value, internals.TRACKING_TYPES):
                saved = kind(value)
                self.restorers.append(functools.partial(fill, value, saved))
                return saved.values() if isinstance(saved, dict) else saved
        return ()

    def _keep_attributes(self, value: Any) -> Iterable[Any]:
        is_data = isinstance(value, (*_OBJECTS, list, dict, set, deque)) or dataclasses.is_dataclass(value)
        is_data = is_data or type(value).__module__.startswith("kopt.")
        if not is_data or not hasattr(value, "__dict__"):
            return ()
        attributes = vars(value)
        saved = dict(attributes)

        def restore() -> None:
            for name in attributes.keys() - saved.keys():
                del attributes[name]
            attributes.update(saved)

        self.restorers.append(restore)
        return saved.values()


# How to fill a container in place, past what subclasses do when they are changed.
def _fill_list(target: list[Any], saved: list[Any]) -> None:
    list.__setitem__(target, slice(None), saved)


def _fill_dict(target: dict[Any, Any], saved: dict[Any, Any]) -> None:
    dict.clear(target)
    dict.update(target, saved)


def _fill_ordered(target: OrderedDict[Any, Any], saved: OrderedDict[Any, Any]) -> None:
    OrderedDict.clear(target)
    for key, value in saved.items():
        OrderedDict.__setitem__(target, key, value)


def _fill_set(target: set[Any], saved: set[Any]) -> None:
    set.clear(target)
    set.update(target, saved)


def _fill_deque(target: deque[Any], saved: deque[Any]) -> None:
    target.clear()
    target.extend(saved)


_FILLERS: dict[type, Callable[[Any, Any], None]] = {
    list: _fill_list,
    OrderedDict: _fill_ordered,  # Before `dict`, whose methods would leave the order of this subclass behind.
    dict: _fill_dict,
    set: _fill_set,
    deque: _fill_deque,
}


def _generator_restorer(generator: Any) -> Callable[[], Any]:
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return functools.partial(generator.set_state, generator.get_state())
    return functools.partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
