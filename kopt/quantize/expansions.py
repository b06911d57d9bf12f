"""Layers that TFLite computes in many operators, as their steps: attention, normalization over features, recurrence."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kopt.graph.masks import has_mask
from kopt.profile.cost.flat import FlatCall
from kopt.quantize import recurrent
from kopt.quantize.affine import Affine
from kopt.quantize.filling import Fill, without_activation
from kopt.quantize.rules import activation_role
from kopt.quantize.steps import SAME

L = keras.layers
# Query and key to scores, scores and value to context: batch, target, source, heads, depth.
_SCORES, _CONTEXT = "btnd,bsnd->bnts", "bnts,bsnd->btnd"


@dataclasses.dataclass(frozen=True)
class Expansion:
    """A row of the table of layers of many operators.

    Attributes:
        unfit: from the call and the bits of activations to why it is not computed in integers; empty if it is.
        read: adds the steps to a `Reader`.
    """

    unfit: Callable[[FlatCall, int], str]
    read: Callable[[Any, FlatCall], None]


def _unfit_normalization(call: FlatCall, bits: int) -> str:
    layer, rank = call.operation, len(call.input_shapes[0])
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if [axis % rank for axis in axes] != [rank - 1]:
        return f"it normalizes the axes {axes}, not the last one"
    if getattr(layer, "rms_scaling", False):
        return "it scales by the root mean square"
    if bits == 16:
        return "the TFLite converter has no reciprocal root of 16 bits"
    return "" if rank <= 4 else f"TFLite has no depthwise convolution over {rank - 2} axes"


def _read_normalization(reader: Any, call: FlatCall) -> None:
    """Add the steps of `(x - mean) / sqrt(variance + epsilon) * gamma + beta`."""
    (taken, *_), (made,) = call.inputs, call.outputs
    layer = call.operation
    mean = reader.operation(call, "mean", [taken], function="mean")
    centered = reader.operation(call, "centered", [taken, mean], function="subtract")
    square = reader.operation(call, "square", [centered], function="square")
    variance = reader.operation(call, "variance", [square], function="mean")
    shifted = reader.operation(call, "epsilon", [variance], function="add", setting=layer.epsilon)
    root = reader.operation(call, "root", [shifted], function="rsqrt", setting=layer.epsilon)
    plain = layer.gamma is None and layer.beta is None
    scaled = reader.operation(call, "scaled", [centered, root], made if plain else None, function="multiply")
    if not plain:
        reader.quantized(call, "", _gamma_and_beta, scaled, made)


def _gamma_and_beta(layer: Any) -> tuple[Any, Fill]:
    channels = (layer.gamma if layer.gamma is not None else layer.beta).shape
    gamma = np.ones(channels, "float32") if layer.gamma is None else layer.gamma.numpy()
    kept = {
        "kernel_regularizer": layer.gamma_regularizer,
        "kernel_constraint": layer.gamma_constraint,
        "bias_regularizer": layer.beta_regularizer,
        "bias_constraint": layer.beta_constraint,
    }
    affine = Affine(use_bias=layer.beta is not None, dtype="float32", **kept)
    return affine, Fill(gamma, None if layer.beta is None else layer.beta.numpy())


def _unfit_attention(call: FlatCall, bits: int) -> str:
    layer = call.operation
    _, kwargs = call.call.arguments
    if has_mask(call.call):
        return "it is called with a mask, for which TFLite has no integer operators"
    if kwargs.get("return_attention_scores"):
        return "it gives its scores away"
    config = layer.get_config()
    if config.get("use_gate") or config.get("sliding_window_size") or config.get("sliding_window"):
        return "it has a gate or a sliding window"
    shapes = call.input_shapes
    if any(len(shape) != 3 or None in shape[1:] for shape in shapes) or layer.attention_axes not in (None, (1,), [1]):
        return "it does not attend over the one axis of sequences of fixed length"
    return ""


def _read_attention(reader: Any, call: FlatCall) -> None:
    """Add the projections, products and the softmax of multi-head attention."""
    layer = call.operation
    query, value, key = _attended(call)
    parts = {"query": (query, layer.query_dense), "key": (key, layer.key_dense), "value": (value, layer.value_dense)}
    made = {}
    for part, (taken, dense) in parts.items():
        made[part] = reader.key()
        factor = float(layer.key_dim) ** -0.5 if part == "query" else 1.0
        reader.quantized(call, part, _inner(dense), taken, made[part], factor=factor)
    scores = reader.operation(call, "scores", [made["query"], made["key"]], function="einsum", setting=_SCORES)
    shares = reader.key()
    role = activation_role(keras.activations.softmax, reader.bits)
    reader.activation(call, keras.activations.softmax, scores, shares, role)
    if layer.dropout:
        shares = reader.layer(call, "dropout", L.Dropout, [shares], SAME, rate=layer.dropout)
    context = reader.operation(call, "context", [shares, made["value"]], function="einsum", setting=_CONTEXT)
    reader.quantized(call, "output", _inner(layer.output_dense), context, call.outputs[0])


def _attended(call: FlatCall) -> tuple[int, int, int]:
    """Return query, value and key of a call, however they were passed."""
    args, kwargs = call.call.arguments
    given = inspect.signature(call.operation.call).bind(*args, **kwargs).arguments
    keys = {id(tensor): key for tensor, key in zip(call.call.inputs, call.inputs, strict=True)}
    query, value, key = (given.get(name) for name in ("query", "value", "key"))
    return keys[id(query)], keys[id(value)], keys[id(value if key is None else key)]


def _inner(dense: Any) -> Callable[[Any], tuple[Any, Fill]]:
    return lambda layer: without_activation(dense)


EXPANSIONS: dict[type, Expansion] = {
    L.LayerNormalization: Expansion(_unfit_normalization, _read_normalization),
    L.MultiHeadAttention: Expansion(_unfit_attention, _read_attention),
    **dict.fromkeys((*recurrent.STEPS, L.Bidirectional), Expansion(recurrent.unfit, recurrent.read)),
}
