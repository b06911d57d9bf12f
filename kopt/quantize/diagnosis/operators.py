"""The integer operators of a quantization-aware model: what is computed between two roundings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from kopt.graph import Call
from kopt.graph.internals import node_of
from kopt.quantize.ranges import FixedQuantizer, OutputRange, Quantizer
from kopt.quantize.weights import QuantizedWeights

L = keras.layers
_ACTIVATIONS = (L.Activation, L.ReLU)
# Layers that are no operator of a file, or part of the one before.
NO_OPERATOR = (*_ACTIVATIONS, L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.Identity, OutputRange)


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """One operator of TFLite, from rounded inputs to its rounded output.

    Attributes:
        calls: of the model that it computes, in order; none for a rounded input of the model.
        quantizer: rounds its output.
        site: which of the quantizer's sites that is; -1 if its range is not observed there.
        name: of the input of the model where there are no calls.
        takes: numbers of the operators whose rounded outputs it takes.
    """

    calls: tuple[Call, ...]
    quantizer: Quantizer | FixedQuantizer
    site: int
    name: str
    takes: tuple[int, ...]

    @property
    def weights(self) -> QuantizedWeights | None:
        """The layer with its kernel, if it has one."""
        return next((call.operation for call in self.calls if isinstance(call.operation, QuantizedWeights)), None)

    @property
    def main(self) -> keras.Operation | None:
        """What it is named after: the layer with the kernel, or the last that is no activation."""
        operations = [call.operation for call in self.calls]
        plain = [one for one in operations if not isinstance(one, _ACTIVATIONS)]
        return self.weights or (plain or operations or [None])[-1]


class OperatorFinder:
    """Follows the calls of a model and tells where operators end.

    Attributes:
        operators: found so far.
    """

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self._open: dict[int, tuple[Call, ...]] = {}
        self._takes: dict[int, tuple[int, ...]] = {}

    def follow(self, call: Call) -> Operator | None:
        """Take up a call; return the operator that ends with it, if one does."""
        calls = _merged(self._open.get(id(tensor), ()) for tensor in call.inputs)
        takes = _merged(self._takes.get(id(tensor), ()) for tensor in call.inputs)
        if not isinstance(call.operation, (Quantizer, FixedQuantizer)) or isinstance(call.operation, OutputRange):
            for tensor in call.outputs:
                self._open[id(tensor)], self._takes[id(tensor)] = (*calls, call), takes
            return None
        _, settings = call.arguments
        source = node_of(call.inputs[0]).operation.name
        found = Operator(calls, call.operation, settings.get("site", -1), source, takes)
        self._open[id(call.outputs[0])] = ()
        self._takes[id(call.outputs[0])] = (len(self.operators),)
        self.operators.append(found)
        return found

    def behind(self, tensors: Sequence[keras.KerasTensor]) -> tuple[int, ...]:
        """Return the numbers of the operators whose outputs these tensors are made of."""
        return _merged(self._takes.get(id(tensor), ()) for tensor in tensors)

    def passed_on(self, tensors: Sequence[keras.KerasTensor]) -> tuple[int, ...]:
        """Return the numbers of the operators between whose outputs and these tensors something is computed.

        That is what passes the grid on, such as concatenation.
        """
        return _merged(
            self._takes.get(id(tensor), ())
            for tensor in tensors
            if any(not isinstance(call.operation, NO_OPERATOR) for call in self._open.get(id(tensor), ()))
        )


def _merged(parts: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(one for part in parts for one in part))
