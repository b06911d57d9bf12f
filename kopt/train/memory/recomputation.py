"""One function whose inside is computed again in the backward pass instead of being kept for it."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import UnsupportedModelError
from kopt.train.interception import open_recordings
from kopt.train.internals import (
    call_state,
    copy_mask,
    is_initialized,
    loss_owner,
    restored_call_state,
    stored_value,
)


def recomputed(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    layers: Iterable[keras.layers.Layer] = (),
    name: str = "block",
) -> Any:
    """Return `function(*arguments)`, with nothing but the arguments kept for its gradient.

    For a function that calls Keras layers, inside a `GradientTape`. It runs twice: now, and in the backward pass, once
    the gradient of its result is known. Variables are read once, before anything in it changes them, and both runs see
    those values, so that dropout draws the same masks; what the first run assigns (batch statistics, seeds) is
    assigned once, what the second one assigns is dropped. Losses that layers add are added once and have gradients.

    The second run starts from arguments that depend, for the runtime and for XLA, on the gradient that arrives. So
    neither can merge the two runs or start the second one early, and the memory is free in between. What is noted of
    its inside (`kopt.train.interception.Recorder`) is kept as its results are.

    Args:
        function: called with `arguments`; tensors reach it through these and through Keras variables only.
        arguments: nested lists, tuples and dicts of tensors; anything else in them is passed as it is.
        layers: those that `function` may call, to give an added loss back to the one that added it.
        name: how an error message calls the function.

    Raises:
        UnsupportedModelError: the second run reads variables that the first one did not.

    References:
        Chen, Xu, Zhang, Guestrin: Training deep nets with sublinear memory cost (arXiv:1604.06174).
    """
    recordings = open_recordings()

    def noted(*values: Any) -> tuple[Any, list[dict[str, Any]]]:
        with contextlib.ExitStack() as stack:
            notes = [stack.enter_context(recorder.recording()) for recorder, _ in recordings]
            return function(*values), notes

    outputs, notes = _recomputed(noted, arguments, layers, name)
    for (_, found), more in zip(recordings, notes, strict=True):
        found.update(more)
    return outputs


def _recomputed(
    function: Callable[..., Any], arguments: tuple[Any, ...], layers: Iterable[keras.layers.Layer], name: str
) -> Any:
    state, leaves = call_state(), tf.nest.flatten(arguments, expand_composites=True)
    first = _Variables()
    with first:
        outputs = function(*_replaced(arguments, [_stopped(leaf) for leaf in leaves]))
    first.assign_updates()
    trained = [read for variable, read in first.reads if variable.trainable]
    sources = [*(leaf for leaf in leaves if _differentiable(leaf)), *trained]
    results = [leaf for leaf in _leaves(outputs, first.losses) if _differentiable(leaf)]
    if not sources or not results:
        _give_back(first.losses, first.losses, layers)
        return outputs

    def again(*upstream: Any) -> list[Any]:
        never = _never(upstream)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            fresh = [_tied(leaf, never) for leaf in leaves]
            second = _Variables([(v, read if v.trainable else _tied(read, never)) for v, read in first.reads], name)
            watched = [*(leaf for leaf in fresh if _differentiable(leaf)), *second.trained]
            tape.watch(watched)
            with second, restored_call_state(state):
                repeated = function(*_replaced(arguments, fresh))
            targets = [leaf for leaf in _leaves(repeated, second.losses) if _differentiable(leaf)]
        return tape.gradient(targets, watched, output_gradients=[tf.convert_to_tensor(one) for one in upstream])

    def attach(*_: Any) -> tuple[list[Any], Callable[..., list[Any]]]:
        return [tf.identity(result) for result in results], again

    attached = iter(tf.custom_gradient(attach)(*sources))
    tracked = [next(attached) if _differentiable(leaf) else leaf for leaf in _leaves(outputs, first.losses)]
    split = len(tracked) - len(first.losses)
    _give_back(first.losses, tracked[split:], layers)
    return _replaced(outputs, tracked[:split])


class _Variables(keras.StatelessScope):
    """Inside it variables have the values they had when first read, and keep them; what is assigned is noted.

    Attributes:
        reads: every variable that was read, with the tensor that was read.
    """

    def __init__(self, given: list[tuple[keras.Variable, Any]] | None = None, name: str = ""):
        super().__init__(collect_losses=True)
        self.reads = list(given or ())
        self._first, self._name = given is None, name
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self._updates: dict[int, tuple[keras.Variable, Any]] = {}
        if given is not None:
            # A tensor of its own for each: two variables may hold one tensor, and their gradients differ.
            self.reads = [(variable, tf.identity(value)) for variable, value in given]
            self.state_mapping.update({id(variable): value for variable, value in self.reads})

    @property
    def trained(self) -> list[Any]:
        return [value for variable, value in self.reads if variable.trainable]

    def get_current_value(self, variable: keras.Variable) -> Any:
        value = super().get_current_value(variable)
        if value is None:
            value = self._read(variable)
        return value

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, value = update
        if not self._in_block:
            raise UnsupportedModelError(
                f"The variable {variable.path!r} is assigned inside a loop or branch of a rematerialized block, as "
                f"dropout in a recurrent cell does. Leave that layer out of `blocks`."
            )
        before = self.get_current_value(variable)
        # A variable that was assigned has no gradient to what it was computed from, and still one of its own.
        value = tf.stop_gradient(value)
        if variable.trainable and not self._first:
            value = tf.grad_pass_through(lambda _: value)(before)
        super().add_update((variable, value))
        self._updates[id(variable)] = (variable, value)

    def assign_updates(self) -> None:
        for variable, value in self._updates.values():
            variable.assign(value)

    def _read(self, variable: keras.Variable) -> Any:
        if not self._first:
            raise UnsupportedModelError(
                f"{self._name!r} reads the variable {variable.path!r} when it is computed again, but did not when it "
                f"was computed first. Its `call` must do the same each time; leave it out of `blocks` if it cannot."
            )
        if not is_initialized(variable):
            # Keras' global seed generator, made by this very call: it gets its value where the scope ends.
            self.__exit__()
            self.__enter__()
        # A loop or branch may be the first to read it; all of the block, and its gradient, need the value.
        with self._outside_loops():
            outer = self.original_scope
            value = None if outer is None else outer.get_current_value(variable)
            value = stored_value(variable) if value is None else value
            self.reads.append((variable, value))
            self.state_mapping[id(variable)] = tf.stop_gradient(value)
        return self.state_mapping[id(variable)]

    def _outside_loops(self) -> contextlib.AbstractContextManager[Any]:
        if self._in_block:
            return contextlib.nullcontext()
        if self._graph is None:
            raise UnsupportedModelError(
                "A layer in a rematerialized block has a `tf.function` of its own. Call the model in a `tf.function`, "
                "as `fit` does, and not with `run_eagerly=True`."
            )
        return self._graph.as_default()

    @property
    def _in_block(self) -> bool:
        return tf.executing_eagerly() if self._graph is None else tf.compat.v1.get_default_graph() is self._graph


def _leaves(outputs: Any, losses: list[Any]) -> list[Any]:
    return [*tf.nest.flatten(outputs, expand_composites=True), *losses]


def _differentiable(leaf: Any) -> bool:
    return tf.is_tensor(leaf) and (leaf.dtype.is_floating or leaf.dtype.is_complex)


def _replaced(structure: Any, leaves: list[Any]) -> Any:
    """Return `structure` with other leaves, each with the Keras mask of the one it takes the place of."""
    for old, new in zip(tf.nest.flatten(structure, expand_composites=True), leaves, strict=True):
        if tf.is_tensor(old) and new is not old:
            copy_mask(old, new)
    return tf.nest.pack_sequence_as(structure, leaves, expand_composites=True)


def _stopped(leaf: Any) -> Any:
    return tf.stop_gradient(leaf) if tf.is_tensor(leaf) else leaf


def _never(upstream: Iterable[Any]) -> Any:
    """Return a boolean that is always false, but known only once all of `upstream` is.

    No number is both NaN and infinite; no compiler looks for that, and the value of the gradients does not matter.
    """
    firsts = [tf.cast(tf.reshape(tf.math.real(one), [-1])[:1], tf.float32) for one in upstream]
    return tf.reduce_any(tf.stack([tf.reduce_any(tf.math.is_nan(one) & tf.math.is_inf(one)) for one in firsts]))


def _tied(leaf: Any, never: Any) -> Any:
    """Return `leaf`, bit for bit, as something that depends on `never`."""
    if not tf.is_tensor(leaf):
        return leaf
    if leaf.dtype == tf.bool:
        return leaf | never
    if leaf.dtype.is_floating or leaf.dtype.is_complex or leaf.dtype.is_integer:
        return leaf + tf.cast(never, leaf.dtype)
    with tf.control_dependencies([never]):  # Text, which XLA does not compile.
        return tf.identity(leaf)


def _give_back(own: list[Any], losses: list[Any], layers: Iterable[keras.layers.Layer]) -> None:
    """Add `losses` to the layers that added `own` to the scope."""
    candidates = list(layers)
    for mine, loss in zip(own, losses, strict=True):
        owner = loss_owner(candidates, mine)
        if owner is None:
            raise UnsupportedModelError(
                "A loss was added inside a rematerialized block by a layer that is no part of the model. Assign the "
                "layer to an attribute of the model, so that Keras tracks it."
            )
        owner.add_loss(loss)
