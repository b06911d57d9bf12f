"""Running a model and seeing what goes through its channels."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import keras

from kopt.graph import running
from kopt.graph.channels.graph import ChannelGraph, Flow
from kopt.graph.view import Call, GraphView

# Called with a flow, the tensors that its call takes and those that it gives.
Look = Callable[[Flow, Sequence[Any], Sequence[Any]], None]


def run(model: keras.Model, graph: ChannelGraph, inputs: Sequence[Any], look: Look) -> list[Any]:
    """Return the outputs of a model in inference, flattened, and show the tensors of every flow on the way.

    Args:
        model: the one that `graph` is of.
        graph: its channels.
        inputs: one batch of arrays or tensors in the order of the model's inputs.
        look: called after the call of every flow, in order.
    """
    flows: dict[str, deque[Flow]] = {}
    for flow in graph.flows:
        flows.setdefault(flow.path, deque()).append(flow)

    def show(path: str, call: Call, taken: Sequence[Any], given: Sequence[Any]) -> None:
        if waiting := flows.get(path):  # A model that is called with masks is not followed inside.
            look(waiting.popleft(), taken, given)

    view = GraphView.of(model)
    tensors = [keras.ops.convert_to_tensor(x, tensor.dtype) for x, tensor in zip(inputs, view.inputs, strict=True)]
    return running.run(view, tensors, show)
