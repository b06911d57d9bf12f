"""Calls the steps of a model on new inputs, with quantizers between them."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.records.changes.aware_training import RangeRule
from kopt.graph import GraphView
from kopt.graph.internals import node_of
from kopt.profile.cost.flat import FlatGraph
from kopt.quantize import grids
from kopt.quantize.affine import Affine
from kopt.quantize.placement import Placement
from kopt.quantize.ranges import FixedQuantizer, OutputRange, Quantizer
from kopt.quantize.rules import DIVISIONS
from kopt.quantize.steps import ARITHMETIC, OBSERVED, Step
from kopt.quantize.weights import QuantizedWeights


class Retracing:
    """Builds the new graph.

    Attributes:
        quantizers: names, in order.
    """

    def __init__(self, placement: Placement, rule: RangeRule, bits: int, names: Callable[[str], str]):
        """Take where to round, and how."""
        self.quantizers: list[str] = []
        self._placement, self._rule, self._bits, self._names = placement, rule, bits, names
        self._made: dict[Any, Any] = {}
        self._by_group: dict[int, Quantizer] = {}
        self._steps_of: dict[int, Any] = {}
        self._tensors: dict[int, Any] = {}

    def inputs(self, view: GraphView, graph: FlatGraph) -> Any:
        """Return new inputs of the model, in its structure; what the steps take is rounded."""
        new = {}
        for tensor, key in zip(view.inputs, graph.inputs, strict=True):
            layer = node_of(tensor).operation
            new[id(tensor)] = keras.layers.InputLayer.from_config(layer.get_config()).output
            self._tensors[key] = self._rounded(new[id(tensor)], key, layer.name)
        return keras.tree.map_structure(lambda tensor: new[id(tensor)], view.input_structure)

    def follow(self, steps: Sequence[Step]) -> None:
        """Call all steps."""
        for step in steps:
            first = step.key not in self._made
            if first:
                self._made[step.key] = step.make()
            made = self._made[step.key]
            outputs = keras.tree.flatten(self._called(step, made))
            if first:
                step.finish(made)
            for key, tensor in zip(step.outputs, outputs, strict=True):
                self._tensors[key] = self._rounded(tensor, key, step.name, step.role.is_activation)

    def outputs(self, view: GraphView, graph: FlatGraph) -> Any:
        """Return the outputs in the structure of the model, in layers of their names where no other has that name.

        An input that is an output, too, is rounded as in a file, and its layer is not the one that takes it.
        """
        named: dict[int, Any] = {}
        inputs = {node_of(tensor).operation.name for tensor in view.inputs}
        for tensor, key in zip(view.outputs, graph.outputs, strict=True):
            if id(tensor) not in named:
                name = node_of(tensor).operation.name
                taken = name in inputs or any(node_of(other).operation.name == name for other in named.values())
                named[id(tensor)] = keras.layers.Identity(name=self._names(name) if taken else name, dtype="float32")(
                    self._tensors[key]
                )
        return keras.tree.map_structure(lambda tensor: named[id(tensor)], view.output_structure)

    def _called(self, step: Step, made: Any) -> Any:
        tensors = [self._taken(step, key) for key in step.inputs]
        if step.weights:
            return made(tensors[0], step=self._step_of(step.inputs[0]))
        if not step.whole:
            return made(tensors[0] if len(tensors) == 1 else tensors)
        found = {id(old): new for old, new in zip(step.flat.call.inputs, tensors, strict=True)}
        args, kwargs = keras.tree.map_structure(
            lambda value: found.get(id(value), self._constant(step, value)), step.flat.call.arguments
        )
        # Keras records the default of `training`; passing it on would fix it for good.
        kwargs = {key: value for key, value in kwargs.items() if key != "training" or _fixes_training(step, value)}
        return made(*args, **kwargs)

    def _constant(self, step: Step, value: Any) -> Any:
        """Return numbers that a step takes beside its inputs as the converter rounds them."""
        if step.role not in (ARITHMETIC, OBSERVED) or not isinstance(value, (np.ndarray, tf.Tensor)):
            return value
        numbers = np.asarray(value)
        if numbers.dtype.kind != "f" or numbers.size < 2:  # a number alone is on its grid
            return value
        if type(step.operation).__name__ in DIVISIONS:  # which the converter makes products; of 0 where all else is far
            with np.errstate(divide="ignore"):
                return 1.0 / self._on_grid(1.0 / numbers)
        if _is_kernel(step, value):
            kernel = tf.constant(numbers, tf.float32)
            return np.asarray(grids.quantize_kernel(kernel, grids.kernel_steps(kernel, (1,))))
        return self._on_grid(numbers)

    def _on_grid(self, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(grids.quantize_activations(np.float32(numbers), numbers.min(), numbers.max(), self._bits))

    def _taken(self, step: Step, key: int) -> Any:
        if (id(step), key) not in self._placement.meeting:
            return self._tensors[key]
        # The converter drops a quantizer behind another; between operators it stays. A kernel of ones is exact.
        group = self._placement.group(step.outputs[0])
        ones = QuantizedWeights(Affine(use_bias=False, trainable=False), name=self._names(f"{step.name}_meeting"))
        tensor = ones(self._tensors[key], step=self._step_of(key))
        return self._quantizer(group, step.name)(tensor, site=self._placement.meeting_site(step, key))[0]

    def _step_of(self, key: int) -> Any:
        """Return the step of a tensor's grid: a number, or a tensor if it is learned; `None` if it has no grid."""
        if not self._placement.has_range(key):
            return None
        group = self._placement.group(key)
        ends = self._placement.ends(key)
        return grids.grid_of(*ends, self._bits).scale if ends else self._steps_of.get(group)

    def _rounded(self, tensor: Any, key: int, name: str, positive: bool = False) -> Any:
        placement = self._placement
        if key in placement.watched:
            watching = OutputRange(self._rule, self._bits, name=self._names(f"{name}_range"))
            self.quantizers.append(watching.name)
            return watching(tensor, site=0)[0]
        if not placement.is_rounded(key):
            return tensor
        group, ends = placement.group(key), placement.ends(key)
        if ends is not None:
            quantizer = FixedQuantizer(*ends, self._bits, name=self._names(f"{name}_grid"))
            self.quantizers.append(quantizer.name)
            return quantizer(tensor)
        rounded, self._steps_of[group] = self._quantizer(group, name)(
            tensor, site=placement.site(key), ties=placement.ties(key), positive=positive
        )
        return rounded

    def _quantizer(self, group: int, name: str) -> Quantizer:
        if group not in self._by_group:
            sites = self._placement.sites(group)
            quantizer = Quantizer(self._rule, self._bits, sites, name=self._names(f"{name}_range"))
            self._by_group[group] = quantizer
            self.quantizers.append(quantizer.name)
        return self._by_group[group]


def _is_kernel(step: Step, value: Any) -> bool:
    """Return whether numbers are what a product of matrices becomes a dense layer with."""
    args, kwargs = step.flat.call.arguments
    second: Any = kwargs.get("x2", args[1] if len(args) > 1 else None)
    return type(step.operation).__name__ == "Matmul" and value is second and len(second.shape) == 2


def _fixes_training(step: Step, value: Any) -> bool:
    """Return whether the model calls a layer in training mode whatever it does itself."""
    return value is True and bool(getattr(step.operation, "trainable_variables", ()))
