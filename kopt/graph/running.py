"""Running a model call by call, to see what goes through each of them."""

import collections
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras

from kopt.graph.view import Call, GraphView

# Called with the path of what is called, the call, the tensors that it takes and those that it gives.
Look = Callable[[str, Call, Sequence[Any], Sequence[Any]], None]
# Calls an operation with these arguments.
Infer = Callable[[keras.Operation, tuple[Any, ...], dict[str, Any]], Any]


def infer(operation: keras.Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an operation as a model in inference does; augmentation layers called alone are in training."""
    kwargs = {key: value for key, value in kwargs.items() if key != "training"}
    if "training" in inspect.signature(operation.call).parameters:
        kwargs["training"] = False
    return operation(*args, **kwargs)


def run(view: GraphView, inputs: Sequence[Any], look: Look, infer: Infer = infer) -> list[Any]:
    """Return the outputs of a model in inference, flattened, and show the tensors of every call on the way.

    Tensors are kept only as long as a later call takes them.

    Args:
        view: of the model.
        inputs: arrays or tensors in the order of `view.inputs`.
        look: called after every call, also those inside nested models, in order.
        infer: how operations are called. It may take and give something else than tensors, if `inputs` are that too.
    """
    return _run(view, inputs, "", look, infer)


def _run(view: GraphView, inputs: Sequence[Any], prefix: str, look: Look, infer: Infer) -> list[Any]:
    values: dict[int, Any] = {id(symbol): value for symbol, value in zip(view.inputs, inputs, strict=True)}
    uses = collections.Counter(id(tensor) for call in view.calls for tensor in call.inputs)
    uses.update(id(tensor) for tensor in view.outputs)
    for call in view.calls:
        path = f"{prefix}{call.operation.name}"
        args, kwargs = keras.tree.map_structure(
            lambda value: values[id(value)] if isinstance(value, keras.KerasTensor) else value, call.arguments
        )
        if call.nested is not None:
            results = _run(call.nested, keras.tree.flatten(args), f"{path}/", look, infer)
        else:
            results = keras.tree.flatten(infer(call.operation, args, kwargs))
            look(path, call, [values[id(tensor)] for tensor in call.inputs], results)
        values.update({id(symbol): result for symbol, result in zip(call.outputs, results, strict=True)})
        for tensor in call.inputs:
            uses[id(tensor)] -= 1
            if not uses[id(tensor)]:
                values.pop(id(tensor), None)
    return [values[id(symbol)] for symbol in view.outputs]
