"""Which parts of a model do not stand 16 bits, and why."""

from typing import Any

import keras

from kopt.graph import Call, GraphView
from kopt.train.internals import prepares_input

_L = keras.layers

# Activations that sum exponentials, or whose values leave float16 at an input of 11.
_ACTIVATIONS = ("exponential", "log_softmax", "softmax", "sparsemax")

_LAYERS = {
    _L.Softmax: "a softmax sums exponentials",
    _L.UnitNormalization: "sums squares in the type it computes in",
    _L.SpectralNormalization: "writes the kernel back in the type it computes in",
}

# Classes of `keras.ops` nodes.
_EXPONENTIALS = {"Exp", "Exp2", "Expm1", "Logaddexp", "Logaddexp2", "Logsumexp", "Softmax", "LogSoftmax", "Sparsemax"}
_LOGARITHMS = {"Log", "Log10", "Log1p", "Log2"}
_SUMS = {"Cumsum", "Cumprod", "Norm", "Prod", "Std", "Var"}
_LOSSES = {"BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"}
_OPERATIONS = _EXPONENTIALS | _LOGARITHMS | _SUMS | _LOSSES

# Layers that move numbers and do not change them: what gives the number stands before them.
_MOVING = (_L.Flatten, _L.Identity, _L.Permute, _L.RepeatVector, _L.Reshape)


def fragile_layer(layer: keras.layers.Layer) -> str | None:
    """Return why `layer` should compute in float32; `None` if it need not."""
    for kind, reason in _LAYERS.items():
        if isinstance(layer, kind):
            return reason
    activation = getattr(getattr(layer, "activation", None), "__name__", None)
    if activation in _ACTIVATIONS:
        return f"its activation is {activation}"
    if layer.activity_regularizer is not None:
        return "its activity regularizer sums over the output"
    if prepares_input(layer):
        return "prepares inputs that are not scaled yet"
    return None


def output_reasons(view: GraphView) -> dict[int, str]:
    """Return why layers must give float32, by the layers' `id`: they give an output, or feed a fragile operation.

    `keras.ops` between a layer and the output compute in the type they are given, so the layer before them counts.
    """
    reasons: dict[int, str] = {}
    _trace_back(view, dict.fromkeys(map(id, view.outputs), "gives an output of the model"), reasons)
    return reasons


def _trace_back(view: GraphView, wanted: dict[int, str], reasons: dict[int, str]) -> dict[int, str]:
    """Follow tensors that are wanted in float32, by `id`, to the layers that give them; return all that are wanted."""
    for call in reversed(view.calls):
        reason = next((wanted[id(tensor)] for tensor in call.outputs if id(tensor) in wanted), None)
        if call.nested is not None:
            inner = zip(call.nested.outputs, call.outputs, strict=True)
            inside = {id(mine): wanted[id(outer)] for mine, outer in inner if id(outer) in wanted}
            found = _trace_back(call.nested, inside, reasons)
            outer_inputs = zip(call.nested.inputs, _data_inputs(call), strict=False)
            wanted.update({id(outer): found[id(mine)] for mine, outer in outer_inputs if id(mine) in found})
            continue
        if isinstance(call.operation, keras.layers.Layer):
            if reason is not None:
                reasons[id(call.operation)] = reason
            follow = reason is not None and isinstance(call.operation, _MOVING)
        else:
            if reason is None and type(call.operation).__name__ in _OPERATIONS:
                reason = f"feeds the operation {call.operation.name!r}"
            follow = reason is not None
        if follow and reason is not None:
            wanted.update(dict.fromkeys(map(id, call.inputs), reason))
    return wanted


def _data_inputs(call: Call) -> list[Any]:
    return keras.tree.flatten(call.arguments[0])
