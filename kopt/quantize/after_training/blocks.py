"""A copy in pieces that meet in a single tensor, such as residual blocks."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kopt.graph import Call, GraphView
from kopt.graph.running import Infer
from kopt.quantize.weights import QuantizedWeights

# Kernels from which on a piece ends as soon as it can: depthwise and pointwise convolutions come together.
_KERNELS = 2


@dataclasses.dataclass(frozen=True)
class Block:
    """Calls in order, of which the last ones give what all later calls take.

    Attributes:
        calls: of layers and operations, none of them a nested model.
        outputs: tensors that later calls take, or that the model gives: one, but for the last block.
    """

    calls: tuple[Call, ...]
    outputs: tuple[keras.KerasTensor, ...]

    @property
    def layers(self) -> tuple[QuantizedWeights, ...]:
        """The layers with a kernel, each once."""
        found = (call.operation for call in self.calls if isinstance(call.operation, QuantizedWeights))
        return tuple(dict.fromkeys(found))

    def run(self, values: Mapping[int, Any], infer: Infer) -> dict[int, Any]:
        """Return the outputs by the ids of their symbols.

        Args:
            values: of what the block takes, likewise.
            infer: how operations are called.
        """
        known = dict(values)
        for call in self.calls:
            args, kwargs = keras.tree.map_structure(
                lambda one: known[id(one)] if isinstance(one, keras.KerasTensor) else one, call.arguments
            )
            results = keras.tree.flatten(infer(call.operation, args, kwargs))
            known.update({id(symbol): result for symbol, result in zip(call.outputs, results, strict=True)})
        return {id(symbol): known[id(symbol)] for symbol in self.outputs}


def blocks_of(view: GraphView) -> list[Block]:
    """Return the pieces of a flat model, in order; a kernel that is called in several of them is not parted."""
    uses = collections.Counter(id(tensor) for call in view.calls for tensor in call.inputs)
    uses.update(id(tensor) for tensor in view.outputs)
    calls_left = collections.Counter(id(call.operation) for call in view.calls)
    alive = {id(tensor): tensor for tensor in view.inputs if uses[id(tensor)]}
    blocks: list[Block] = []
    current: list[Call] = []
    for call in view.calls:
        current.append(call)
        calls_left[id(call.operation)] -= 1
        for tensor in call.inputs:
            uses[id(tensor)] -= 1
            if not uses[id(tensor)]:
                del alive[id(tensor)]
        alive.update({id(tensor): tensor for tensor in call.outputs if uses[id(tensor)]})
        if len(alive) == 1 and _is_whole(current, calls_left):
            blocks.append(Block(tuple(current), tuple(alive.values())))
            current = []
    if current:
        blocks.append(Block(tuple(current), view.outputs))
    return blocks


def _is_whole(calls: Sequence[Call], calls_left: Mapping[int, int]) -> bool:
    """Return whether a block may end here: behind a rounded activation, with kernels that no later call has."""
    kernels = {id(call.operation) for call in calls if isinstance(call.operation, QuantizedWeights)}
    ends = not isinstance(calls[-1].operation, QuantizedWeights)
    return ends and len(kernels) >= _KERNELS and not any(calls_left[one] for one in kernels)
