"""How large the outputs of layers are: a forward pass, layer by layer, that keeps what is still needed only."""

import collections
import inspect
from typing import Any

import keras
import numpy as np

from kopt.graph import GraphView


def output_deviations(view: GraphView, inputs: list[Any]) -> dict[str, float]:
    """Return the standard deviation of the first output of every layer, by path, in inference.

    Args:
        view: of the model.
        inputs: arrays in the order of `view.inputs`.
    """
    found: dict[str, float] = {}
    _run(view, inputs, "", found)
    return found


def _run(view: GraphView, inputs: list[Any], prefix: str, found: dict[str, float]) -> Any:
    """Compute a model's outputs and note the deviations of its layers; those of later calls are not noted."""
    values: dict[int, Any] = {id(symbol): value for symbol, value in zip(view.inputs, inputs, strict=True)}
    uses = collections.Counter(id(tensor) for call in view.calls for tensor in call.inputs)
    uses.update(id(tensor) for tensor in view.outputs)
    for call in view.calls:
        path = f"{prefix}{call.operation.name}"
        args, kwargs = keras.tree.map_structure(
            lambda value: values[id(value)] if isinstance(value, keras.KerasTensor) else value, call.arguments
        )
        if call.nested is not None:
            results = keras.tree.flatten(_run(call.nested, keras.tree.flatten(args), f"{path}/", found))
        else:
            results = keras.tree.flatten(_infer(call.operation, args, kwargs))
            found.setdefault(path, float(np.std(keras.ops.convert_to_numpy(results[0]).astype(np.float64))))
        values.update({id(symbol): result for symbol, result in zip(call.outputs, results, strict=True)})
        for tensor in call.inputs:
            uses[id(tensor)] -= 1
            if not uses[id(tensor)]:
                values.pop(id(tensor), None)
    return keras.tree.map_structure(lambda symbol: values[id(symbol)], view.output_structure)


def _infer(operation: keras.Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an operation as a model in inference does; augmentation layers called alone are in training."""
    kwargs = {key: value for key, value in kwargs.items() if key != "training"}
    if "training" in inspect.signature(operation.call).parameters:
        kwargs["training"] = False
    return operation(*args, **kwargs)
