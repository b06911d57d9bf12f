"""Recurrent layers over few steps as the products, sums and activations that TFLite computes in integers.

TFLite's loops have no integers, and of its recurrent operators only an LSTM's has. Unrolled, every step of time is made
of operators that have. The kernels are there once; every step has ranges of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kopt.graph.masks import has_mask
from kopt.profile.cost.flat import FlatCall
from kopt.quantize.activations import ending_of
from kopt.quantize.affine import Affine
from kopt.quantize.filling import Fill
from kopt.quantize.rules import activation_role
from kopt.quantize.steps import ARITHMETIC, SAME, TIED, UNTIED

L = keras.layers
MOST_STEPS = 64  # of time; each is a dozen operators
_MERGES = {"concat": L.Concatenate, "sum": L.Add, "mul": L.Multiply}


def unfit(call: FlatCall, bits: int) -> str:
    """Return why a call of a recurrent layer stays in float; empty if it does not."""
    layer, shape = call.operation, call.input_shapes[0]
    if has_mask(call.call):
        return "it is called with a mask, for which TFLite has no integer operators"
    if shape[1] is None or shape[1] > MOST_STEPS:
        return f"it goes over {shape[1] or 'any number of'} steps; up to {MOST_STEPS} are unrolled for integers"
    if bits == 16 and (layer.return_sequences or getattr(layer, "merge_mode", "") == "concat"):
        return UNTIED
    if isinstance(layer, L.Bidirectional):
        return _unfit_both_ways(layer, call) or _unfit_layer(layer.forward_layer) or _unfit_layer(layer.backward_layer)
    return _unfit_layer(layer)


def read(reader: Any, call: FlatCall) -> None:
    """Add the steps of a recurrent layer."""
    layer = call.operation
    if isinstance(layer, L.Bidirectional):
        _read_both_ways(reader, call)
        return
    unrolling = _Unrolling(reader, call, layer, "", call.inputs[1:])
    given = (unrolling.read(), *unrolling.states)
    for number, (made, key) in enumerate(zip(given, call.outputs, strict=False)):
        reader.layer(call, f"given_{number}", L.Identity, [made], SAME, key)


class _Unrolling:
    """The steps of one recurrent layer.

    Attributes:
        states: keys of the last ones.
    """

    def __init__(self, reader: Any, call: FlatCall, layer: Any, prefix: str, states: Sequence[int] = ()):
        """Take the layer of a call, or a part of it, and keys of the states it begins with; none: they are zero."""
        self.layer, self.states = layer, tuple(states)
        self._reader, self._call, self._prefix, self._time = reader, call, prefix, 0

    def read(self) -> int:
        """Add the steps, and return the key of the output."""
        columns = self.kernel("kernel", self._call.inputs[0], _input_kernel)
        times = range(self._call.input_shapes[0][1] or 0)  # `unfit` lets no open number pass
        outputs = []
        for time in reversed(times) if self.layer.go_backwards else times:
            self._time = time
            now = self.operation("step", [columns], function="step", setting=time, role=SAME)
            self.states = STEPS[type(self.layer)](self, now, self.states)
            outputs.append(self.states[0])
        if not self.layer.return_sequences:
            return self.states[0]
        if _runs_back(self._call.operation, self.layer):
            outputs.reverse()
        return self._reader.operation(self._call, f"{self._prefix}sequence", outputs, function="stack", role=TIED)

    def operation(self, part: str, taken: Sequence[int], **how: Any) -> int:
        """Add arithmetic of this step, and return the key of what it gives."""
        return self._reader.operation(self._call, f"{self._prefix}{part}_{self._time}", taken, **how)

    def kernel(self, part: str, taken: int, inner: Callable[[Any], tuple[Any, Fill]]) -> int:
        """Add a product with a kernel that all steps share, and return the key of what it gives."""
        made = self._reader.key()
        self._reader.quantized(self._call, f"{self._prefix}{part}", lambda _: inner(self.layer), taken, made)
        return made

    def activated(self, part: str, function: Any, taken: int) -> int:
        """Add an activation, and return the key of what it gives."""
        if function is keras.activations.linear:
            return taken
        made, role = self._reader.key(), activation_role(function, self._reader.bits)
        self._reader.activation(self._call, function, taken, made, role, f"{self._prefix}{part}_{self._time}")
        return made

    def block(self, part: str, taken: int, number: int) -> int:
        """Take a block of columns, and return its key."""
        ends = [number * self.layer.units, (number + 1) * self.layer.units]
        return self.operation(part, [taken], function="columns", setting=ends, role=SAME)

    def sum(self, part: str, *taken: int) -> int:
        """Add a sum."""
        return self.operation(part, taken, function="sum", role=ARITHMETIC)

    def difference(self, part: str, *taken: int) -> int:
        """Add a difference."""
        return self.operation(part, taken, function="subtract", role=ARITHMETIC)

    def product(self, part: str, *taken: int) -> int:
        """Add a product."""
        return self.operation(part, taken, function="multiply", role=ARITHMETIC)


def _simple(unrolling: _Unrolling, columns: int, states: Sequence[int]) -> tuple[int, ...]:
    if states:
        columns = unrolling.sum("sum", columns, unrolling.kernel("recurrent", states[0], _recurrent_kernel))
    return (unrolling.activated("output", unrolling.layer.activation, columns),)


def _lstm(unrolling: _Unrolling, columns: int, states: Sequence[int]) -> tuple[int, ...]:
    layer = unrolling.layer
    if states:
        columns = unrolling.sum("sum", columns, unrolling.kernel("recurrent", states[0], _recurrent_kernel))

    def gate(name: str, number: int, function: Any) -> int:
        return unrolling.activated(name, function, unrolling.block(f"{name}_block", columns, number))

    taken, shown = (gate(name, number, layer.recurrent_activation) for name, number in (("input", 0), ("shown", 3)))
    carried = unrolling.product("taken", taken, gate("candidate", 2, layer.activation))
    if states:
        kept = unrolling.product("kept", gate("forget", 1, layer.recurrent_activation), states[1])
        carried = unrolling.sum("carried", kept, carried)
    return unrolling.product("output", shown, unrolling.activated("carried_end", layer.activation, carried)), carried


def _gru(unrolling: _Unrolling, columns: int, states: Sequence[int]) -> tuple[int, ...]:
    """The new state is `candidate + update * (state - candidate)`."""
    layer = unrolling.layer
    update, reset, candidate = (unrolling.block(f"block_{number}", columns, number) for number in range(3))
    again = None
    if states:
        again = unrolling.kernel("recurrent", states[0], _recurrent_kernel if layer.reset_after else _gates_kernel)
        update = unrolling.sum("update_sum", update, unrolling.block("update_again", again, 0))
        reset = unrolling.sum("reset_sum", reset, unrolling.block("reset_again", again, 1))
    update = unrolling.activated("update", layer.recurrent_activation, update)
    reset = unrolling.activated("reset", layer.recurrent_activation, reset)
    remembered = _remembered(unrolling, reset, states, again)
    if remembered is not None:
        candidate = unrolling.sum("candidate_sum", candidate, remembered)
    candidate = unrolling.activated("candidate", layer.activation, candidate)
    if not states:
        return (unrolling.difference("output", candidate, unrolling.product("part", update, candidate)),)
    change = unrolling.product("part", update, unrolling.difference("change", states[0], candidate))
    return (unrolling.sum("output", candidate, change),)


def _remembered(unrolling: _Unrolling, reset: int, states: Sequence[int], again: int | None) -> int | None:
    """Return what of the state goes into a candidate; `None` if there is nothing."""
    layer = unrolling.layer
    if again is not None and layer.reset_after:
        return unrolling.product("remembered", reset, unrolling.block("candidate_again", again, 2))
    if states:
        return unrolling.kernel(
            "candidate_recurrent", unrolling.product("reset_state", reset, states[0]), _candidate_kernel
        )
    # Of a state of zeros the bias is left, here in a kernel of its own.
    return unrolling.kernel("first_bias", reset, _candidate_bias) if layer.reset_after and layer.use_bias else None


# From the unrolling, the columns for a step of time and the states to the new states, of which the first is the output.
STEPS: dict[type, Callable[[_Unrolling, int, Sequence[int]], tuple[int, ...]]] = {
    L.SimpleRNN: _simple,
    L.LSTM: _lstm,
    L.GRU: _gru,
}


def _unfit_layer(layer: Any) -> str:
    if type(layer) not in STEPS:
        return f"no rule says how TFLite computes a {type(layer).__name__}"
    if layer.stateful:
        return "it is stateful"
    if layer.dropout or layer.recurrent_dropout:
        return "its `dropout` would be lost in a copy, where a Dropout layer before it is kept"
    functions = [layer.activation, getattr(layer, "recurrent_activation", None)]
    return next((reason for one in functions if one is not None and (reason := ending_of(one, 8).unfit)), "")


def _unfit_both_ways(layer: Any, call: FlatCall) -> str:
    if len(call.inputs) > 1 or layer.return_state:
        return "it takes or gives states in two directions"
    if layer.merge_mode not in _MERGES:
        return f"its `merge_mode` {layer.merge_mode!r} has no rule"
    return ""


def _read_both_ways(reader: Any, call: FlatCall) -> None:
    layer = call.operation
    ways = ((layer.forward_layer, "forward_"), (layer.backward_layer, "backward_"))
    ends = [_Unrolling(reader, call, one, prefix).read() for one, prefix in ways]
    role = TIED if layer.merge_mode == "concat" else ARITHMETIC
    reader.layer(call, "merged", _MERGES[layer.merge_mode], ends, role, call.outputs[0])


def _runs_back(operation: Any, layer: Any) -> bool:
    """Return whether the sequence of a layer is turned round: that of the second direction."""
    return isinstance(operation, L.Bidirectional) and layer is operation.backward_layer


def _dense(layer: Any, columns: slice, kernel: Any, bias: Any, which: str) -> tuple[Any, Fill]:
    """Return a dense layer for some columns of a kernel, with the settings that the layer has for all of them."""
    settings = {"kernel_regularizer": f"{which}_regularizer", "kernel_constraint": f"{which}_constraint"}
    settings = {name: getattr(layer, own) for name, own in settings.items()}
    if bias is not None:
        settings |= {"bias_regularizer": layer.bias_regularizer, "bias_constraint": layer.bias_constraint}
    part = kernel.numpy()[:, columns]
    bias = None if bias is None else bias[columns]
    return L.Dense(part.shape[1], use_bias=bias is not None, dtype="float32", **settings), Fill(part, bias)


def _biases(layer: Any) -> tuple[Any, Any]:
    """Return the biases of input and recurrent kernel, `None` where there is none.

    A GRU that resets after its product has both. Of the second only what the reset gate multiplies stays there: sums
    before the gates are the same, and the first step has no recurrent product.
    """
    if layer.cell.bias is None:
        return None, None
    bias = layer.cell.bias.numpy()
    if bias.ndim == 1:
        return bias, None
    gates = np.arange(bias.shape[1]) < 2 * layer.units
    return bias[0] + np.where(gates, bias[1], 0), np.where(gates, 0, bias[1])


def _input_kernel(layer: Any) -> tuple[Any, Fill]:
    bias, _ = _biases(layer)
    return _dense(layer, slice(None), layer.cell.kernel, bias, "kernel")


def _recurrent_kernel(layer: Any) -> tuple[Any, Fill]:
    _, bias = _biases(layer)
    return _dense(layer, slice(None), layer.cell.recurrent_kernel, bias, "recurrent")


def _gates_kernel(layer: Any) -> tuple[Any, Fill]:
    return _dense(layer, slice(2 * layer.units), layer.cell.recurrent_kernel, None, "recurrent")


def _candidate_kernel(layer: Any) -> tuple[Any, Fill]:
    return _dense(layer, slice(2 * layer.units, None), layer.cell.recurrent_kernel, None, "recurrent")


def _candidate_bias(layer: Any) -> tuple[Any, Fill]:
    _, bias = _biases(layer)
    return Affine(use_bias=False, dtype="float32"), Fill(np.asarray(bias)[2 * layer.units :])
