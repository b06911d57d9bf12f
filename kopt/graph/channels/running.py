"""Running a model call by call, to see what goes through each of them."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import keras

from kopt.graph.channels.graph import ChannelGraph, Flow
from kopt.graph.view import GraphView

# Called with a flow, the tensors that its call takes and those that it gives.
Look = Callable[[Flow, Sequence[Any], Sequence[Any]], None]


def run(model: keras.Model, graph: ChannelGraph, inputs: Any, look: Look) -> list[Any]:
    """Return the outputs of a model in inference, and show the tensors of every call on the way.

    Args:
        model: the one that `graph` is of.
        graph: its channels.
        inputs: one batch of tensors or arrays, as the model takes them.
        look: called once for every call, also inside nested models, in order.
    """
    flows: dict[str, deque[Flow]] = {}
    for flow in graph.flows:
        flows.setdefault(flow.path, deque()).append(flow)
    view, given = GraphView.of(model), keras.tree.flatten(inputs)
    tensors = [keras.ops.convert_to_tensor(x, tensor.dtype) for x, tensor in zip(given, view.inputs, strict=True)]
    return _run(view, tensors, "", flows, look)


def _run(view: GraphView, inputs: Sequence[Any], prefix: str, flows: dict[str, deque[Flow]], look: Look) -> list[Any]:
    values = {id(tensor): value for tensor, value in zip(view.inputs, inputs, strict=True)}

    def current(leaf: Any) -> Any:
        return values[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    for call in view.calls:
        path, taken = f"{prefix}{call.operation.name}", [values[id(tensor)] for tensor in call.inputs]
        if call.nested is not None and len(taken) == len(call.nested.inputs):
            given = _run(call.nested, taken, f"{path}/", flows, look)
        else:
            args, kwargs = keras.tree.map_structure(current, call.arguments)
            # Keras records the default of `training`.
            kwargs = {key: value for key, value in kwargs.items() if key != "training" or value is True}
            given = keras.tree.flatten(call.operation(*args, **kwargs))
            if waiting := flows.get(path):
                look(waiting.popleft(), taken, given)
        values.update({id(tensor): value for tensor, value in zip(call.outputs, given, strict=True)})
    return [values[id(tensor)] for tensor in view.outputs]
