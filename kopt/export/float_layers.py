"""Which layers of a model are in float in a `.tflite` file: what their tensors are called, and which can be."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kopt.core.errors import ConfigError, UnsupportedModelError, nearest
from kopt.core.schemes import get_scheme
from kopt.export.fused_rnn import fused_source
from kopt.export.inspection import inspect_tflite, output_named
from kopt.export.source import Source
from kopt.graph import GraphView, signature

_PART_OF_OPERATOR = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.BatchNormalization,
    keras.layers.Identity,
)


def tensor_patterns(model: Any, layers: Sequence[str]) -> list[str]:
    """Return a regular expression for the tensors that each layer writes.

    Keras opens a layer's name scope twice, so that the operators of layer `conv` stand under `conv_1`.
    """
    model = model.model if isinstance(model, Source) else model
    if model is not None and layers:
        known = [path for path, _ in GraphView.of(model).walk()]
        for layer in layers:
            if layer not in known:
                raise ConfigError(f"`fallback` names no layer {layer!r}.{nearest(layer, known)}")
    # Of a SavedModel made elsewhere it is not known how its scopes came about.
    suffix = "_[0-9]+" if model is not None else "(_[0-9]+)?"
    scopes = ["/".join(re.escape(part) + suffix for part in layer.split("/")) for layer in layers]
    # From the model on, so that a layer of a nested model is not taken for one of the same name outside.
    start = "(^|/|;)" if model is None else f"(^|[; ]){re.escape(model.name)}(_[0-9]+)?/"
    return [f"{start}{scope}(/|$)" for scope in scopes]


def patterns_of(trained: Any, layers: Sequence[str]) -> list[str]:
    """Return regular expressions for the tensors that layers of a trained copy write; see `tensor_patterns`."""
    model = re.escape(trained.name)
    return [f"(^|[; ]){model}(_[0-9]+)?/{re.escape(name)}_[0-9]+(/|$)" for name in layers]


def patterns_of_float_layers(trained: Any) -> list[str]:
    """Return the same for the layers of a trained copy that compute in float."""
    layers = {layer.name for layer in trained.layers}
    return patterns_of(trained, [name for name in getattr(trained, "float_layers", ()) if name in layers])


def patterns_of_outputs(float_outputs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return regular expressions for the outputs that `float_outputs_of` finds, as `inspect_tflite` names them."""
    return [f" {re.escape(output_named(name))}$" for names in float_outputs.values() for name in names]


def has_float_operations(trained: Any) -> bool:
    """Return whether operations of `keras.ops` compute in float, whose tensors do not carry their names."""
    layers = {layer.name for layer in trained.layers}
    return any(name not in layers for name in getattr(trained, "float_layers", ()))


def float_outputs_of(model: Any, layers: Sequence[str], patterns: Sequence[str]) -> dict[str, list[str]] | None:
    """Return, by the pattern of a layer, the outputs of the model that it gives, whose tensors have other names.

    `None` for a SavedModel made elsewhere, whose layers are not known.
    """
    model = model.model if isinstance(model, Source) else model
    if model is None or not layers:
        return None
    view, (_, infos) = GraphView.of(model), signature(model)
    found: dict[str, list[str]] = {}
    for layer, pattern in zip(layers, patterns, strict=True):
        names = [i.name for i, one in zip(infos, view.outputs, strict=True) if layer in _behind(view, one, "")]
        if names:
            found[pattern] = names
    return found


def layers_in_float(source: Source, path: str | os.PathLike[str], layers: Sequence[str]) -> tuple[str, ...]:
    """Return which of these layers compute in float in a file of `source`, as far as its tensors have their names."""
    operators = inspect_tflite(Path(path)).float_operators
    patterns = tensor_patterns(source, layers)
    outputs = float_outputs_of(source, layers, patterns) or {}

    def is_float(pattern: str) -> bool:
        own = (pattern, *patterns_of_outputs({pattern: outputs.get(pattern, ())}))
        return any(re.search(one, operator) for one in own for operator in operators)

    return tuple(layer for layer, pattern in zip(layers, patterns, strict=True) if is_float(pattern))


def free_layers(source: Source) -> frozenset[str] | None:
    """Return the layers that `fallback` can name in an int8 file, if an LSTM is fused in it; `None`: all.

    Of the tensors of such a file only the outputs are known by their layers.

    Raises:
        UnsupportedModelError: the model has an RNN for which there is no integer operator.
    """
    if not source.has_loop:
        return None
    fused_source(source, get_scheme("int8"))
    return _beside_fused(source)


def require_free(source: Source, fallback: Sequence[str]) -> None:
    """Raise if layers are to stay in float that cannot beside a fused LSTM.

    Raises:
        UnsupportedModelError: names them.
    """
    free = _beside_fused(source)
    held = [name for name in fallback if name not in free]
    if held:
        raise UnsupportedModelError(
            f"{', '.join(held)} of {source.name} cannot stay in float in this file, in which an LSTM is one integer "
            f"operator: `fallback` takes layers there whose outputs are those of the model "
            f"({', '.join(sorted(free)) or 'it has none'}). Make the file of a copy of "
            f"`kopt.quantize.post_training` or `aware` with `skip={held!r}`."
        )


def _beside_fused(source: Source) -> frozenset[str]:
    view = GraphView.of(source.model)
    recurrent = {path for path, layer in view.walk() if isinstance(layer, keras.layers.RNN)}
    return frozenset(path for one in view.outputs for path in _behind(view, one, "")) - recurrent


def _behind(view: GraphView, tensor: Any, prefix: str) -> Iterator[str]:
    """Yield the paths of the layers that may be part of the operator which writes a tensor, last one first."""
    call = view.producer(tensor)
    if call is None:
        return
    if call.nested is not None:
        place = [id(one) for one in call.outputs].index(id(tensor))
        yield from _behind(call.nested, call.nested.outputs[place], f"{prefix}{call.operation.name}/")
        return
    yield f"{prefix}{call.operation.name}"
    if isinstance(call.operation, _PART_OF_OPERATOR) or hasattr(call.operation, "rounds_output"):
        yield from _behind(view, call.inputs[0], prefix)
