"""What happens inside a layer or model whose `call` is Python code: it is traced once, and its layers are watched."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from kopt.core.randomness import preserved_random_state
from kopt.graph.internals import flatten_layers, graph_of, inner_layers
from kopt.profile.cost.memory import item_bytes
from kopt.profile.cost.operands import operand_shapes
from kopt.profile.cost.shapes import Shape, product
from kopt.profile.cost.traced import Arithmetic, arithmetic, needed
from kopt.train.interception import replaced
from kopt.train.snapshot import Snapshot


@dataclasses.dataclass
class WatchedCall:
    """One call of a layer.

    Attributes:
        layer: that is called.
        opened: its inner layers are listed by themselves, and `own` leaves them out.
        repeated: it stands in a loop or branch of TensorFlow, so that it is not known how often it runs.
        operands: shapes of what it computes on; see `operand_shapes`.
        outputs: shapes of what it gives.
        input_bytes, output_bytes: of all tensors it takes and gives; `None` where a size is open.
        own: arithmetic of the operations between its beginning and its end.
    """

    layer: keras.layers.Layer
    opened: bool
    repeated: bool = False
    operands: tuple[Shape, ...] = ()
    outputs: tuple[Shape, ...] = ()
    input_bytes: int | None = 0
    output_bytes: int | None = 0
    own: Arithmetic = dataclasses.field(default_factory=Arithmetic)
    span: tuple[int, int] = (0, 0)
    inside: list["WatchedCall"] = dataclasses.field(default_factory=list)


def opens(layer: keras.layers.Layer, closed: Iterable[str] = ()) -> bool:
    """Return whether the layers inside are worth more than a count of the whole: of a model, or a class of the user.

    Args:
        layer: to be opened or not.
        closed: names of classes that stay closed: there is a formula for them.
    """
    is_of_keras = type(layer).__module__.startswith("keras.")
    if type(layer).__name__ in closed or (is_of_keras and graph_of(layer) is None):
        return False
    return bool(inner_layers(layer))


def watch(
    operation: keras.Operation, args: tuple[Any, ...], kwargs: dict[str, Any], closed: Iterable[str] = ()
) -> list[WatchedCall]:
    """Return the calls inside one call of a layer, itself first, in the order in which they begin.

    Args:
        operation: layer, or operation of `keras.ops`, which has no calls inside.
        args: with `keras.KerasTensor` where data flows in; its shapes have no open batch.
        kwargs: the same by name.
        closed: see `opens`.
    """
    watcher = _Watcher(closed)
    leaves = keras.tree.flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, keras.KerasTensor)]

    def run(*tensors: tf.Tensor) -> Any:
        given = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        watcher.graph = tf.compat.v1.get_default_graph()
        positional, named = keras.tree.pack_sequence_as((args, kwargs), given)
        return operation(*positional, **named)

    specs = [tf.TensorSpec(leaves[place].shape, leaves[place].dtype) for place in places]
    layers = flatten_layers(operation) if isinstance(operation, keras.layers.Layer) else [operation]
    with contextlib.ExitStack() as stack:
        stack.enter_context(preserved_random_state())
        stack.callback(Snapshot(operation).restore)  # A layer forgets its losses when it is called.
        stack.enter_context(keras.StatelessScope())
        for layer in layers:
            stack.enter_context(replaced(layer, "call", watcher.recording(layer)))
        graph = tf.function(run, autograph=False).get_concrete_function(*specs).graph
    operations = graph.get_operations()
    used = {one.name for one in needed(graph.outputs, operations)}
    for call in watcher.calls:
        call.own = arithmetic(one for one in _own(call, operations) if one.name in used)
    return watcher.calls


def _own(call: WatchedCall, operations: list[Any]) -> Iterable[Any]:
    """Return the operations of a call without those of the calls inside it."""
    if call.repeated:
        return ()
    begin, end = call.span
    edges = [begin, *itertools.chain.from_iterable(inner.span for inner in call.inside if not inner.repeated), end]
    return itertools.chain.from_iterable(
        operations[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)
    )


class _Watcher:
    """Takes down which layer is called when, on what, and which operations it makes."""

    def __init__(self, closed: Iterable[str]):
        self.calls: list[WatchedCall] = []
        self.graph: Any = None
        self._closed, self._stack = tuple(closed), list[WatchedCall]()

    def recording(self, layer: Any) -> Callable[..., Any]:
        """Return the stand-in for the `call` of `layer`."""
        plain = layer.call

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._stack and not self._stack[-1].opened:
                return plain(*args, **kwargs)
            graph = tf.compat.v1.get_default_graph()
            is_layer = isinstance(layer, keras.layers.Layer)
            record = WatchedCall(layer, is_layer and opens(layer, self._closed), graph is not self.graph)
            record.operands = operand_shapes(layer, plain, args, kwargs)
            record.input_bytes = _bytes_of((args, kwargs))
            if self._stack:
                self._stack[-1].inside.append(record)
            self.calls.append(record)
            begin = len(graph.get_operations())
            self._stack.append(record)
            try:
                outputs = plain(*args, **kwargs)
            finally:
                self._stack.pop()
            record.span = (begin, len(graph.get_operations()))
            record.outputs = tuple(tuple(one.shape) for one in keras.tree.flatten(outputs) if hasattr(one, "shape"))
            record.output_bytes = _bytes_of(outputs)
            return outputs

        return call


def _bytes_of(structure: Any) -> int | None:
    tensors = {id(leaf): leaf for leaf in keras.tree.flatten(structure) if tf.is_tensor(leaf)}
    if any(not tensor.shape.is_fully_defined() for tensor in tensors.values()):
        return None
    return sum(product(tensor.shape) * item_bytes(tensor.dtype.name) for tensor in tensors.values())
