"""What a model costs with fewer channels, without making it: the formulas of the profile on smaller shapes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kopt.graph import GraphView
from kopt.graph.channels import ChannelGraph, Flow, SizeSetting
from kopt.graph.configs import config_of
from kopt.profile.cost.flat import FlatCall, flatten_calls, with_batch_of_one
from kopt.profile.cost.formulas import layer_cost
from kopt.profile.cost.operands import operand_shapes
from kopt.profile.cost.shapes import OpenSizeError, Shape
from kopt.prune.channel_removal.configs import applied

Kept = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class _Counted:
    """A call whose arithmetic changes with the channels."""

    flat: FlatCall
    flow: Flow
    config: Mapping[str, Any]
    settings: tuple[SizeSetting, ...]

    def macs(self, kept: Kept) -> int:
        inputs = tuple(map(_resized, self.flat.input_shapes, self.flow.inputs, [kept] * len(self.flow.inputs)))
        output = _resized(self.flat.output_shapes[0], self.flow.outputs[0], kept)
        call = dataclasses.replace(self.flat, input_shapes=inputs)
        args, kwargs = call.with_shapes(self.flat.call.arguments)
        operands = operand_shapes(self.flat.operation, self.flat.operation.call, args, kwargs)
        cost = layer_cost(
            type(self.flat.operation).__name__, applied(self.config, self.settings, kept), operands, output
        )
        return 0 if cost is None else cost.macs


class PrunedCosts:
    """Multiply-accumulates and parameters as functions of the units that are left.

    Args:
        model: built, with a graph.
        graph: its channels.
        macs: multiply-accumulates of the whole model for one example.

    Attributes:
        is_open: whether the arithmetic of a layer is not known because a size of its input is open.
    """

    def __init__(self, model: keras.Model, graph: ChannelGraph, macs: int):
        view = GraphView.of(model)
        shapes = tuple(tuple(tensor.shape) for tensor in view.inputs)
        flat = with_batch_of_one(flatten_calls(view, shapes), view, shapes)
        everything = np.ones(graph.unit_count, np.bool_)
        weighted = {weight.path for weight in graph.weights}
        self._counted: list[_Counted] = []
        self._macs, self._before, self.is_open = macs, 0, False
        for call, flow in zip(flat.calls, graph.flows, strict=True):
            if flow.path not in weighted:
                continue
            settings = tuple(setting for setting in graph.settings if setting.path == flow.path)
            counted = _Counted(call, flow, config_of(call.operation), settings)
            try:
                self._before += counted.macs(everything)
            except OpenSizeError:
                self.is_open = True
                continue
            self._counted.append(counted)
        self._variables: dict[int, tuple[tuple[int, ...], list[tuple[int, Any]]]] = {}
        for weight in graph.weights:
            shape = tuple(weight.variable.shape)
            self._variables.setdefault(id(weight.variable), (shape, []))[1].append((weight.axis, weight.units))
        self._parameters = sum(math.prod(variable.shape) for variable in model.weights)
        self._sliced_before = self._sliced(everything)

    def macs(self, kept: Kept) -> int:
        """Return the multiply-accumulates for one example if only the units with `True` are left."""
        return self._macs - self._before + sum(counted.macs(kept) for counted in self._counted)

    def parameters(self, kept: Kept) -> int:
        """Return the parameters if only the units with `True` are left."""
        return self._parameters - self._sliced_before + self._sliced(kept)

    def _sliced(self, kept: Kept) -> int:
        total = 0
        for shape, axes in self._variables.values():
            sizes = list(shape)
            for axis, units in axes:
                sizes[axis] = int(kept[units].sum())
            total += math.prod(sizes)
        return total


def _resized(shape: Shape, place: tuple[int, npt.NDArray[np.int64]] | None, kept: Kept) -> Shape:
    if place is None:
        return shape
    axis, units = place
    return (*shape[:axis], int(kept[units].sum()), *shape[axis + 1 :])
