"""The parts of Keras 3.15 that the public API does not give; the only file that touches them.

`tests/unit/graph/test_graph_internals.py` fails when a Keras release changes one of them.
"""

import contextlib
import copy
import functools
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src import activations
from keras.src.models.functional import Functional
from keras.src.saving.serialization_lib import SafeModeScope

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, functools.partial)
# One thread at a time gives functions names.
_KEEPING = threading.RLock()
# What `keras.layers.Lambda` asks for the entries of its config.
_NAMING = "_serialize_function_to_config"

FunctionalModel = Functional


def graph_of(model: keras.Model) -> keras.Model | None:
    """Return the Functional model that `model` is or wraps; `None` if its `call` is Python code."""
    if isinstance(model, keras.Sequential):
        return model._functional if type(model).call is keras.Sequential.call else None
    if isinstance(model, Functional):
        return model if type(model).call is Functional.call else None
    return None


def own_training(model: keras.Model) -> tuple[str, ...]:
    """Return what a user's class says about training in place of Keras: names of its methods, e.g. `"train_step"`."""
    names = ("train_step", "test_step", "compute_loss", "compute_metrics", "fit", "compile")
    kinds = [next(kind for kind in type(model).__mro__ if name in vars(kind)) for name in names]
    return tuple(
        name
        for name, kind in zip(names, kinds, strict=True)
        if kind.__module__.partition(".")[0] not in ("keras", "kopt")
    )


def node_of(tensor: keras.KerasTensor) -> Any:
    """Return the call that produced `tensor`: an object with `operation`, `arguments`, `outputs` and `is_input`."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def call_arguments(node: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that `node` was recorded with."""
    return node.arguments.args, node.arguments.kwargs


def mask_of(tensor: keras.KerasTensor) -> Any:
    """Return the mask that Keras attached to `tensor`, or `None`."""
    return getattr(tensor, "_keras_mask", None)


