"""The calls of a model with nested ones opened, and the shape of every tensor between them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from kopt.graph import Call, GraphView
from kopt.graph.configs import config_of
from kopt.profile.cost.contraction import einsum_dense_output
from kopt.profile.cost.elementwise import KEEPING_THE_BATCH
from kopt.profile.cost.shapes import Shape


@dataclasses.dataclass(frozen=True)
class FlatCall:
    """One call of a layer or operation that is no nested model.

    Attributes:
        path: names from the outside in; `" (call 2)"` follows the name of what is called again.
        call: as the graph has it.
        inputs: keys of the tensors it takes.
        outputs: keys of the tensors it gives.
        input_shapes, output_shapes: of these, batch axis first.
    """

    path: str
    call: Call
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]

    @property
    def operation(self) -> keras.Operation:
        """What is called."""
        return self.call.operation

    def with_shapes(self, structure: Any) -> Any:
        """Return arguments of the call with symbolic tensors of these shapes in the place of the recorded ones."""
        shapes = {id(tensor): shape for tensor, shape in zip(self.call.inputs, self.input_shapes, strict=True)}

        def resized(leaf: Any) -> Any:
            return keras.KerasTensor(shapes[id(leaf)], leaf.dtype) if id(leaf) in shapes else leaf

        return keras.tree.map_structure(resized, structure)


@dataclasses.dataclass(frozen=True)
class FlatGraph:
    """The calls of a model in order, and the keys of its inputs and outputs."""

    calls: tuple[FlatCall, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def flatten_calls(view: GraphView, input_shapes: tuple[Shape, ...]) -> FlatGraph:
    """Return the calls of `view` for inputs of these shapes."""
    walk = _Walk()
    inputs = tuple(walk.new(shape) for shape in input_shapes)
    outputs: list[int] = []
    calls = tuple(walk.calls(view, inputs, "", outputs))
    return FlatGraph(calls, inputs, tuple(outputs))


def with_batch_of_one(graph: FlatGraph, view: GraphView, input_shapes: tuple[Shape, ...]) -> FlatGraph:
    """Return the same calls with a batch of one where the batch is open, so that every size is of one example.

    A reshape can fold the batch into other axes. Where there may be one, the shapes are worked out again.
    """
    if any(map(_may_fold_the_batch, graph.calls)):
        return flatten_calls(view, tuple(map(_of_one, input_shapes)))
    calls = (
        dataclasses.replace(
            call,
            input_shapes=tuple(map(_of_one, call.input_shapes)),
            output_shapes=tuple(map(_of_one, call.output_shapes)),
        )
        for call in graph.calls
    )
    return dataclasses.replace(graph, calls=tuple(calls))


def _of_one(shape: Shape) -> Shape:
    return (1, *shape[1:]) if shape and shape[0] is None else shape


def _may_fold_the_batch(call: FlatCall) -> bool:
    kind = type(call.operation)
    if not kind.__module__.startswith("keras."):
        return True
    return not isinstance(call.operation, keras.layers.Layer) and kind.__name__ not in KEEPING_THE_BATCH


class _Walk:
    """Numbers the tensors: one that a nested model passes on keeps its number."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []

    def new(self, shape: Shape) -> int:
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def calls(self, view: GraphView, inputs: tuple[int, ...], prefix: str, outputs: list[int]) -> Iterator[FlatCall]:
        """Yield the calls; afterwards `outputs` has the keys of what the model gives."""
        keys = {id(tensor): key for tensor, key in zip(view.inputs, inputs, strict=True)}
        counts: dict[int, int] = {}
        for call in view.calls:
            number = counts[id(call.operation)] = counts.get(id(call.operation), 0) + 1
            path = f"{prefix}{call.operation.name}" + (f" (call {number})" if number > 1 else "")
            taken = tuple(keys[id(tensor)] for tensor in call.inputs)
            if call.nested is not None:
                given: list[int] = []
                # A mask that comes along is no input of the graph inside.
                yield from self.calls(call.nested, taken[: len(call.nested.inputs)], f"{path}/", given)
                keys.update({id(tensor): key for tensor, key in zip(call.outputs, given, strict=True)})
                continue
            flat = FlatCall(path, call, taken, (), tuple(self.shapes[key] for key in taken), ())
            shapes = _output_shapes(flat)
            made = tuple(self.new(shape) for shape in shapes)
            keys.update({id(tensor): key for tensor, key in zip(call.outputs, made, strict=True)})
            yield dataclasses.replace(flat, outputs=made, output_shapes=shapes)
        outputs.extend(keys[id(tensor)] for tensor in view.outputs)


def _output_shapes(flat: FlatCall) -> tuple[Shape, ...]:
    """Return the recorded shapes, or those for other sizes of the inputs."""
    call = flat.call
    outputs: Any = call.outputs
    if any(tuple(tensor.shape) != shape for tensor, shape in zip(call.inputs, flat.input_shapes, strict=True)):
        args, kwargs = flat.with_shapes(call.arguments)
        outputs = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
    shapes = tuple(tuple(output.shape) for output in outputs)
    if isinstance(call.operation, keras.layers.EinsumDense):
        return (einsum_dense_output(config_of(call.operation), flat.input_shapes[0], shapes[0]),)
    return shapes
