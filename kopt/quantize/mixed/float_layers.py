"""A rounded model of which some layers are in float, as the converter makes it."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from kopt.graph import signature
from kopt.quantize.diagnosis.calibrating import Batches
from kopt.quantize.diagnosis.diagnose import name_of
from kopt.quantize.diagnosis.operators import NO_OPERATOR
from kopt.quantize.diagnosis.tracing import RoundedTrace, Switched
from kopt.quantize.quantized_model import QuantizedFunctional


class MixedModel:
    """Runs a traced copy with some of its layers in float.

    A layer in float has exact weights. Its output is still rounded if one of its takers computes in integers, or what
    stands between it and an output, such as concatenation; its inputs are what the layers before it give.

    Attributes:
        layers: paths, in order, each once.
        input_names, output_names: of the model.
    """

    def __init__(self, copy: QuantizedFunctional, trace: RoundedTrace):
        self._trace = trace
        self.input_names, self.output_names = ([info.name for info in infos] for infos in signature(copy))
        self._names = [name_of(copy, one.operator)[0] for one in trace.operators]
        made = [bool(one.operator.calls) for one in trace.operators]
        self.layers = list(dict.fromkeys(name for name, is_made in zip(self._names, made, strict=True) if is_made))
        self._takers: list[set[int]] = [set() for _ in trace.operators]
        for number, one in enumerate(trace.operators):
            for place in one.operator.takes:
                self._takers[place].add(number)
        self._function = trace.function([*trace.inputs, *trace.leaves], trace.outputs)

    @property
    def takers(self) -> dict[str, frozenset[str]]:
        """From the path of a layer to those of the layers that take its outputs."""
        found: dict[str, set[str]] = {name: set() for name in self.layers}
        for name, takers in zip(self._names, self._takers, strict=True):
            if name in found:
                found[name] |= {self._names[number] for number in takers} - {name}
        return {name: frozenset(takers) for name, takers in found.items()}

    @property
    def names(self) -> list[str]:
        """The path of the layer of each operator."""
        return list(self._names)

    def noise(self, alone: list[float]) -> dict[str, float]:
        """Return the error that a layer injects into the outputs, of all its operators, from that of each operator."""
        found = dict.fromkeys(self.layers, 0.0)
        for name, value in zip(self._names, alone, strict=True):
            if name in found:
                found[name] += value
        return found

    def outputs(self, batches: Batches, in_float: Collection[str]) -> list[np.ndarray]:
        """Return the outputs for examples with these layers in float."""
        operators = self._trace.operators
        numbers = {id(one): number for number, one in enumerate(operators)}
        return self._run(batches, self._trace.settings(lambda one: self._settings(numbers[id(one)], in_float)))

    def outputs_of_bits(self, batches: Batches, bits: Mapping[str, int]) -> list[np.ndarray]:
        """Return the outputs with everything rounded, weights of these layers to so many bits."""
        operators = self._trace.operators
        names = {id(one): name for one, name in zip(operators, self._names, strict=True)}
        return self._run(batches, self._trace.settings(lambda one: one.settings(bits=bits.get(names[id(one)]))))

    def exact(self, batches: Batches) -> list[np.ndarray]:
        """Return the outputs without any rounding."""
        return self._run(batches, self._trace.settings(lambda one: one.settings(rounds=False, bits=0)))

    def _run(self, batches: Batches, fed: list[Any]) -> list[np.ndarray]:
        parts = [[np.asarray(value) for value in self._function(*batch, *fed)] for batch in batches]
        return [np.concatenate(values) for values in zip(*parts, strict=True)]

    def _settings(self, number: int, in_float: Collection[str]) -> list[Any]:
        one = self._trace.operators[number]
        if not self._is_in_float(number, in_float):
            return one.settings()
        settings = one.settings(rounds=False, bits=0)
        takers = self._takers[number]
        is_free = number not in self._trace.passed_on and all(
            self._is_in_float(taker, in_float) and _begins_with_its_layer(self._trace.operators[taker])
            for taker in takers
        )
        settings[len(one.switches) - 1] = not is_free
        return settings

    def _is_in_float(self, number: int, in_float: Collection[str]) -> bool:
        """Return whether an operator computes in float; the inputs of the model are float until they are rounded."""
        return not self._trace.operators[number].operator.calls or self._names[number] in in_float


def _begins_with_its_layer(one: Switched) -> bool:
    """Return whether nothing that stays in integers, such as pooling, stands before the layer in its operator."""
    operations = [call.operation for call in one.operator.calls]
    before = operations[: operations.index(one.operator.main)]
    return all(isinstance(operation, NO_OPERATOR) for operation in before)