@contextlib.contextmanager
def plain_argmax() -> Iterator[None]:
    """Trace `keras.ops.argmax` and `argmin` as the operators themselves, which runtimes have.

    Keras tells -0.0 from 0.0 by the bits of a number, for which TFLite and ONNX have no operator.
    """
    backend = keras.src.backend.numpy
    originals = {name: getattr(backend, name) for name in ("argmax", "argmin")}

    def traced(name: str) -> Any:
        def find(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
            x = tf.convert_to_tensor(x)
            if not x.dtype.is_floating or not x.shape.rank:
                return originals[name](x, axis=axis, keepdims=keepdims)
            found = getattr(tf, name)(tf.reshape(x, [-1]) if axis is None else x, axis=axis or 0, output_type=tf.int32)
            if not keepdims:
                return found
            return tf.reshape(found, [1] * x.shape.rank) if axis is None else tf.expand_dims(found, axis)

        return find

    for name in originals:
        setattr(backend, name, traced(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(backend, name, original)


def copy_stateless(operation: keras.Operation) -> keras.Operation:
    """Return `operation` (a `keras.ops` node, which holds no variables) without the calls recorded on it."""
    twin = copy.copy(operation)
    twin._inbound_nodes = []
    twin._outbound_nodes = []
    return twin


class CountsOwnLayers:
    """Mixin of a `keras.Sequential`: layers that are its attributes are parts of it, as they are of any other model."""

    def attribute_layers(self) -> tuple[keras.layers.Layer, ...]:
        """Return the layers that are attributes, not calls."""
        raise NotImplementedError

    @property
    def variables(self) -> list[Any]:
        """All state, that of the attributes last."""
        return [*super().variables, *(one for layer in self.attribute_layers() for one in layer.variables)]  # type: ignore[misc]

    @property
    def weights(self) -> list[Any]:
        """All weights, those of the attributes last."""
        return [*super().weights, *(one for layer in self.attribute_layers() for one in layer.weights)]  # type: ignore[misc]


def flatten_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return `layer` and all layers inside it, parents first."""
    found = list(layer._flatten_layers())
    return [*found, *(own for one in found if isinstance(one, CountsOwnLayers) for own in one.attribute_layers())]


def inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers directly inside `layer`."""
    own = layer.attribute_layers() if isinstance(layer, CountsOwnLayers) else ()
    return [*layer._flatten_layers(include_self=False, recursive=False), *own]


def takes_training(layer: keras.layers.Layer) -> bool:
    """Return whether the `call` of `layer` has an argument `training`."""
    return bool(layer._call_has_training_arg)


def own_variables(layer: keras.layers.Layer) -> list[Any]:
    """Return the variables that `layer` itself holds, those of the layers inside it not among them."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def declared_trainable(layer: keras.layers.Layer) -> list[Any]:
    """Return the variables of `layer` itself that training changes unless it is frozen."""
    return list(layer._trainable_variables)


def mark_called(model: keras.Model) -> None:
    """Let a copy of a called model that has its variables count as called, too."""
    model.built = True
    model._called = True


def was_called(model: keras.Model) -> bool:
    """Return whether a model whose `call` is Python code ran at least once, symbolically or on data."""
    return bool(model._called)


def safe_mode_scope(safe_mode: bool) -> contextlib.AbstractContextManager[None]:
    """Return a context in which stored Python code is refused (`True`) or run (`False`), for this thread only."""
    return SafeModeScope(safe_mode)


def allow_depth(layers: int) -> None:
    """Raise Python's recursion limit, if need be, for a graph of so many layers: Keras follows their chain that way."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 2 * layers + 1000))


@contextlib.contextmanager
def serializing_in_memory() -> Iterator[None]:
    """Silence Keras' warning that a lambda in a saved file is unsafe to reload: in this context no file is saved."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
        yield


@contextlib.contextmanager
def functions_kept(layer: keras.layers.Layer) -> Iterator[None]:
    """Let copies of `layer` that are made of its config have the functions themselves that the layers inside it have.

    Those are functions of `Lambda`, and activations that are not of Keras. Keras makes them of byte code, without what
    they refer to, or of registered names. Here a config has a name for each that is known in this context: it is for
    copies in memory, not for files, which other threads may write meanwhile.
    """
    with _KEEPING:
        yield from _functions_kept(layer, threading.get_ident())


def _functions_kept(layer: keras.layers.Layer, thread: int) -> Iterator[None]:
    inside = flatten_layers(layer)
    lambdas = [
        one
        for one in inside
        if isinstance(one, keras.layers.Lambda) and _NAMING not in vars(one)  # it is there in an outer context
    ]
    ends = [getattr(one, name, None) for one in inside for name in ("activation", "recurrent_activation")]
    found = [getattr(one, name) for one in lambdas for name in ("function", "_output_shape")]
    found += [one for one in ends if isinstance(one, _FUNCTIONS) and not _is_of_keras(one)]
    functions = {f"kopt>{id(one)}": one for one in found if callable(one)}
    known = keras.saving.get_custom_objects()
    added = functions.keys() - known.keys()
    serialize = activations.serialize

    def name_of(function: Any) -> Any:
        name = f"kopt>{id(function)}"
        return name if name in functions else function  # a mask: `Lambda.from_config` takes it as it is

    def config_of(function: Any) -> Any:
        name = name_of(function)
        if name is function or threading.get_ident() != thread:
            return serialize(function)
        return {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}

    known.update(functions)
    activations.serialize = config_of
    for one in lambdas:
        object.__setattr__(one, _NAMING, name_of)
    try:
        yield
    finally:
        for one in lambdas:
            object.__delattr__(one, _NAMING)
        activations.serialize = serialize
        for name in added:
            del known[name]


def _is_of_keras(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("keras.")


@contextlib.contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Let a built layer take further layers as attributes."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


@contextlib.contextmanager
def losses_kept(model: keras.Model) -> Iterator[None]:
    """Leave the losses that the last call of `model` added as they were: every call of a layer clears them."""
    layers = flatten_layers(model)
    before = [(list(layer._losses), set(layer._loss_ids)) for layer in layers]
    try:
        yield
    finally:
        for layer, (losses, ids) in zip(layers, before, strict=True):
            layer._losses[:] = losses
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)
