"""A model's layers with their shapes, parameters, arithmetic and memory."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from kopt.core.cost_records import LayerCost, ModelProfile
from kopt.core.errors import ConfigError, nearest
from kopt.data import calibration
from kopt.graph import GraphView, layer_paths, require_built, signature
from kopt.graph.internals import flatten_layers, graph_of
from kopt.profile.cost.elementwise import layer_elementwise
from kopt.profile.cost.flat import FlatCall, flatten_calls
from kopt.profile.cost.macs import Shape, layer_macs, operation_macs
from kopt.profile.cost.memory import bytes_of, input_bytes_of, peak_activations, size_bytes, weight_bytes
from kopt.report.costs import COSTS
from kopt.report.look import Shown
from kopt.train.interception import replaced

Formulas = Mapping[str, Callable[[Any, tuple[Shape, ...], Shape], int | None]]


@dataclasses.dataclass(frozen=True)
class Profile(Shown, ModelProfile):
    """What `model` found, with ways to show it."""

    look = COSTS


def model(model: keras.Model, data: Any = None, *, formulas: Formulas | None = None) -> Profile:
    """Return what every layer of a model costs for one example.

    Use it to see where parameters, arithmetic and memory are before deciding what to shrink.

    Formula: `flops = 2 * macs + elementwise operations`, where a multiply-accumulate is a product with the addition
    that follows it; see `kopt.profile.cost.elementwise` for the rest.

    Args:
        model: built Keras 3 model. Layers inside nested models are listed as `"<model>/<layer>"`. A shared layer is
            listed once a call, with its parameters at the first. A model whose `call` is Python code has no graph:
            with `data` its layers are watched while it is called on symbols, without they have parameters only.
        data: arrays or a data set as for `kopt.data.calibration`; its shape stands in where the model accepts any
            size, e.g. sequences of any length.
        formulas: multiply-accumulates of layers that kopt does not know, by class name: functions of the layer, the
            shapes of its inputs and the shape of its first output, batch axis first, that return them for one example.

    Returns:
        Record with `.table(rows=20, sort="macs")` and `.plot(path)`. `macs` is `None` at layers without a formula, or
        whose count depends on a size that is not known, with the `reason`.

    Raises:
        InputError: the model is not built.
        DataError: `data` does not fit the model.
        ConfigError: a formula is of no layer of the model.

    Example:
        ```python
        costs = kopt.profile.model(model)
        print(costs.table(rows=10, sort="macs"))
        ```
    """
    require_built(model)
    _check_formulas(model, formulas)
    seen: set[int] = set()
    peak = None
    if graph_of(model) is None:
        watched = {} if data is None else _watched_calls(model, data)
        layers = tuple(_without_graph(model, watched, formulas or {}, seen))
    else:
        view = GraphView.of(model)
        shapes = _input_shapes(model, view, data)
        graph = flatten_calls(view, shapes)
        layers = tuple(_cost(call, formulas or {}, seen) for call in graph.calls)
        sizes = {
            key: size_bytes(shape, tensor.dtype)
            for key, shape, tensor in zip(graph.inputs, shapes, view.inputs, strict=True)
        }
        peak = peak_activations(graph, sizes)
    return Profile(
        model=model.name,
        layers=layers,
        parameters=_size(model.weights),
        trainable_parameters=_size(model.trainable_weights),
        peak_activation_bytes=None if peak is None else peak.size_bytes,
        peak_layer="" if peak is None else peak.path,
    )


def _check_formulas(model: keras.Model, formulas: Formulas | None) -> None:
    kinds = {type(layer).__name__ for layer in flatten_layers(model)}
    for name in formulas or {}:
        if name not in kinds:
            raise ConfigError(f"No layer is of the class {name!r}.{nearest(name, kinds)} Classes: {sorted(kinds)}.")


def _input_shapes(model: keras.Model, view: GraphView, data: Any) -> tuple[Shape, ...]:
    if data is None:
        return tuple(tuple(tensor.shape) for tensor in view.inputs)
    inputs, _ = signature(model)
    example = calibration(data, samples=1, inputs=inputs)
    return tuple((None, *example[info.name].shape[1:]) for info in inputs)


def _cost(call: FlatCall, formulas: Formulas, seen: set[int]) -> LayerCost:
    operation, output = call.operation, call.output_shapes[0]
    shapes = call.operand_shapes
    if isinstance(operation, keras.layers.MultiHeadAttention):
        shapes = _query_value_key(call)
    elif isinstance(operation, keras.layers.Layer):
        shapes = call.input_shapes
    read, made = input_bytes_of(call), bytes_of(call)
    return _of(call.path, operation, shapes, output, formulas, seen, _total(read), _total(made))


def _of(
    path: str,
    operation: keras.Operation,
    inputs: tuple[Shape, ...],
    output: Shape,
    formulas: Formulas,
    seen: set[int],
    input_bytes: int | None,
    activation_bytes: int | None,
) -> LayerCost:
    """Return the cost of one call; `seen` holds the variables that are counted already."""
    variables = _new_variables(operation, seen)
    kind = type(operation).__name__
    macs, elementwise, reason = _count(operation, inputs, output, formulas)
    return LayerCost(
        name=path,
        type=kind,
        output_shape=output,
        parameters=_size(variables),
        macs=macs,
        flops=None if macs is None or elementwise is None else 2 * macs + elementwise,
        weight_bytes=sum(map(weight_bytes, variables)),
        input_bytes=input_bytes,
        activation_bytes=activation_bytes,
        reason=reason,
    )


def _count(
    operation: keras.Operation, inputs: tuple[Shape, ...], output: Shape, formulas: Formulas
) -> tuple[int | None, int | None, str]:
    kind = type(operation).__name__
    if kind in formulas:
        return formulas[kind](operation, inputs, output), 0, ""
    if not type(operation).__module__.startswith("keras."):
        return None, None, f"{kind} is a class of yours: give its multiply-accumulates with `formulas`."
    if isinstance(operation, keras.layers.Layer):
        config = operation.get_config()
        macs = layer_macs(kind, config, inputs, output)
    else:
        config = {name: value for name, value in vars(operation).items() if not name.startswith("_")}
        macs = operation_macs(kind, config, inputs, output)
        config = {}
    elementwise = layer_elementwise(kind, config, inputs, output) if macs is not None else None
    if macs is not None and elementwise is not None:
        return macs, elementwise, ""
    is_open = any(None in shape[1:] for shape in (*inputs, output))
    return macs, elementwise, "A size is open: pass `data`." if is_open else f"There is no formula for {kind}."


def _total(sizes: Sequence[int | None]) -> int | None:
    return None if None in sizes else sum(size or 0 for size in sizes)


def _query_value_key(call: FlatCall) -> tuple[Shape, ...]:
    args, kwargs = call.call.arguments
    given = {**dict(zip(("query", "value", "key"), args, strict=False)), **kwargs}
    shapes = {id(tensor): shape for tensor, shape in zip(call.call.inputs, call.input_shapes, strict=True)}
    key = given.get("key")
    return tuple(shapes[id(one)] for one in (given["query"], given["value"], given["value"] if key is None else key))


def _without_graph(
    model: keras.Model, watched: Mapping[int, list[tuple[tuple[Shape, ...], Shape]]], formulas: Formulas, seen: set[int]
) -> Iterator[LayerCost]:
    """Yield the layers that hold no others, then what the composite ones hold themselves."""
    paths = layer_paths(model)
    layers = {id(layer): layer for layer in flatten_layers(model)}
    inside = [layers[key] for key in paths if key in layers]
    for layer in inside:
        if len(flatten_layers(layer)) > 1 and not isinstance(layer, keras.layers.MultiHeadAttention):
            continue
        calls = watched.get(id(layer), [])
        for number, (inputs, output) in enumerate(calls, 1):
            path = paths[id(layer)] + (f" (call {number})" if number > 1 else "")
            read = _total([size_bytes(shape, layer.compute_dtype) for shape in inputs])
            yield _of(path, layer, inputs, output, formulas, seen, read, size_bytes(output, layer.compute_dtype))
        if not calls:
            own = _new_variables(layer, seen)
            reason = "The model's `call` is Python code: pass `data` to watch its layers."
            yield _parameters_only(paths[id(layer)], layer, own, reason if not watched else "It is not called.")
    for layer in reversed(inside):  # Parents come first in `inside`; the innermost holder counts a variable.
        if own := _new_variables(layer, seen):
            yield _parameters_only(paths[id(layer)], layer, own, "What its own `call` computes cannot be seen.")


def _parameters_only(path: str, layer: keras.layers.Layer, own: list[Any], reason: str) -> LayerCost:
    size = sum(map(weight_bytes, own))
    return LayerCost(path, type(layer).__name__, (), _size(own), None, weight_bytes=size, reason=reason)


def _watched_calls(model: keras.Model, data: Any) -> dict[int, list[tuple[tuple[Shape, ...], Shape]]]:
    """Return the shapes of the inputs and the output of every call of every layer, by the layer's id."""
    example = calibration(data, samples=1, inputs=signature(model)[0])
    symbols: Any = {name: keras.KerasTensor((None, *one.shape[1:]), str(one.dtype)) for name, one in example.items()}
    symbols = next(iter(symbols.values())) if len(symbols) == 1 else symbols
    found: dict[int, list[tuple[tuple[Shape, ...], Shape]]] = {}
    with contextlib.ExitStack() as stack:
        for layer in flatten_layers(model)[1:]:
            stack.enter_context(replaced(layer, "call", _recording(layer, found)))
        model.compute_output_spec(symbols)
    return found


def _recording(layer: keras.layers.Layer, found: dict[int, list[tuple[tuple[Shape, ...], Shape]]]) -> Any:
    plain = layer.call

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = plain(*args, **kwargs)
        taken, given = (
            [tuple(one.shape) for one in keras.tree.flatten(part) if hasattr(one, "shape")]
            for part in ((args, kwargs), outputs)
        )
        if taken and given:
            found.setdefault(id(layer), []).append((tuple(taken), given[0]))
        return outputs

    return call


def _new_variables(operation: keras.Operation, seen: set[int]) -> list[Any]:
    """Return the variables of `operation` that are not in `seen`, and add them to it."""
    new = [variable for variable in getattr(operation, "weights", ()) if id(variable) not in seen]
    seen.update(id(variable) for variable in new)
    return new


def _size(variables: Iterable[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)
