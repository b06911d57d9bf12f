"""A model's layers with their shapes, parameters, arithmetic and memory."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import keras

from kopt.core.errors import ConfigError, nearest
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.profiles.cost import LayerCost, ModelProfile
from kopt.core.settings import whole
from kopt.data import calibration
from kopt.graph import GraphView, layer_paths, require_built, signature
from kopt.graph.additions import AddedState, parameters_of
from kopt.graph.checks import input_structure
from kopt.graph.internals import flatten_layers, graph_of, inner_layers
from kopt.profile.cost.calls import Accounts, UserFormula
from kopt.profile.cost.flat import flatten_calls, with_batch_of_one
from kopt.profile.cost.memory import Peak, peak_activations, size_bytes
from kopt.profile.cost.shapes import Shape
from kopt.profile.cost.watching import opens, watch
from kopt.profile.tensorboard import InTensorBoard
from kopt.report.profiles.costs import COSTS
from kopt.train.memory.estimate import estimate_memory
from kopt.train.snapshot import preserved

Formulas: TypeAlias = Mapping[Any, UserFormula]


@dataclasses.dataclass(frozen=True)
class Profile(InTensorBoard, ModelProfile):
    """What `model` found, with ways to show it.

    Example:
        >>> costs = kopt.profile.model(model)
        >>> print(costs.table(80, rows=1, sort="macs"))
        digits
        Layer  Type           Output  Activations  Parameters         MACs
        ───────────────────────────────────────────────────────────────────────
        conv2  Conv2D  (?, 3, 3, 16)    576 bytes       1,168  43%  10,368  63%
        ...
    """

    look = COSTS

    def _scalars(self) -> Iterator[tuple[str, float]]:
        for layer in self.layers:
            numbers = {"macs": layer.macs, "parameters": layer.parameters, "activation_bytes": layer.activation_bytes}
            yield from ((f"{key}/{layer.name}", float(value)) for key, value in numbers.items() if value is not None)


def model(
    model: keras.Model, data: Any = None, *, batch_size: int | None = None, formulas: Formulas | None = None
) -> Profile:
    """Return what every layer of a model costs for one example.

    Use it to see where parameters, arithmetic and memory are before deciding what to shrink.

    Formula: `flops = 2 * macs + elementwise operations`, where a multiply-accumulate is a product with the addition
    that follows it; see `kopt.profile.cost.elementwise` for the rest. Keras' layers and operations have formulas; what
    has none (layers of the user, `Lambda`) is counted by the TensorFlow operations it is traced to.

    Args:
        model: built Keras 3 model. Layers inside nested models, and inside layers of the user, are listed as
            `"<outer>/<inner>"`, and what the outer one computes besides by its own name. A shared layer is listed once
            a call, with its parameters at the first. A model whose `call` is Python code has no graph: with `data` its
            layers are watched while it is traced, without they have parameters only.
        data: arrays or a data set as for `kopt.data.calibration`; its shape stands in where the model accepts any
            size, e.g. sequences of any length.
        batch_size: examples of a training step of which the memory is to be worked out, too, with the optimizer that
            the model is compiled with; see `kopt.train.estimate_memory`.
        formulas: multiply-accumulates of layers that kopt does not know, by class or its name: functions of the layer,
            the shapes of its inputs and the shape of its first output, batch axis first, that return them for one
            example, or `None`.

    Returns:
        Record with `.table(rows=20, sort="macs")` and `.plot(path)`. `macs` is `None` where it is not known, with the
        `reason`; `unknown` lists what the totals leave out.

    Raises:
        InputError: the model is not built.
        DataError: `data` does not fit the model.
        ConfigError: a formula is of no layer of the model or gives no count, or an impossible `batch_size`.

    Example:
        >>> costs = kopt.profile.model(model)
        >>> costs.parameters, costs.macs, max(costs.layers, key=lambda layer: layer.macs).name
        (2722, 16416, 'conv2')
        >>> path = costs.plot("costs.svg")
    """
    require_built(model)
    named = _by_name(model, formulas or {})
    if batch_size is not None:
        whole("batch_size", batch_size)
    if graph_of(model) is None:
        layers, peak = tuple(_without_graph(model, data, named)), None
    else:
        layers, peak = _of_graph(model, data, named)
    return Profile(
        model=model.name,
        layers=layers,
        parameters=_size(parameters_of(model)),
        trainable_parameters=_size(model.trainable_weights),
        peak_activation_bytes=None if peak is None else peak.size_bytes,
        peak_layer="" if peak is None else peak.path,
        training=None if batch_size is None else estimate_memory(model, batch_size, data=data),
    )


def _by_name(model: keras.Model, formulas: Formulas) -> dict[str, UserFormula]:
    kinds = {type(layer).__name__ for layer in flatten_layers(model)}
    named = {key if isinstance(key, str) else key.__name__: formula for key, formula in formulas.items()}
    for name in named:
        if name not in kinds:
            raise ConfigError(f"No layer is of the class {name!r}.{nearest(name, kinds)} Classes: {sorted(kinds)}.")
    return named


def _of_graph(
    model: keras.Model, data: Any, formulas: Mapping[str, UserFormula]
) -> tuple[tuple[LayerCost, ...], Peak | None]:
    view = GraphView.of(model)
    shapes = _input_shapes(model, view, data)
    shown = flatten_calls(view, shapes)
    graph = with_batch_of_one(shown, view, shapes)
    batch = _batch(shapes)
    accounts = Accounts(formulas, batch)
    layers = tuple(
        cost
        for call, as_shown in zip(graph.calls, shown.calls, strict=True)
        for cost in accounts.of_call(call, as_shown.output_shapes[0])
    )
    sizes = [size_bytes((batch, *shape[1:]), tensor.dtype) for shape, tensor in zip(shapes, view.inputs, strict=True)]
    peak = peak_activations(graph, sizes)
    return layers, None if peak is None else Peak(-(-peak.size_bytes // batch), peak.path)


def _batch(shapes: Iterable[Shape]) -> int:
    """Return the examples in shapes with a fixed batch; 1 where the batch is open, because then one is put in."""
    batches = {shape[0] for shape in shapes if shape}
    return batches.pop() or 1 if len(batches) == 1 else 1


def _input_shapes(model: keras.Model, view: GraphView, data: Any) -> tuple[Shape, ...]:
    if data is None:
        return tuple(tuple(tensor.shape) for tensor in view.inputs)
    return tuple(tensor.shape for tensor in _symbols(model, data).values())


def _symbols(model: keras.Model, data: Any, batch: int | None = None) -> dict[str, keras.KerasTensor]:
    """Return tensors of the shapes of the data, by the name of the input; a batch that the model fixes stays."""
    inputs, _ = signature(model)
    example = calibration(data, samples=1, inputs=inputs, name="data")

    def symbol(info: TensorInfo) -> keras.KerasTensor:
        fixed = info.shape[0] if info.shape else None
        shape = (batch if fixed is None else fixed, *example[info.name].shape[1:])
        is_text = example[info.name].dtype.kind in "OSU"
        return keras.KerasTensor(shape, "string" if is_text else str(example[info.name].dtype))

    return {info.name: symbol(info) for info in inputs}


def _without_graph(model: keras.Model, data: Any, formulas: Mapping[str, UserFormula]) -> Iterator[LayerCost]:
    """Yield the layers in the order in which they are called, then those that are not, with their parameters."""
    paths, accounts = layer_paths(model), Accounts(formulas)
    reason = "The model's `call` is Python code: pass `data` to watch its layers."
    if data is not None:
        reason = "It is not called."
        with preserved(model):
            calls = watch(model, (_argument(model, data),), {}, formulas)
        yield from accounts.of_watched(calls, paths)
    for layer in _innermost_first(model, formulas):
        yield from accounts.unseen(layer, paths[id(layer)], reason)


def _innermost_first(layer: keras.layers.Layer, closed: Iterable[str]) -> Iterator[keras.layers.Layer]:
    """Yield the layers that are listed by themselves; for an outer one its own variables are left then."""
    if opens(layer, closed):
        for inner in inner_layers(layer):
            if not isinstance(inner, AddedState):
                yield from _innermost_first(inner, closed)
    yield layer


def _argument(model: keras.Model, data: Any) -> Any:
    """Return the first argument of `call` as symbols, structured as the model takes it."""
    symbols = _symbols(model, data, batch=1)
    return keras.tree.pack_sequence_as(input_structure(model), list(symbols.values()))


def _size(variables: Iterable[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)
