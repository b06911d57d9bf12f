"""Pairs of QuantizeLinear and DequantizeLinear in an ONNX graph. Runs in the conversion child process only.

Activations have their pairs already, from the ranges of a trained copy. Kernels are constants on a grid, which shows in
the numbers themselves: they become integers behind a DequantizeLinear, a step for each output channel. Biases become
integers of 32 bits, where the runtime needs that to compute in integers.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

# The axis of a kernel that numbers the output channels, of the operators that runtimes compute in integers.
_CHANNELS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
# Operators whose output holds numbers of their input only, so that it is on the same grid.
_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_MOVES_ONLY = (*_RESHAPES, "MaxPool")
_BITS = range(2, 9)
# How far from its grid, in steps, float32 may put a number of at most 127 steps: 127 roundings of 6e-8, and room.
_ON_GRID = 1e-3


def grid_steps(kernel: np.ndarray, axis: int) -> np.ndarray | None:
    """Return the steps of the coarsest symmetric grid a kernel lies on, one an output channel; `None` if on none.

    The largest number of a channel is the last of its grid: `step = max |w| / (2 ** (bits - 1) - 1)`. An empty channel
    has step 1.

    Args:
        kernel: float32, of any shape.
        axis: that numbers the output channels.
    """
    others = tuple(other for other in range(kernel.ndim) if other != axis % kernel.ndim)
    largest = np.abs(kernel).max(others, keepdims=True)
    for bits in _BITS:
        steps = np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1).astype(np.float32)
        integers = kernel / steps
        if np.abs(integers - np.rint(integers)).max() < _ON_GRID:
            return steps
    return None


def symmetric_step(scale: float, zero_point: int) -> float:
    """Return the step of the symmetric grid of 8 bits over the range of another: `max(-low, high) / 127`."""
    return scale * max(128 + zero_point, 127 - zero_point) / 127


def with_adjacent_pairs(model: Any) -> None:
    """Put what stands between a QuantizeLinear and its DequantizeLinear, and only reshapes, before both.

    Converters move it there. ONNX Runtime then gives half of the pair another type of integer, and computes in float
    what follows.
    """
    nodes = list(model.graph.node)
    index = 0
    while index < len(nodes):
        node = nodes[index]
        readers = [other for other in nodes if node.output[0] in other.input]
        moved = readers[0] if node.op_type == "QuantizeLinear" and len(readers) == 1 else None
        if moved is None or moved.op_type not in _RESHAPES or not _only_dequantized(nodes, moved.output[0]):
            index += 1
            continue
        moved.input[0], node.output[0] = node.input[0], moved.output[0]
        moved.output[0] = node.input[0] = f"{moved.output[0]}_moved"
        place = nodes.index(moved)
        nodes[index : place + 1] = [*nodes[index + 1 : place], moved, node]
    nodes = [_copy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def with_pairs_before_loops(model: Any) -> None:
    """Put a pair behind what is only moved after its DequantizeLinear, where a loop reads it.

    The second pair has the grid of the first and changes no number. Without it ONNX Runtime 1.31 carries the first one
    over the move into the loop, and ends the process.
    """
    graph = _Graph(model)
    inner = {name for node in model.graph.node for name in _read_inside(node)}
    for node in list(model.graph.node):
        grid = graph.grid_of(node.output[0]) if node.op_type in _MOVES_ONLY else None
        if grid is None or node.output[0] not in inner:
            continue
        moved, integers = f"{node.output[0]}_moved", f"{node.output[0]}_integers"
        made = [
            onnx.helper.make_node("QuantizeLinear", [moved, *grid], [integers], name=integers),
            onnx.helper.make_node("DequantizeLinear", [integers, *grid], [node.output[0]], name=moved),
        ]
        node.output[0] = moved
        place = list(model.graph.node).index(node) + 1
        for one in reversed(made):
            model.graph.node.insert(place, one)


def with_symmetric_activations(model: Any) -> None:
    """Give every activation of a graph a grid with zero at 0, the only one that TensorRT computes with.

    The range stays; where it is not symmetric, as behind a ReLU, the step becomes up to twice as large.
    """
    graph = _Graph(model)
    made: dict[tuple[str, str], tuple[str, str]] = {}  # constants may be shared by tensors whose other one differs
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            grid = node.input[1], node.input[2]
            if grid not in made:
                scale, zero_point = (numpy_helper.to_array(graph.constants[name]) for name in grid)
                made[grid] = (f"symmetric_{len(made)}_step", f"symmetric_{len(made)}_zero")
                step = np.float32(symmetric_step(float(scale), int(zero_point)))
                graph.add(made[grid][0], np.array(step))
                graph.add(made[grid][1], np.array(0, np.int8))
            node.input[1:3] = made[grid]
    graph.finish()


def with_integer_kernels(model: Any, *, integer_biases: bool) -> int:
    """Store the kernels that lie on a grid as integers, and return how many there are.

    Args:
        model: with pairs at its activations; is changed.
        integer_biases: biases become integers too. ONNX Runtime computes in integers only then; TensorRT reads biases
            in float.
    """
    graph, count = _Graph(model), 0
    for node in list(model.graph.node):
        if node.op_type not in _CHANNELS or graph.scale_of(node.input[0]) is None:
            continue
        constant, taken = graph.constants.get(node.input[1]), graph.scale_of(node.input[0])
        if constant is None:
            continue
        kernel, axis = numpy_helper.to_array(constant), _axis(node)
        steps = grid_steps(kernel, axis) if kernel.dtype == np.float32 and _has_channels(node, kernel) else None
        if steps is None:
            continue
        integers = np.rint(kernel / steps).astype(np.int8)
        node.input[1] = graph.dequantized(node, "kernel", integers, steps.reshape(-1), axis % kernel.ndim)
        count += 1
        if integer_biases and len(node.input) > 2 and node.input[2] in graph.constants:
            bias = numpy_helper.to_array(graph.constants[node.input[2]])
            step = (steps.reshape(-1) * np.float32(taken)).astype(np.float32)
            if bias.shape == step.shape:
                node.input[2] = graph.dequantized(node, "bias", np.rint(bias / step).astype(np.int32), step, 0)
    graph.finish()
    return count


def _only_dequantized(nodes: list[Any], tensor: str) -> bool:
    """Return whether integers are read by reshapes and DequantizeLinear alone, and at all."""
    readers = [node for node in nodes if tensor in node.input]
    return bool(readers) and all(node.op_type in (*_RESHAPES, "DequantizeLinear") for node in readers)


def _axis(node: Any) -> int:
    transposed = node.op_type == "Gemm" and any(one.name == "transB" and one.i for one in node.attribute)
    return 0 if transposed else _CHANNELS[node.op_type]


def _has_channels(node: Any, kernel: np.ndarray) -> bool:
    """Return whether one axis numbers all output channels: not in transposed convolutions of groups."""
    groups = next((one.i for one in node.attribute if one.name == "group"), 1)
    return kernel.ndim == 2 if node.op_type in ("MatMul", "Gemm") else node.op_type == "Conv" or groups == 1


class _Graph:
    """The constants of a graph, and who writes what."""

    def __init__(self, model: Any):
        self.graph = model.graph
        self.constants = {one.name: one for one in model.graph.initializer}
        self.writers = {name: node for node in model.graph.node for name in node.output}
        self.made: list[tuple[Any, Any]] = []

    def scale_of(self, tensor: str) -> float | None:
        """Return the step of a tensor on a grid, also behind what only moves numbers; `None` if on none."""
        grid = self.grid_of(tensor)
        return None if grid is None else float(numpy_helper.to_array(self.constants[grid[0]]).reshape(-1)[0])

    def grid_of(self, tensor: str) -> tuple[str, str] | None:
        """Return the constants of the grid of a tensor, likewise."""
        writer = self.writers.get(tensor)
        while writer is not None and writer.op_type in _MOVES_ONLY:
            writer = self.writers.get(writer.input[0])
        if writer is None or writer.op_type != "DequantizeLinear":
            return None
        return writer.input[1], writer.input[2]

    def add(self, name: str, values: np.ndarray) -> None:
        """Add a constant."""
        self.graph.initializer.append(numpy_helper.from_array(values, name))

    def dequantized(self, node: Any, part: str, integers: np.ndarray, steps: np.ndarray, axis: int) -> str:
        """Put integers and their DequantizeLinear before `node` and return the tensor that it writes."""
        name = f"{node.name or node.output[0]}/{part}"
        inputs = [f"{name}_integers", f"{name}_step", f"{name}_zero"]
        zeros = np.zeros(steps.shape, integers.dtype)
        for one, values in zip(inputs, (integers, steps.astype(np.float32), zeros), strict=True):
            self.add(one, values)
        made = onnx.helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_dequantize", axis=axis)
        self.made.append((node, made))
        return name

    def finish(self) -> None:
        """Put the new nodes where a graph in order needs them, and drop constants that nobody reads."""
        before: dict[int, list[Any]] = {}
        for node, made in self.made:
            before.setdefault(id(node), []).append(made)
        ordered = [one for node in self.graph.node for one in (*before.get(id(node), ()), node)]
        ordered = [_copy(node) for node in ordered]
        del self.graph.node[:]
        self.graph.node.extend(ordered)
        used = set(_read(self.graph))
        kept = [_copy(one) for one in self.graph.initializer if one.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def _read(graph: Any) -> Iterator[str]:
    """Yield the tensors that a graph and the graphs inside it read."""
    yield from (one.name for one in graph.output)
    for node in graph.node:
        yield from node.input
        yield from _read_inside(node)


def _read_inside(node: Any) -> Iterator[str]:
    """Yield the tensors that the graphs inside a node read."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from _read(attribute.g)


def _copy(proto: Any) -> Any:
    made = type(proto)()
    made.CopyFrom(proto)
    return made
