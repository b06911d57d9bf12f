"""The calls of a model with nested ones opened, and the shape of every tensor between them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from kopt.graph import Call, GraphView
from kopt.profile.cost.macs import Shape, einsum_dense_output


@dataclasses.dataclass(frozen=True)
class FlatCall:
    """One call of a layer or operation that is no nested model.

    Attributes:
        path: names from the outside in; `" (call 2)"` follows the name of what is called again.
        call: as the graph has it.
        inputs: keys of the tensors it takes.
        outputs: keys of the tensors it gives.
        input_shapes, output_shapes: of these, batch axis first.
        operand_shapes: of everything with a shape among the arguments, constants too, in their order.
    """

    path: str
    call: Call
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    operand_shapes: tuple[Shape, ...]

    @property
    def operation(self) -> keras.Operation:
        """What is called."""
        return self.call.operation


@dataclasses.dataclass(frozen=True)
class FlatGraph:
    """The calls of a model in order, the keys of its inputs and outputs, and the shape behind every key."""

    calls: tuple[FlatCall, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: dict[int, Shape]


def flatten_calls(view: GraphView, input_shapes: tuple[Shape, ...]) -> FlatGraph:
    """Return the calls of `view` for inputs of these shapes."""
    walk = _Walk()
    inputs = tuple(walk.new(shape) for shape in input_shapes)
    outputs: list[int] = []
    calls = tuple(walk.calls(view, inputs, "", outputs))
    return FlatGraph(calls, inputs, tuple(outputs), walk.shapes)


class _Walk:
    """Numbers the tensors: one that a nested model passes on keeps its number."""

    def __init__(self) -> None:
        self.shapes: dict[int, Shape] = {}

    def new(self, shape: Shape) -> int:
        self.shapes[len(self.shapes)] = shape
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
                yield from self.calls(call.nested, taken, f"{path}/", given)
                keys.update({id(tensor): key for tensor, key in zip(call.outputs, given, strict=True)})
                continue
            shapes = self._output_shapes(call, keys)
            if isinstance(call.operation, keras.layers.EinsumDense):
                shapes = (einsum_dense_output(call.operation.get_config(), self.shapes[taken[0]], shapes[0]),)
            made = tuple(self.new(shape) for shape in shapes)
            keys.update({id(tensor): key for tensor, key in zip(call.outputs, made, strict=True)})
            input_shapes = tuple(self.shapes[key] for key in taken)
            yield FlatCall(path, call, taken, made, input_shapes, shapes, self._operands(call, keys))
        outputs.extend(keys[id(tensor)] for tensor in view.outputs)

    def _output_shapes(self, call: Call, keys: dict[int, int]) -> tuple[Shape, ...]:
        """Return the recorded shapes, or those for other sizes of the inputs."""
        if all(tuple(tensor.shape) == self.shapes[keys[id(tensor)]] for tensor in call.inputs):
            return tuple(tuple(tensor.shape) for tensor in call.outputs)

        def resized(leaf: Any) -> Any:
            is_tensor = isinstance(leaf, keras.KerasTensor)
            return keras.KerasTensor(self.shapes[keys[id(leaf)]], leaf.dtype) if is_tensor else leaf

        args, kwargs = keras.tree.map_structure(resized, call.arguments)
        outputs = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
        return tuple(tuple(output.shape) for output in outputs)

    def _operands(self, call: Call, keys: dict[int, int]) -> tuple[Shape, ...]:
        leaves = [leaf for leaf in keras.tree.flatten(call.arguments) if hasattr(leaf, "shape")]
        return tuple(self.shapes[keys[id(leaf)]] if id(leaf) in keys else tuple(leaf.shape) for leaf in leaves)
