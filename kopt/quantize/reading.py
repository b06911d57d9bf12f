"""Reads a model as steps: activations come apart from kernels, normalizations go into them."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kopt.core.records.actions import LayerAction
from kopt.core.records.changes.aware_training import QuantizedKernel
from kopt.graph import clone_layer, copy_weights
from kopt.graph.activation_functions import keras_activation
from kopt.graph.internals import copy_stateless
from kopt.graph.masks import has_mask
from kopt.profile.cost.flat import FlatCall, FlatGraph
from kopt.quantize.activations import Composite, Ending, ending_of
from kopt.quantize.affine import Affine
from kopt.quantize.affine import unfit as unfit_affine
from kopt.quantize.expansions import EXPANSIONS
from kopt.quantize.filling import SEPARABLE, Fill, affine_of, depthwise_of, pointwise_of, with_bias, without_activation
from kopt.quantize.kernels import kind_of
from kopt.quantize.operations import Operation
from kopt.quantize.preserved import CHANNEL_VALUES, VALUES, distinct, what_to_keep
from kopt.quantize.rules import DIVISIONS, activation_of, activation_role, role_of
from kopt.quantize.steps import ARITHMETIC, NONE, OBSERVED, Role, Step, left
from kopt.quantize.weights import QuantizedWeights

L = keras.layers


@dataclasses.dataclass(frozen=True)
class Request:
    """What the caller asks of every layer.

    Attributes:
        bits: of activations.
        weight_bits: of weights.
        freeze_norm: see `QuantizedWeights`.
        skipped: from path to the reason, of layers to leave in float.
        fold: normalizations go into kernels and biases for good, and every kernel has a bias.
        bits_of_layers: of weights, by path, where they are others.
    """

    bits: int
    weight_bits: int
    freeze_norm: int | None
    skipped: Mapping[str, str]
    fold: bool = False
    bits_of_layers: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Reader:
    """Turns the calls of a model into steps.

    Attributes:
        steps: in order.
        kernels: what is done to every kernel.
        left: what computes in float, with the reason.
    """

    def __init__(self, graph: FlatGraph, request: Request, names: Callable[[str], str]):
        """Take the calls.

        Args:
            graph: of the model.
            request: of the caller.
            names: gives each name once.
        """
        self.steps: list[Step] = []
        self.kernels: list[QuantizedKernel] = []
        self.left: dict[str, LayerAction] = {}
        self._graph, self._request, self._names = graph, request, names
        self._next = 1 + max((key for call in graph.calls for key in call.outputs), default=len(graph.inputs))
        self._counts: dict[int, int] = {}
        for call in graph.calls:
            self._counts[id(call.operation)] = self._counts.get(id(call.operation), 0) + 1
        self._named: dict[Any, str] = {}
        self._folded: dict[int, FlatCall] = {}

    def read(self) -> None:
        """Read every call; one that went into another is passed over."""
        for call in self._graph.calls:
            if id(call) not in self._folded:
                self._read(call)

    def _read(self, call: FlatCall) -> None:
        operation, reason = call.operation, self._request.skipped.get(_plain_path(call), "")
        if reason or _in_training_mode(call):
            self.leave(call, reason or "it is called with `training=True`")
        elif type(operation) in SEPARABLE and operation.data_format == "channels_last":
            self._separable(call)
        elif kind_of(operation) is not None:
            self._kernel(call)
        elif _as_affine(operation):
            self._affine(call)
        elif len(call.inputs) > 2 and type(operation) in (L.Add, L.Multiply):
            self._chain(call)
        elif type(operation) in EXPANSIONS:
            self._expansion(call)
        else:
            self._other(call)

    def leave(self, call: FlatCall, reason: str) -> None:
        """Call a layer as it is, in float."""
        self._step(call, left(reason))
        self._note(call, reason)

    def _note(self, call: FlatCall, reason: str) -> None:
        path = _plain_path(call)
        self.left.setdefault(path, LayerAction(path, type(call.operation).__name__, reason))

    def _step(self, call: FlatCall, role: Role) -> None:
        """Call what the model calls."""
        operation = call.operation
        if not _is_float(call):
            role = NONE
        name = self._name(call, "")
        if isinstance(operation, L.Layer):
            make = lambda: _renamed(clone_layer(operation, call.path), name)  # noqa: E731
            finish = lambda made: copy_weights(operation, made)  # noqa: E731
        else:
            make = lambda: _renamed(copy_stateless(operation), name)  # noqa: E731
            finish = lambda made: None  # noqa: E731
        self.steps.append(
            Step(name, call, (id(operation), ""), call.inputs, call.outputs, role, make, finish, whole=True)
        )

    def _other(self, call: FlatCall) -> None:
        if type(call.operation) is L.GlobalAveragePooling1D and has_mask(call.call):
            self.leave(call, "it averages what a mask lets through, for which TFLite has no integer operators")
            return
        role = role_of(call.operation, self._request.bits)
        if _pads_with_numbers(call):
            role = left("it pads with another number than 0, which its range need not hold")
        if _divides_by_numbers(call):
            role = ARITHMETIC
        if role is ARITHMETIC and len(call.inputs) == 1 and self.bits == 16:
            role = left("the TFLite converter gives the numbers beside its tensor 8 bits")
        function = activation_of(call.operation)
        if function is not None and ending_of(function, self._request.bits).computed:
            self.activation(call, function, call.inputs[0], call.outputs[0], role)
            return
        self._step(call, role)
        if role.unfit and _is_float(call):
            self._note(call, role.unfit)

    def _kernel(self, call: FlatCall) -> None:
        layer = call.operation
        kind = kind_of(layer)
        assert kind is not None
        reason = kind.unfit(layer) or _unfit_state(layer) or _unfit_shape(layer, call)
        if reason:
            self.leave(call, reason)
            return
        linear = keras_activation(layer.activation) in (None, keras.activations.linear)
        role = activation_role(layer.activation, self._request.bits) if not linear else None
        norm = self._norm_behind(call) if linear else None
        made = norm.outputs[0] if norm else call.outputs[0] if linear else self.key()
        self.quantized(call, "", without_activation, call.inputs[0], made, norm)
        if role is not None:
            self.activation(call, layer.activation, made, call.outputs[0], role)

    def _separable(self, call: FlatCall) -> None:
        """Read a separable convolution as the two that TFLite computes."""
        layer = call.operation
        if max(layer.dilation_rate) > 1:
            self.leave(call, "the TFLite converter takes a dilated convolution with trained ranges apart")
            return
        linear = keras_activation(layer.activation) in (None, keras.activations.linear)
        norm = self._norm_behind(call) if linear else None
        between = self.key()
        made = norm.outputs[0] if norm else call.outputs[0] if linear else self.key()
        self.quantized(call, "depthwise", depthwise_of, call.inputs[0], between, None)
        self.quantized(call, "pointwise", pointwise_of, between, made, norm)
        if not linear:
            role = activation_role(layer.activation, self._request.bits)
            self.activation(call, layer.activation, made, call.outputs[0], role)

    def _affine(self, call: FlatCall) -> None:
        layer = call.operation
        reason = unfit_affine(len(call.input_shapes[0])) or _unfit_affine(layer, call)
        if reason:
            self.leave(call, reason)
            return
        norm = call if type(layer) is L.BatchNormalization else None
        self.quantized(call, "", affine_of, call.inputs[0], call.outputs[0], norm)

    def _expansion(self, call: FlatCall) -> None:
        expansion = EXPANSIONS[type(call.operation)]
        reason = expansion.unfit(call, self.bits)
        if reason:
            self.leave(call, reason)
        else:
            expansion.read(self, call)

    def operation(
        self,
        call: FlatCall,
        part: str,
        taken: Sequence[int],
        made: int | None = None,
        role: Role = OBSERVED,
        **how: Any,
    ) -> int:
        """Add a step of arithmetic for a part of a layer, and return the key of what it gives.

        Args:
            call: of the layer.
            part: what this is called, unique in the layer.
            taken: keys of its inputs.
            made: key of its output; a new one if `None`.
            role: what it does to ranges.
            how: what `Operation` takes.
        """
        made = self.key() if made is None else made
        name = self._name(call, part)
        make = functools.partial(Operation, name=name, **how)
        self.steps.append(Step(name, call, (id(call.operation), part), tuple(taken), (made,), role, make))
        return made

    def layer(
        self,
        call: FlatCall,
        part: str,
        kind: type,
        taken: Sequence[int],
        role: Role,
        made: int | None = None,
        **settings: Any,
    ) -> int:
        """Add a step of a new layer without weights for a part of a layer, and return the key of what it gives."""
        made, name = self.key() if made is None else made, self._name(call, part)
        make = functools.partial(kind, name=name, **settings)
        self.steps.append(Step(name, call, (id(call.operation), part), tuple(taken), (made,), role, make))
        return made

    @property
    def bits(self) -> int:
        """Bits of an activation."""
        return self._request.bits

    def _chain(self, call: FlatCall) -> None:
        """Read a sum or product of many tensors as those of two that TFLite computes."""
        before = call.inputs[0]
        for number, key in enumerate(call.inputs[1:], 1):
            last = number == len(call.inputs) - 1
            out, name = call.outputs[0] if last else self.key(), self._name(call, "" if last else str(number))
            kind = type(call.operation)
            make = lambda kind=kind, name=name: kind(name=name)  # noqa: E731
            self.steps.append(Step(name, call, (id(call), number), (before, key), (out,), ARITHMETIC, make))
            before = out

    def activation(self, call: FlatCall, function: Any, taken: int, made: int, role: Role, part: str = "") -> None:
        """Add the step of an activation, of the whole layer or of a part of it."""
        known = activation_of(function) if isinstance(function, L.Layer) else keras_activation(function)
        ending = Ending(unfit=role.unfit) if known is None else ending_of(known, self._request.bits)
        words = part or getattr(known or function, "__name__", "activation")
        layer_name = self._name(call, re.sub(r"\W", "", words))
        if ending.unfit:
            self._note(call, ending.unfit)

        def make() -> Any:
            if known is None:
                return _renamed(clone_layer(function, call.path), layer_name)
            if ending.computed:
                return Composite(ending.computed, self._request.bits, name=layer_name)
            return L.Activation(known, name=layer_name, dtype="float32")

        def finish(layer: Any) -> None:
            if known is None and function.built:  # else its weights are those that it begins with
                copy_weights(function, layer)

        key = id(call.operation), part or "activation"
        self.steps.append(Step(layer_name, call, key, (taken,), (made,), role, make, finish))

    def quantized(
        self,
        call: FlatCall,
        part: str,
        inner: Callable[[Any], tuple[Any, "Fill"]],
        taken: int,
        made: int,
        norm: FlatCall | None = None,
        factor: float = 1.0,
    ) -> None:
        """Add a step with a kernel.

        Args:
            call: of a layer.
            part: of the layer that has the kernel; empty for the whole.
            inner: from the layer to one for `QuantizedWeights`, and what fills its weights in.
            taken: key of its input.
            made: key of its output.
            norm: the BatchNormalization that goes into the kernel.
            factor: by which the output is multiplied.
        """
        layer, path, request = call.operation, _plain_path(call), self._request
        name = self._name(call, part)
        new, fill = inner(layer)
        new = with_bias(new) if request.fold else new
        kind = kind_of(new)
        assert kind is not None
        bits = max(request.bits_of_layers.get(path, request.weight_bits), kind.least_bits)
        if norm is not None:
            self._folded[id(norm)] = norm
        channels = kind.channels(new, fill.kernel.ndim)
        kept = "" if isinstance(new, Affine) else what_to_keep(fill.kernel, channels)
        if kept == VALUES and norm is not None and request.fold:
            kept = CHANNEL_VALUES  # which a normalization multiplies
        normed = None if norm is None else norm.operation
        if all(step.key != (id(layer), part) for step in self.steps):
            kernel = fill.kernel
            self.kernels.append(
                QuantizedKernel(
                    f"{path}/{part}" if part else path,
                    type(layer).__name__,
                    bits,
                    _plain_path(norm) if norm is not None and norm is not call else "",
                    float(np.mean(kernel == 0)) if kept else 0.0,
                    distinct(kernel, kept, channels),
                )
            )

        def make() -> Any:
            norm_copy = None
            if normed is not None and not request.fold:
                norm_copy = type(normed).from_config({**normed.get_config(), "dtype": "float32"})
            dtype = getattr(layer, "compute_dtype", None) or "float32"
            own = 1.0 if request.fold else factor
            masked = bool(layer.supports_masking)
            return QuantizedWeights(new, norm_copy, bits, dtype, request.freeze_norm, kept, own, masked, name=name)

        def finish(one: Any) -> None:
            fill(one.layer)
            one.layer.trainable = layer.trainable and not fill.constant
            if request.fold:
                one.fold(normed, factor)
            elif normed is not None:
                copy_weights(normed, one.norm)
            if kept:
                one.record.take_from(fill.kernel, channels)

        step = Step(name, call, (id(layer), part), (taken,), (made,), ARITHMETIC, make, finish, weights=True)
        self.steps.append(step)

    def _norm_behind(self, call: FlatCall) -> FlatCall | None:
        """Return the BatchNormalization that goes into the kernel of a call."""
        key = call.outputs[0]
        takers = [other for other in self._graph.calls if key in other.inputs]
        if len(takers) != 1 or key in self._graph.outputs or self._counts[id(call.operation)] > 1:
            return None
        (taker,) = takers
        if type(taker.operation) is not L.BatchNormalization or self._counts[id(taker.operation)] > 1:
            return None
        skipped = self._request.skipped.get(_plain_path(taker)) or taker.call.arguments[1].get("training") is True
        return None if skipped or _unfit_affine(taker.operation, taker) else taker

    @property
    def float_names(self) -> tuple[str, ...]:
        """Names, in the new model, of what computes in float."""
        return tuple(dict.fromkeys(step.name for step in self.steps if step.role.unfit))

    @property
    def sources(self) -> dict[str, str]:
        """From the names of steps to the paths of the layers that they come from."""
        return {step.name: _plain_path(step.flat) for step in self.steps}

    def key(self) -> int:
        """Return the key of a tensor that the given model does not have."""
        self._next += 1
        return self._next

    def _name(self, call: FlatCall, part: str) -> str:
        key = (id(call.operation), part)
        if key not in self._named:
            base = _plain_path(call).replace("/", "_")
            self._named[key] = self._names(f"{base}_{part}" if part else base)
        return self._named[key]


def _as_affine(operation: Any) -> bool:
    if type(operation) in (L.BatchNormalization, L.Rescaling, L.Normalization):
        return True
    return type(operation).__name__ == "LayerScale" and type(operation).__module__.startswith("keras.")


def _unfit_affine(layer: Any, call: FlatCall) -> str:
    """Return why a normalization or rescaling is not a number and a shift for each channel."""
    rank = len(call.input_shapes[0])
    if not _is_float(call) or "float" not in str(call.call.inputs[0].dtype):
        return "it takes integers"
    if type(layer) is L.BatchNormalization:
        if has_mask(call.call):
            return "its statistics are of what a mask lets through"
        if layer.axis % rank != rank - 1:
            return f"it normalizes axis {layer.axis}, not the channels, which are last"
        if layer.renorm or layer.synchronized:
            return "it has renorm or synchronized statistics"
    if type(layer) is L.Normalization and (layer.invert or layer.axis not in ((rank - 1,), (-1,), ())):
        return "it normalizes other axes than the channels, or is inverted"
    return ""


def _in_training_mode(call: FlatCall) -> bool:
    """Return whether the model calls a layer with weights in training mode whatever it does itself."""
    has_weights = isinstance(call.operation, L.Layer) and bool(call.operation.trainable_variables)
    return has_weights and call.call.arguments[1].get("training") is True


def _unfit_state(layer: Any) -> str:
    return "it carries LoRA weights" if getattr(layer, "lora_enabled", False) else ""


def _unfit_shape(layer: Any, call: FlatCall) -> str:
    shape = call.input_shapes[0]
    if isinstance(layer, (L.Dense, L.EinsumDense)) and len(shape) > 2 and None in shape[1:]:
        return f"it takes tensors of shape {shape}; in integers TFLite needs all sizes but the batch"
    return ""


def _renamed(layer: Any, name: str) -> Any:
    layer.name = name
    return layer


def _pads_with_numbers(call: FlatCall) -> bool:
    """Return whether a call of `keras.ops.pad` brings numbers in that are not 0, which the range need not hold."""
    args, kwargs = call.call.arguments
    value = kwargs.get("constant_values", args[1] if len(args) > 1 else None)
    return type(call.operation).__name__ == "Pad" and value is not None and bool(np.any(value))


def _divides_by_numbers(call: FlatCall) -> bool:
    """Return whether a call divides a tensor by numbers, which the converter makes a product."""
    args, _ = call.call.arguments
    if type(call.operation).__name__ not in DIVISIONS or len(call.inputs) != 1 or len(args) != 2:
        return False
    return not isinstance(args[1], keras.KerasTensor) and bool(np.all(np.asarray(args[1])))


def _is_float(call: FlatCall) -> bool:
    return all(str(tensor.dtype).startswith(("float", "bfloat")) for tensor in call.call.outputs)


def _plain_path(call: FlatCall) -> str:
    """Return the path without the count of calls."""
    return "/".join(part.partition(" (call ")[0] for part in call.path.split("/"))


def paths_of(graph: FlatGraph) -> Iterable[tuple[str, keras.Operation]]:
    """Yield the path and the operation of every call."""
    return ((_plain_path(call), call.operation) for call in graph.calls)
