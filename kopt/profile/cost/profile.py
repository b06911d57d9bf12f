"""A model's layers with their shapes, parameters and multiply-accumulates."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from kopt.core.records import LayerCost, ModelProfile
from kopt.data import calibration
from kopt.graph import Call, GraphView, require_built, signature
from kopt.graph.internals import flatten_layers, graph_of
from kopt.profile.costs import Shape, layer_macs


def model(model: keras.Model, data: Any = None) -> ModelProfile:
    """Return what every layer of a model costs for one example.

    Use it to see where parameters and arithmetic are before deciding what to shrink.

    Args:
        model: built Keras 3 model. Layers inside nested models are listed as `"<model>/<layer>"`. A shared layer is
            listed once a call, with its parameters at the first. A model whose `call` is Python code has no graph:
            its layers are listed with parameters only.
        data: arrays or a data set as for `kopt.data.calibration`; its shape stands in where the model accepts any
            size, e.g. sequences of any length.

    Returns:
        Record with `macs` `None` at layers without a formula, or whose count depends on a size that is not known.

    Raises:
        InputError: the model is not built.
        DataError: `data` does not fit the model.
    """
    require_built(model)
    seen: set[int] = set()
    if graph_of(model) is None:
        layers = tuple(_without_graph(model, seen))
    else:
        view = GraphView.of(model)
        layers = tuple(_costs(view, _input_shapes(model, view, data), "", seen))
    return ModelProfile(
        model=model.name,
        layers=layers,
        parameters=_size(model.weights),
        trainable_parameters=_size(model.trainable_weights),
    )


def _input_shapes(model: keras.Model, view: GraphView, data: Any) -> tuple[Shape, ...]:
    if data is None:
        return tuple(tuple(tensor.shape) for tensor in view.inputs)
    inputs, _ = signature(model)
    example = calibration(data, samples=1, inputs=inputs)
    return tuple((None, *example[info.name].shape[1:]) for info in inputs)


def _costs(view: GraphView, inputs: tuple[Shape, ...], prefix: str, seen: set[int]) -> Iterator[LayerCost]:
    """Yield the cost of every call; `seen` holds the variables that are counted already."""
    shapes = _shapes(view, inputs)
    calls: dict[int, int] = {}
    for call in view.calls:
        number = calls[id(call.operation)] = calls.get(id(call.operation), 0) + 1
        path = f"{prefix}{call.operation.name}" + (f" (call {number})" if number > 1 else "")
        if call.nested is not None:
            yield from _costs(call.nested, tuple(shapes[id(tensor)] for tensor in call.inputs), f"{path}/", seen)
            continue
        output = shapes[id(call.outputs[0])]
        yield LayerCost(
            name=path,
            type=type(call.operation).__name__,
            output_shape=output,
            parameters=_size(_new_variables(call.operation, seen)),
            macs=_macs(call, shapes, output),
        )


def _shapes(view: GraphView, inputs: tuple[Shape, ...]) -> dict[int, Shape]:
    """Return the shape of every tensor in the graph, by the tensor's id, when its inputs have the shapes `inputs`."""
    shapes = {id(tensor): shape for tensor, shape in zip(view.inputs, inputs, strict=True)}
    as_recorded = all(tuple(tensor.shape) == shape for tensor, shape in zip(view.inputs, inputs, strict=True))

    def resized(leaf: Any) -> Any:
        return keras.KerasTensor(shapes[id(leaf)], leaf.dtype) if isinstance(leaf, keras.KerasTensor) else leaf

    for call in view.calls:
        outputs: Iterable[Any] = call.outputs
        if not as_recorded:
            args, kwargs = keras.tree.map_structure(resized, call.arguments)
            outputs = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
        shapes.update({id(old): tuple(new.shape) for old, new in zip(call.outputs, outputs, strict=True)})
    return shapes


def _macs(call: Call, shapes: dict[int, Shape], output: Shape) -> int | None:
    operation = call.operation
    if not type(operation).__module__.startswith("keras."):
        return None  # A user's class may bear the name of a Keras layer and do something else.
    config = operation.get_config() if isinstance(operation, keras.layers.Layer) else {}
    tensors: Iterable[keras.KerasTensor] = call.inputs
    if isinstance(operation, keras.layers.MultiHeadAttention):
        tensors = _query_value_key(call)
    return layer_macs(type(operation).__name__, config, tuple(shapes[id(tensor)] for tensor in tensors), output)


def _query_value_key(call: Call) -> tuple[keras.KerasTensor, ...]:
    args, kwargs = call.arguments
    given = {**dict(zip(("query", "value", "key"), args, strict=False)), **kwargs}
    key = given.get("key")
    return given["query"], given["value"], given["value"] if key is None else key


def _without_graph(model: keras.Model, seen: set[int]) -> Iterator[LayerCost]:
    """Yield the layers that hold no others, then what the composite ones hold themselves."""
    inside = flatten_layers(model)
    leaves = [layer for layer in inside if len(flatten_layers(layer)) == 1]
    for layer in leaves:
        yield LayerCost(layer.name, type(layer).__name__, (), _size(_new_variables(layer, seen)), None)
    for layer in reversed(inside):  # Parents come first in `inside`; the innermost holder counts a variable.
        if own := _new_variables(layer, seen):
            yield LayerCost(layer.name, type(layer).__name__, (), _size(own), None)


def _new_variables(operation: keras.Operation, seen: set[int]) -> list[Any]:
    """Return the variables of `operation` that are not in `seen`, and add them to it."""
    new = [variable for variable in getattr(operation, "weights", ()) if id(variable) not in seen]
    seen.update(id(variable) for variable in new)
    return new


def _size(variables: Iterable[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)
